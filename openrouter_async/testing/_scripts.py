"""Which request meets which fault, and which has to wait."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

import attrs

from openrouter_async.errors import RequestValidationError
from openrouter_async.testing.faults import FAULT_PREFIX, Fault

_MOST_CODES: Final = 10_000
_TOLERANCE: Final = 1e-9


class FaultQueue:
    """Faults for the next requests, one each, and for those whose codes ask for one."""

    def __init__(self) -> None:
        self._faults: deque[Fault] = deque()
        self._met: OrderedDict[str, int] = OrderedDict()

    def add(self, *faults: Fault) -> None:
        """Put faults at the end."""
        self._faults.extend(faults)

    def next(self, code: str | None = None) -> Fault | None:
        """The fault of the next request; None when it has none.

        Args:
            code: The code that the request redeems; None when it redeems none.
        """
        if self._faults:
            fault = self._faults.popleft()
            if fault.count > 1:
                self._faults.appendleft(fault.times(fault.count - 1))
            return fault
        named = None if code is None else FAULT_PREFIX.match(code)
        return None if code is None or named is None else self._asked_for(code, named["spec"])

    def __len__(self) -> int:
        return sum(fault.count for fault in self._faults)

    def _asked_for(self, code: str, spec: str) -> Fault | None:
        try:
            fault = Fault.from_spec(spec)
        except RequestValidationError:
            # A slip of the pen must not make a test pass.
            return Fault.status(400, message="The code asks for a fault that there is not")
        met = self._met.pop(code, 0)
        self._met[code] = met + 1
        if len(self._met) > _MOST_CODES:
            self._met.popitem(last=False)
        return fault if met < fault.count else None


@attrs.define
class RateLimit:
    """So many requests per second, and as many at once when there were none before.

    Args:
        per_second: How many.
        now: Gives seconds from an arbitrary start.

    See Also:
        The generic cell rate algorithm (ITU-T I.371): one number says when the next request is due.
    """

    per_second: float
    now: Callable[[], float]
    _due: float = attrs.field(default=-math.inf, init=False)

    def take(self) -> float:
        """Let a request in, and give 0; or give the seconds after which one is let in."""
        now, interval = self.now(), 1 / self.per_second
        due = max(self._due, now)
        wait = due - now - max(1.0 - interval, 0.0)
        if wait > _TOLERANCE:
            return wait
        self._due = due + interval
        return 0.0
