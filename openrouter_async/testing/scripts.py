"""Which request meets which fault, and which has to wait."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import attrs

from openrouter_async.testing.faults import Fault


class Script:
    """Faults for the next requests, one each."""

    def __init__(self) -> None:
        self._faults: deque[Fault] = deque()

    def add(self, *faults: Fault) -> None:
        """Put faults at the end."""
        self._faults.extend(faults)

    def next(self) -> Fault | None:
        """The fault of the next request; None when it has none."""
        if not self._faults:
            return None
        fault = self._faults.popleft()
        if fault.count > 1:
            self._faults.appendleft(fault.times(fault.count - 1))
        return fault

    def __len__(self) -> int:
        return sum(fault.count for fault in self._faults)


@attrs.define
class RateLimit:
    """So many requests per second, and at once no more than that.

    Args:
        per_second: How many.
        now: Gives seconds from an arbitrary start.

    See Also:
        The generic cell rate algorithm, as in ITU-T I.371: one number says when the next request is due.
    """

    per_second: float
    now: Callable[[], float]
    _due: float = attrs.field(default=-math.inf, init=False)

    def take(self) -> float:
        """Let a request in, and give 0; or give the seconds after which one will be let in."""
        now = self.now()
        interval = 1 / self.per_second
        due = max(self._due, now)
        # A fraction of a second must not be lost to rounding.
        wait = due - now - max(1.0 - interval, 0.0)
        if wait > 1e-9:
            return wait
        self._due = due + interval
        return 0.0
