"""Throttling by host: shared pauses, probes that end them, and a budget for retries."""

from __future__ import annotations

import math
from typing import Final

from yarl import URL

from openrouter_async._http.pace import Pace
from openrouter_async._values.clock import Clock

RETRY_COST: Final = 5.0
TIMEOUT_COST: Final = 10.0
SUCCESS_REFUND: Final = 1.0

MAX_PAUSE: Final = 60.0
"""The maximum length of a shared pause in seconds: a single odd header must not stop a client for a day."""

# One node behind a load balancer may be unhealthy while the others work, so a single 503 pauses no other call.
_MIN_UNAVAILABLE: Final = 3
_INITIAL_PROBE_INTERVAL: Final = 1.0
_MAX_PROBE_INTERVAL: Final = 10.0
_SPREAD: Final = 0.2
_MIN_SPREAD: Final = 0.05


class _Pause:
    """A period in which no requests are sent to a host, except for one probe at a time."""

    def __init__(self, now: float, seconds: float) -> None:
        self.began = now
        self.until = now
        self.spread = 0.0
        self.is_probing = False
        self.probe_interval = _INITIAL_PROBE_INTERVAL
        self.next_probe = now + _INITIAL_PROBE_INTERVAL
        self.extend(now, seconds)

    def extend(self, now: float, seconds: float) -> None:
        """Make the pause last at least this many seconds from now."""
        if now + seconds > self.until:
            self.until = now + seconds
            self.spread = max(_MIN_SPREAD, seconds * _SPREAD)


class HostThrottle:
    """The pauses and retry budgets of each host, shared by all calls of a client."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pauses: dict[URL, _Pause] = {}
        self._unavailable: dict[URL, int] = {}
        self._paces: dict[URL, Pace] = {}
        # Only of hosts whose bucket is not full, so that a healthy host costs nothing.
        self._spent: dict[URL, float] = {}

    @property
    def is_idle(self) -> bool:
        """Whether no host is paused, failed lately, limits batches, or has a reduced retry budget."""
        return not (self._pauses or self._spent or self._unavailable or self._paces)

    def pause(self, origin: URL, seconds: float) -> bool:
        """Pause all calls to a host, for at most `MAX_PAUSE` seconds; a longer pause under way is kept.

        Returns:
            Whether this began a new pause.
        """
        now, seconds = self._clock.monotonic(), min(seconds, MAX_PAUSE)
        if self.pause_remaining(origin) > 0:
            self._pauses[origin].extend(now, seconds)
            return False
        self._pauses[origin] = _Pause(now, seconds)
        return True

    def note_failure(self, origin: URL, status: int, retry_after: float | None) -> bool:
        """Record a status that asks for a wait: a 429 pauses the host, a 503 only as the third in a row.

        Returns:
            Whether this began a new pause.
        """
        if retry_after is None or status not in (429, 503):
            return False
        if status == 503:
            self._unavailable[origin] = self._unavailable.get(origin, 0) + 1
            if self._unavailable[origin] < _MIN_UNAVAILABLE:
                return False
        return self.pause(origin, retry_after)

    def note_success(self, origin: URL, sent_at: float, *, is_batched: bool = False) -> None:
        """Record a success: it ends a pause that began before its request was sent, and raises the rate of batches."""
        self._unavailable.pop(origin, None)
        if (pace := self._paces.get(origin)) is not None:
            if is_batched:
                pace.note_success()
            if pace.is_over(self._clock.monotonic()):
                del self._paces[origin]
        pause = self._pauses.get(origin)
        if pause is not None and sent_at >= pause.began:
            del self._pauses[origin]

    def pace(self, origin: URL) -> Pace | None:
        """Return the rate that limits batches to a host; None while nothing does."""
        pace = self._paces.get(origin)
        return pace if pace is not None and pace.is_limiting else None

    def note_batch_rejection(self, origin: URL, status: int, retry_after: float | None, sent_at: float) -> bool:
        """Record the answer to a request of a batch: a 429, or a 503 that does not say when to come back.

        A 503 with ``Retry-After`` means that the server is down. Without it, it may mean the same as a 429: nginx's
        ``limit_req`` answers so unless it is configured otherwise.

        Returns:
            Whether this reduced the rate of batches.
        """
        if status != 429 and not (status == 503 and retry_after is None):
            return False
        pace = self._paces.get(origin)
        if pace is None:
            self._paces[origin] = Pace(self._clock.monotonic())
            return False
        return pace.note_rejection(sent_at, self._clock.monotonic())

    def pause_remaining(self, origin: URL) -> float:
        """Return the seconds until a host may be called; 0 when it may be called now."""
        if not self._pauses or (pause := self._pauses.get(origin)) is None:
            return 0.0
        remaining = pause.until - self._clock.monotonic()
        if remaining <= 0:
            del self._pauses[origin]
            return 0.0
        return remaining

    def probe_delay(self, origin: URL) -> float:
        """Return the seconds until a paused host may be probed; infinity while a probe is under way."""
        pause = self._pauses.get(origin)
        if pause is None:
            return 0.0
        return math.inf if pause.is_probing else max(0.0, pause.next_probe - self._clock.monotonic())

    def reserve_probe(self, origin: URL) -> None:
        """Reserve the probe of a paused host for the caller, until `release_probe`."""
        if (pause := self._pauses.get(origin)) is not None:
            pause.is_probing = True

    def release_probe(self, origin: URL) -> None:
        """Allow the next probe after the next interval; a successful probe has already ended the pause."""
        if (pause := self._pauses.get(origin)) is not None:
            pause.is_probing = False
            pause.probe_interval = min(_MAX_PROBE_INTERVAL, pause.probe_interval * 2)
            pause.next_probe = self._clock.monotonic() + pause.probe_interval

    def spread(self, origin: URL) -> float:
        """Draw the random delay that one waiter adds to a pause, so that waiting calls are not all sent at once."""
        pause = self._pauses.get(origin)
        return 0.0 if pause is None else pause.spread * self._clock.random()

    def spend(self, origin: URL, capacity: float | None, cost: float) -> bool:
        """Take the cost of a retry from a host's token bucket; a capacity of None means no bound.

        The bucket keeps retries to a fraction of the traffic when a server is down. The standard retry mode of the AWS
        SDKs works the same way: https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html

        Returns:
            Whether the bucket held enough tokens; otherwise nothing is taken.
        """
        if capacity is None:
            return True
        spent = self._spent.get(origin, 0.0) + cost
        if spent > capacity:
            return False
        self._spent[origin] = spent
        return True

    def refund(self, origin: URL, amount: float) -> None:
        """Give tokens back to a host's bucket after a success, until it is full."""
        spent = self._spent.pop(origin, 0.0) - amount
        if spent > 0:
            self._spent[origin] = spent

    def tokens_left(self, capacity: float | None) -> dict[str, float]:
        """Return the tokens that a bucket of this capacity has left for each host that used some, by origin."""
        if capacity is None:
            return {}
        return {str(origin): max(0.0, capacity - spent) for origin, spent in self._spent.items()}

    @property
    def pauses(self) -> dict[str, float]:
        """The remaining seconds of the pause of each paused host, by origin."""
        return {str(origin): left for origin in tuple(self._pauses) if (left := self.pause_remaining(origin)) > 0}
