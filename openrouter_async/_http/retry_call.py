"""One call across its attempts: when it is sent again, and after how long a wait."""

from __future__ import annotations

import logging
from typing import Final, NamedTuple

import attrs

from openrouter_async._http.chain import Request, Response
from openrouter_async._http.pace import Pace
from openrouter_async._http.retry_policy import backoff, parse_retry_after
from openrouter_async._http.throttle import RETRY_COST, SUCCESS_REFUND, TIMEOUT_COST, HostThrottle
from openrouter_async._values.clock import Clock
from openrouter_async.errors import Attempt, OpenRouterError, Outcome, RequestTimeoutError, TransportError
from openrouter_async.events import Event

logger = logging.getLogger("openrouter_async")

MIN_ATTEMPT_TIME: Final = 10.0
"""An attempt begins only if this many seconds of the call's time are left, or its timeout if that is shorter."""

MAX_SLEEP_IN_PAUSE: Final = 10.0
"""Seconds between checks whether a pause that a call waits for has ended early."""

_MAX_LATENESS: Final = 0.1
_SAME_MOMENT: Final = 1e-3


class Failure(NamedTuple):
    """How an attempt failed: by an error, or by an answer that stands for one."""

    error: OpenRouterError
    response: Response | None = None

    @property
    def history(self) -> tuple[Attempt, ...]:
        """The attempts of an inner middleware that sent the request again on its own."""
        return self.error.history if self.response is None else self.response.history

    @property
    def is_stale_connection(self) -> bool:
        return isinstance(self.error, TransportError) and self.error.stale_connection

    @property
    def is_throttled(self) -> bool:
        """Whether the server said when to come back: it is not down, and the requested pause itself limits the load."""
        return self.response is not None and self.response.status_code == 429 and bool(self.error.retry_after)


class Call:
    """The state of one call across its attempts."""

    __slots__ = (
        "_clock",
        "_deadline",
        "_failures",
        "_history",
        "_is_first",
        "_is_probe",
        "_note",
        "_now",
        "_origin",
        "_policy",
        "_refund",
        "_request",
        "_throttle",
        "_useful_time",
        "_wait",
    )

    def __init__(self, request: Request, throttle: HostThrottle, clock: Clock, started: float) -> None:
        self._request = request
        self._policy = request.retry
        self._throttle = throttle
        self._clock = clock
        self._origin = request.url.origin()
        self._now = started
        self._deadline = started + request.retry.max_elapsed_time
        # An attempt without enough time to read its answer would use up the code and lose the key.
        self._useful_time = min(request.timeout, MIN_ATTEMPT_TIME)
        self._is_first = True
        self._is_probe = False
        self._wait = 0.0
        self._failures = 0
        self._refund = SUCCESS_REFUND
        self._history: list[Attempt] = []
        self._note: str | None = None

    @property
    def now(self) -> float:
        """The time of the last look at the clock: of the next attempt's start, or of the last one's."""
        return self._now

    @property
    def pace(self) -> Pace | None:
        """The rate to which the call has to keep; None for a probe, which may end a pause, and outside of batches."""
        if self._is_probe or not self._request.send_state.is_batched:
            return None
        return self._throttle.pace(self._origin)

    def postpone(self, since: float) -> None:
        """Extend the deadline by the time since a moment: a call does not pay for waiting for its turn in a batch."""
        self._deadline += self._clock.monotonic() - since

    def next_delay(self) -> float | None:
        """Return the seconds to wait before the next attempt: 0 to begin now, None if there is no time for it."""
        wait, self._wait = self._wait, 0.0
        if wait > 0:
            self._is_first = False
            return wait
        self._now = self._clock.monotonic()
        if self._is_probe:
            return 0.0
        slack = self._deadline - self._useful_time - self._now
        # A timer fires slightly late; the wait was planned to end in time.
        if not self._is_first and slack < -_MAX_LATENESS * self._useful_time:
            self._note = "not retried: too little of the call's time is left for another attempt"
            return None
        wait_for_pause = self._delay_of_pause(slack)
        if wait_for_pause:
            self._is_first = False
        return wait_for_pause

    def _delay_of_pause(self, slack: float) -> float | None:
        # A policy without retries wants the server's own answer, now.
        pause = self._throttle.pause_remaining(self._origin) if self._policy.max_attempts > 1 else 0.0
        if pause <= 0:
            return 0.0
        probe = self._throttle.probe_delay(self._origin)
        if pause > slack >= probe:
            # This call cannot wait until the pause ends, so it probes whether the pause is still needed.
            self._throttle.reserve_probe(self._origin)
            self._is_probe = True
            return probe
        if pause > slack:
            self._note = "not retried: the host's pause does not end in time"
            return None
        spread = min(self._throttle.spread(self._origin), slack - pause)
        # A success may end the pause early, but wakes nobody.
        wait = pause + spread if pause <= MAX_SLEEP_IN_PAUSE else MAX_SLEEP_IN_PAUSE - min(spread, 2.0)
        logger.debug(
            "%s: waiting %.2f s, as the server asked of all calls",
            self._request.operation,
            wait,
            extra={"event": Event.PAUSED, "operation": self._request.operation, "wait": wait},
        )
        return wait

    def end_attempt(self) -> None:
        """If this call probed the host, let another one probe it."""
        if self._is_probe:
            self._is_probe = False
            self._throttle.release_probe(self._origin)

    def next_request(self) -> Request:
        """Return the request of the next attempt, with its timeout cut to the remaining time of the call."""
        left = self._deadline - self._now
        if not self._history and left >= self._request.timeout:
            return self._request
        return attrs.evolve(self._request, attempt=len(self._history) + 1, timeout=min(self._request.timeout, left))

    def plan_retry(self, failure: Failure) -> Attempt | None:
        """Plan another attempt.

        Returns:
            The failed attempt and the wait after it; None if there is no other attempt.
        """
        now = self._clock.monotonic()
        self._history.extend(failure.history)
        if failure.error.outcome is not Outcome.UNKNOWN and not any(a.is_ambiguous for a in self._history):
            self._request.send_state.maybe_processed = False
        wait = self._wait_after(failure)
        if wait is None:
            return None
        slack = self._deadline - now
        if not failure.is_stale_connection:
            slack -= self._useful_time
        wait = self._extend_past_pause(wait, slack)
        if wait > slack or slack <= 0:
            self._note = f"not retried: a wait of {wait:.3g} s leaves too little of the call's time for another attempt"
            return None
        if not self._pay_for(failure):
            self._note = f"not retried: the retry budget of {self._policy.retry_budget:g} is used up"
            return None
        # A request that was lost on a dead connection starts again with its full time.
        self._is_first = failure.is_stale_connection
        self._wait = wait
        attempt = Attempt(number=len(self._history) + 1, error=failure.error, elapsed=now - self._now, wait=wait)
        self._history.append(attempt)
        return attempt

    def _extend_past_pause(self, wait: float, slack: float) -> float:
        """Lengthen a wait to the end of the pause, spread so that waiting calls do not all leave at once."""
        pause = self._throttle.pause_remaining(self._origin)
        if pause <= 0 or wait < pause - _SAME_MOMENT:
            return wait
        return max(wait, pause + min(self._throttle.spread(self._origin), max(0.0, slack - pause)))

    def _wait_after(self, failure: Failure) -> float | None:
        """Return the seconds to wait after a failure, apart from pauses; None if it must not be retried."""
        error, response = failure.error, failure.response
        if response is not None:
            self._apply_retry_after(response.status_code, error.retry_after)
        elif not (isinstance(error, TransportError) and self._policy.retry_connection_errors) or error.is_permanent:
            return None
        if failure.is_stale_connection:
            # The server closed an idle connection, which it may do at any time: this is no failure, and no reason to
            # wait. It happens at most once for each earlier success, because each takes a connection out of the pool
            # that a success returned to it.
            return 0.0
        self._failures += 1
        if self._failures >= self._policy.max_attempts:
            return None
        # Retry-After is a lower bound: a 0 or a date in the past must not cause a storm of retries.
        return max(backoff(self._policy, self._failures, self._clock.random()), error.retry_after or 0.0)

    def _apply_retry_after(self, status: int, retry_after: float | None) -> None:
        if self._throttle.note_failure(self._origin, status, retry_after):
            seconds = self._throttle.pause_remaining(self._origin)
            logger.info(
                "%s answered %d: all calls to it wait for %.2f s",
                self._origin,
                status,
                seconds,
                extra={"event": Event.PAUSE, "server": str(self._origin), "status": status, "wait": seconds},
            )
        if self._request.send_state.is_batched and self._throttle.note_batch_rejection(
            self._origin, status, retry_after, self._now
        ):
            self._log_rate(status)

    def _log_rate(self, status: int) -> None:
        if (pace := self._throttle.pace(self._origin)) is not None:
            logger.debug(
                "%s answered %d: batches send it %.3g requests a second",
                self._origin,
                status,
                pace.rate,
                extra={"event": Event.RATE, "server": str(self._origin), "status": status, "rate": pace.rate},
            )

    def _pay_for(self, failure: Failure) -> bool:
        # The rate of a batch limits the load already, and is found by being rejected.
        if failure.is_stale_connection or failure.is_throttled or self.pace is not None:
            return True
        cost = TIMEOUT_COST if isinstance(failure.error, RequestTimeoutError) else RETRY_COST
        if not self._throttle.spend(self._origin, self._policy.retry_budget, cost):
            return False
        self._refund = cost
        return True

    def not_sent(self) -> Failure:
        """Return the failure of a call that could not wait for the end of its host's pause."""
        pause = self._throttle.pause_remaining(self._origin)
        self._note = None
        return Failure(
            TransportError(
                f"not sent: the server asked for a pause, {pause:.1f} s of which are left",
                outcome=Outcome.NOT_SENT,
                attempts=0,
                retry_after=pause,
            )
        )

    def finish(self, response: Response) -> Response:
        """Return an answer that is not retried, with the attempts before it."""
        if response.status_code < 300:
            is_batched = self._request.send_state.is_batched
            self._throttle.note_success(self._origin, self._now, is_batched=is_batched)
            self._throttle.refund(self._origin, self._refund)
        else:
            retry_after = parse_retry_after(response.headers, self._clock.time())
            self._apply_retry_after(response.status_code, retry_after)
        if not self._history:
            return response
        return attrs.evolve(response, history=(*self._history, *response.history))

    def give_up(self, failure: Failure) -> Response:
        """Return the last answer or raise the last error, with the attempts before it."""
        # An attempt whose planned retry did not take place is the failure itself, not history.
        history = tuple(attempt for attempt in self._history if attempt.error is not failure.error)
        if failure.response is not None:
            notes = failure.response.notes if self._note is None else (*failure.response.notes, self._note)
            return attrs.evolve(failure.response, history=history, notes=notes)
        failure.error.history = history
        if self._note is not None:
            failure.error.add_note(self._note)
        raise failure.error
