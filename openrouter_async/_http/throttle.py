"""Consideration for a server in trouble: pauses that it asks for, and a budget for retries."""

from __future__ import annotations

from typing import Final, NamedTuple

from yarl import URL

from openrouter_async._values.clock import Clock

RETRY_COST: Final = 5.0
TIMEOUT_COST: Final = 10.0
SUCCESS_REFUND: Final = 1.0

# Longer than a code lives, a pause is of no use to a caller, and one odd header must not stop a client for a day.
_LONGEST_PAUSE: Final = 600.0
_SPREAD: Final = 0.2
_LEAST_SPREAD: Final = 0.05


class RetryBudget:
    """A token bucket that keeps retries to a fraction of the traffic when a server is down.

    It works as the standard retry mode of the AWS SDKs does.
    """

    def __init__(self, capacity: float) -> None:
        self._capacity = capacity
        self.tokens = capacity

    def spend(self, cost: float) -> bool:
        """Take the cost of a retry; False when the bucket does not hold it."""
        if cost > self.tokens:
            return False
        self.tokens -= cost
        return True

    def refund(self, amount: float) -> None:
        """Give back after a success."""
        self.tokens = min(self._capacity, self.tokens + amount)


class _Pause(NamedTuple):
    until: float
    spread: float


class HostThrottle:
    """What a client knows of each host's trouble; shared by all its calls."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pauses: dict[URL, _Pause] = {}
        self._budgets: dict[tuple[URL, float], RetryBudget] = {}

    @property
    def is_idle(self) -> bool:
        """Whether no host is known to be in trouble."""
        return not (self._pauses or self._budgets)

    def pause(self, origin: URL, seconds: float) -> bool:
        """Hold back all calls to a host; a longer pause that is under way stays. Whether none was under way."""
        seconds = min(seconds, _LONGEST_PAUSE)
        until = self._clock.monotonic() + seconds
        known = self._pauses.get(origin)
        if known is None or known.until < until:
            self._pauses[origin] = _Pause(until, max(_LEAST_SPREAD, seconds * _SPREAD))
        return known is None or known.until <= until - seconds

    def paused(self, origin: URL) -> float:
        """Seconds until a host may be called; 0 when it may be now."""
        if not self._pauses or (pause := self._pauses.get(origin)) is None:
            return 0.0
        remaining = pause.until - self._clock.monotonic()
        if remaining <= 0:
            self._pauses.pop(origin, None)
            return 0.0
        return remaining

    def spread(self, origin: URL) -> float:
        """Seconds that one waiter adds to a pause, drawn by chance, so that they do not leave as a herd."""
        pause = self._pauses.get(origin)
        return 0.0 if pause is None else pause.spread * self._clock.random()

    def spend(self, origin: URL, capacity: float | None, cost: float) -> bool:
        """Take the cost of a retry from a host's budget; False when it is used up. A capacity of None has no bound."""
        if capacity is None:
            return True
        budget = self._budgets.get((origin, capacity))
        if budget is None:
            budget = self._budgets[origin, capacity] = RetryBudget(capacity)
        return budget.spend(cost)

    def refund(self, origin: URL, capacity: float | None, amount: float) -> None:
        """Give back to a host's budget after a success."""
        # A budget that nothing was taken from is full, and does not exist yet.
        if self._budgets and capacity is not None and (budget := self._budgets.get((origin, capacity))) is not None:
            budget.refund(amount)

    @property
    def pauses(self) -> dict[str, float]:
        """Seconds that each paused host must still be left alone, by its origin."""
        return {str(origin): left for origin in tuple(self._pauses) if (left := self.paused(origin)) > 0}

    @property
    def budgets(self) -> dict[str, float]:
        """Tokens that are left for each host that needed some, by its origin; with several capacities the fewest."""
        left: dict[str, float] = {}
        for (origin, _), budget in self._budgets.items():
            left[str(origin)] = min(budget.tokens, left.get(str(origin), budget.tokens))
        return left
