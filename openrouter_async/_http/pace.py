"""Request rates: the one that a host accepts, found by AIMD, and the leaky bucket that enforces it."""

from __future__ import annotations

import asyncio
import math
from typing import Final

INITIAL_RATE: Final = 20.0
"""Requests per second that a batch sends to a host once it has begun to refuse them."""

MIN_RATE: Final = 1.0
"""The minimum of requests per second that a batch sends, however many are refused."""

# Two rejections with fewer successes between them mean that the rate is too high. Rarer ones may come from one sick
# node behind a load balancer, which a lower rate would not heal.
_MIN_SUCCESSES: Final = 5
_MANY_SUCCESSES: Final = 100
_DECREASE: Final = 0.9
_FAST_DECREASE: Final = 0.7
_RATE_LIFETIME: Final = 60.0
# Seconds in which the rate grows back to where it was refused. Beyond that, the limit may have changed, so each success
# adds one request per second: the rate doubles in less than a second.
_RECOVERY_TIME: Final = 4.0
_FAST_INCREASE: Final = 1.0
_ROUNDING: Final = 1e-9


class LeakyBucket:
    """A meter of requests that leaks at a rate, and has no room for more while it is full.

    See https://en.wikipedia.org/wiki/Leaky_bucket (as a meter).

    Args:
        rate: Requests per second that leak out.
        capacity: Requests that it holds, at least 1.
    """

    def __init__(self, rate: float, capacity: float = 1.0) -> None:
        self.rate = rate
        self._capacity = capacity
        self._level = 0.0
        self._measured_at = 0.0

    def take(self, now: float) -> float:
        """Add a request if there is room.

        Returns:
            0 if it was added, otherwise the seconds until there is room.
        """
        if self._level:
            self._level = max(0.0, self._level - max(0.0, now - self._measured_at) * self.rate)
        self._measured_at = now
        excess = self._level + 1 - self._capacity
        if excess > _ROUNDING:
            return excess / self.rate
        self._level += 1
        return 0.0


class Pace:
    """The rate of requests that a host accepts, found by additive increase and multiplicative decrease (AIMD).

    A single rejection limits nothing; a second one soon afterwards sets the rate to `INITIAL_RATE`. From then on,
    successes raise the rate, and rejections reduce it. TCP does the same (RFC 5681).

    Attributes:
        queue: Held by the request whose turn is next; the others wait for it, in the order in which they came.
    """

    def __init__(self, now: float) -> None:
        self.queue = asyncio.Lock()
        self._active_at = now
        self._bucket = LeakyBucket(math.inf)
        self._refused_rate = 0.0
        self._recovery = 0.0
        self._successes = 0
        self._reduced_at = -math.inf
        self._is_waiting = False
        self._is_used_up = False

    @property
    def rate(self) -> float:
        """The requests that may be sent in a second; infinity while there is no limit."""
        return self._bucket.rate

    @property
    def is_limiting(self) -> bool:
        """Whether there is a limit."""
        return self.rate < math.inf

    def is_over(self, now: float) -> bool:
        """Return whether no limit is needed: many successes came without a wait, or nothing was sent for long."""
        is_unused = self._successes >= _MANY_SUCCESSES and not self._is_used_up
        return is_unused or now - self._active_at > _RATE_LIFETIME

    def take_turn(self, now: float) -> float:
        """Take a turn to send a request.

        Returns:
            0 if the request may be sent now, otherwise the seconds after which to ask again.
        """
        self._active_at = now
        delay = self._bucket.take(now)
        if delay > 0:
            self._is_waiting = True
        else:
            self._is_used_up, self._is_waiting = self._is_waiting, False
        return delay

    def note_success(self) -> None:
        """Record a success, which raises the rate if requests have to wait for it."""
        self._successes += 1
        # A rate that is not used up does not show whether the host would accept more (RFC 7661).
        if not self._is_used_up:
            return
        if self.rate < self._refused_rate:
            self._bucket.rate += self._recovery / self.rate
        else:
            self._bucket.rate += _FAST_INCREASE

    def note_rejection(self, sent_at: float, now: float) -> bool:
        """Record a rejection.

        Args:
            sent_at: When the request was sent. Unless that was after the last reduction, the rate stays.
            now: The time.

        Returns:
            Whether this reduced the rate.
        """
        self._active_at = now
        successes, self._successes = self._successes, 0
        if successes >= _MIN_SUCCESSES or sent_at <= self._reduced_at:
            return False
        self._reduced_at = now
        if self.is_limiting:
            self._refused_rate = self.rate
            self._bucket.rate = max(MIN_RATE, self.rate * (_DECREASE if successes else _FAST_DECREASE))
            self._recovery = (self._refused_rate - self.rate) / _RECOVERY_TIME
        else:
            self._bucket = LeakyBucket(INITIAL_RATE)
        return True
