"""The assignment of faults to requests, and the rate limit."""

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
    """Faults for the next requests, one each, and for requests whose codes ask for one."""

    def __init__(self) -> None:
        self._faults: deque[Fault] = deque()
        self._met: OrderedDict[str, int] = OrderedDict()

    def add(self, *faults: Fault) -> None:
        """Append faults to the queue."""
        self._faults.extend(faults)

    def next(self, code: str | None = None) -> Fault | None:
        """Take the fault of the next request.

        Args:
            code: The code that the request redeems; None if it redeems none.

        Returns:
            The fault; None if the request has none.
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
            # A misspelt fault must fail the test, not be ignored.
            return Fault.status(400, message="The code asks for a fault that there is not")
        met = self._met.pop(code, 0)
        self._met[code] = met + 1
        if len(self._met) > _MOST_CODES:
            self._met.popitem(last=False)
        return fault if met < fault.count else None


@attrs.define
class RateLimit:
    """A limit of requests per second, with a burst of the same number after a pause.

    Args:
        per_second: The number of requests per second.
        now: Returns the seconds since an arbitrary start.

    See Also:
        The generic cell rate algorithm (ITU-T I.371), whose only state is the time at which the next request is due.
    """

    per_second: float
    now: Callable[[], float]
    _due: float = attrs.field(default=-math.inf, init=False)

    def take(self) -> float:
        """Accept a request if the limit allows.

        Returns:
            0 if the request was accepted, else the seconds until one will be.
        """
        now, interval = self.now(), 1 / self.per_second
        due = max(self._due, now)
        wait = due - now - max(1.0 - interval, 0.0)
        if wait > _TOLERANCE:
            return wait
        self._due = due + interval
        return 0.0
