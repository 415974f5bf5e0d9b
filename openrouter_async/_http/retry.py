"""The retry middleware: an ordinary middleware, made of the same public parts that anyone has."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import attrs

from openrouter_async._http.chain import Handler, Request, Response
from openrouter_async._http.counters import Counters
from openrouter_async._http.responses import error_from_response
from openrouter_async._http.retry_policy import RetryPolicy, backoff, parse_retry_after
from openrouter_async._http.throttle import RETRY_COST, SUCCESS_REFUND, TIMEOUT_COST, HostThrottle
from openrouter_async._values.clock import SYSTEM_CLOCK, Clock
from openrouter_async.errors import Attempt, OpenRouterError, Outcome, RequestTimeoutError, TransportError
from openrouter_async.events import Event

__all__ = ["OnRetry", "RetryMiddleware", "RetryPolicy"]

logger = logging.getLogger("openrouter_async")

OnRetry: TypeAlias = Callable[[Request, Attempt], object]
"""Called before each retry, with the attempt that failed: its number, its error, the wait that follows."""

_PAUSING_STATUSES = frozenset({429, 503})


class RetryMiddleware:
    """Tries a request again as its `RetryPolicy` says, and remembers what happened.

    The attempts that failed are the ``history`` of the answer, or of the error. A 429 or 503 with ``Retry-After`` holds
    back every call to that host that shares the ``HostThrottle``, until the time that the server named; then they go on
    one by one, spread over a fifth of that time.

    Args:
        overload: What is known of the hosts' trouble; None makes one of its own.
        clock: Where time and chance come from.
        on_retry: Called before each retry. What it raises is logged, and changes nothing.
        counters: What it counts in; None makes some of its own.
    """

    def __init__(
        self,
        *,
        overload: HostThrottle | None = None,
        clock: Clock = SYSTEM_CLOCK,
        on_retry: OnRetry | None = None,
        counters: Counters | None = None,
    ) -> None:
        self._overload = overload if overload is not None else HostThrottle(clock)
        self._clock = clock
        self._on_retry = on_retry
        self._counters = counters if counters is not None else Counters()

    async def __call__(self, request: Request, call_next: Handler) -> Response:
        """Send a request until it is answered, refused, or given up."""
        overload, counters = self._overload, self._counters
        counters.calls += 1
        started = self._clock.monotonic()
        # Most calls succeed at once, in fair weather: then nobody looks at the account of their attempts, which costs a
        # thirtieth of an exchange.
        is_simple = overload.is_idle and request.timeout <= request.retry.max_elapsed_time
        call = None if is_simple else _Call(request, overload, self._clock, started)
        failure: _Failure | None = None
        while (wait := 0.0 if call is None else call.wait()) is not None:
            if wait > 0:
                await self._sleep(wait)
                continue
            counters.attempts += 1
            try:
                response = await call_next(request if call is None else call.next_request())
            except OpenRouterError as error:
                failure = _Failure(error)
            else:
                if call is None and response.status_code < 300 and overload.is_idle:
                    return response
                if response.status_code not in request.retry.statuses:
                    return (call or _Call(request, overload, self._clock, started)).finish(response)
                failure = _Failure(error_from_response(request, response, self._clock), response)
            call = call or _Call(request, overload, self._clock, started)
            attempt = call.plan_retry(failure)
            if attempt is None:
                break
            self._announce(request, attempt)
        assert call is not None  # noqa: S101 - only one that has an account ends here
        return call.give_up(failure or call.not_sent())

    async def _sleep(self, seconds: float) -> None:
        self._counters.waiting += 1
        try:
            await self._clock.sleep(seconds)
        finally:
            self._counters.waiting -= 1

    def _announce(self, request: Request, attempt: Attempt) -> None:
        self._counters.retries += 1
        logger.info(
            "%s: retrying in %.2f s after attempt %d: %s",
            request.operation,
            attempt.wait,
            attempt.number,
            attempt.error,
            extra={
                "event": Event.RETRY,
                "operation": request.operation,
                "attempt": attempt.number,
                "wait": attempt.wait,
                "outcome": attempt.error.outcome.value,
            },
        )
        if self._on_retry is None:
            return
        try:
            self._on_retry(request, attempt)
        except Exception:
            logger.exception("on_retry raised; the retry goes on", extra={"event": Event.HOOK_FAILED})


class _Failure(NamedTuple):
    """How an attempt failed: by an error, or by an answer that stands for one."""

    error: OpenRouterError
    response: Response | None = None

    @property
    def history(self) -> tuple[Attempt, ...]:
        """The attempts of a middleware further in that sent the request again on its own."""
        return self.error.history if self.response is None else self.response.history

    @property
    def is_stale_connection(self) -> bool:
        return isinstance(self.error, TransportError) and self.error.stale_connection

    @property
    def is_throttled(self) -> bool:
        """Whether the server said when to come back: it is not down, and the pause that it wants bounds the load."""
        return self.response is not None and self.response.status_code == 429 and bool(self.error.retry_after)


class _Call:
    """One call on its way through its attempts."""

    __slots__ = (
        "_clock",
        "_deadline",
        "_failures",
        "_history",
        "_note",
        "_now",
        "_origin",
        "_overload",
        "_policy",
        "_refund",
        "_request",
        "_wait",
    )

    def __init__(self, request: Request, overload: HostThrottle, clock: Clock, started: float) -> None:
        self._request = request
        self._policy = request.retry
        self._overload = overload
        self._clock = clock
        self._origin = request.url.origin()
        self._now = started
        self._deadline = self._now + request.retry.max_elapsed_time
        self._wait = 0.0
        self._failures = 0
        self._refund = SUCCESS_REFUND
        self._history: list[Attempt] = []
        self._note: str | None = None

    def wait(self) -> float | None:
        """Seconds to wait for the next attempt, 0 when it may start; None when it would come too late."""
        wait, self._wait = self._wait, 0.0
        if wait > 0:
            return wait
        self._now = self._clock.monotonic()
        left = self._deadline - self._now
        # Also after a wait: another call may have met a longer pause meanwhile.
        wait = self._extend_past_pause(0.0, left)
        if wait >= left:
            self._note = "not retried: the host's pause does not end in time"
            return None
        if wait > 0:
            logger.debug(
                "%s: waiting %.2f s, as the server asked of all calls",
                self._request.operation,
                wait,
                extra={"event": Event.PAUSED, "operation": self._request.operation, "wait": wait},
            )
        return wait

    def _extend_past_pause(self, wait: float, left: float) -> float:
        """A wait, lengthened to the end of the host's pause and a bit: those who wait do not leave it as a herd."""
        pause = self._overload.paused(self._origin)
        if pause <= 0:
            return wait
        # At least half of the time that is left after the pause is for the attempt.
        return max(wait, pause + min(self._overload.spread(self._origin), max(0.0, left - pause) / 2))

    def next_request(self) -> Request:
        """The request for the next attempt, its timeout cut to what is left of the call's time."""
        left = self._deadline - self._now
        if not self._history and left >= self._request.timeout:
            return self._request
        return attrs.evolve(self._request, attempt=len(self._history) + 1, timeout=min(self._request.timeout, left))

    def plan_retry(self, failure: _Failure) -> Attempt | None:
        """Decide about another attempt; None when there shall be none."""
        now = self._clock.monotonic()
        self._history.extend(failure.history)
        if failure.error.outcome is not Outcome.UNKNOWN and not any(a.is_ambiguous for a in self._history):
            self._request.send_state.maybe_processed = False
        wait = self._wait_after(failure)
        if wait is None:
            return None
        left = self._deadline - now
        wait = self._extend_past_pause(wait, left)
        if wait >= left:
            self._note = f"not retried: a wait of {wait:.3g} s does not fit into what is left of the call's time"
            return None
        if not self._pay_for(failure):
            self._note = f"not retried: the retry budget of {self._policy.retry_budget:g} is used up"
            return None
        self._wait = wait
        attempt = Attempt(number=len(self._history) + 1, error=failure.error, elapsed=now - self._now, wait=wait)
        self._history.append(attempt)
        return attempt

    def _wait_after(self, failure: _Failure) -> float | None:
        """Seconds to wait after a failure, but for pauses; None when it is not to be retried."""
        error, response = failure.error, failure.response
        if response is not None:
            self._apply_retry_after(response.status_code, error.retry_after)
        elif not (isinstance(error, TransportError) and self._policy.retry_connection_errors):
            return None
        if failure.is_stale_connection:
            # The server closed an idle connection as it may: not its failure, and no reason to wait. There are no more
            # of these than successes before, as each takes a connection out of the pool that a success left there.
            return 0.0
        self._failures += 1
        if self._failures >= self._policy.max_attempts:
            return None
        # The server's wish is a lower bound: a 0 or a date in the past must not make a storm of retries.
        return max(backoff(self._policy, self._failures, self._clock.random()), error.retry_after or 0.0)

    def _apply_retry_after(self, status: int, retry_after: float | None) -> None:
        if status not in _PAUSING_STATUSES or retry_after is None:
            return
        if self._overload.pause(self._origin, retry_after):
            logger.info(
                "%s answered %d: all calls to it wait for %.2f s",
                self._origin,
                status,
                retry_after,
                extra={"event": Event.PAUSE, "server": str(self._origin), "status": status, "wait": retry_after},
            )

    def _pay_for(self, failure: _Failure) -> bool:
        if failure.is_stale_connection or failure.is_throttled:
            return True
        cost = TIMEOUT_COST if isinstance(failure.error, RequestTimeoutError) else RETRY_COST
        if not self._overload.spend(self._origin, self._policy.retry_budget, cost):
            return False
        self._refund = cost
        return True

    def not_sent(self) -> _Failure:
        """The failure of a call that could not wait for the end of its host's pause."""
        pause = self._overload.paused(self._origin)
        self._note = None
        return _Failure(
            TransportError(
                f"not sent: the server asked for a pause, {pause:.1f} s of which are left",
                outcome=Outcome.NOT_SENT,
                attempts=0,
                retry_after=pause,
            )
        )

    def finish(self, response: Response) -> Response:
        """The answer that is not retried, with the attempts before it."""
        if response.status_code < 300:
            self._overload.refund(self._origin, self._policy.retry_budget, self._refund)
        elif response.status_code in _PAUSING_STATUSES:
            self._apply_retry_after(response.status_code, parse_retry_after(response.headers, self._clock.time()))
        if not self._history:
            return response
        return attrs.evolve(response, history=(*self._history, *response.history))

    def give_up(self, failure: _Failure) -> Response:
        """The last answer or error, with the attempts before it."""
        # A retry that was planned and then held back for too long is none.
        history = tuple(attempt for attempt in self._history if attempt.error is not failure.error)
        if failure.response is not None:
            notes = failure.response.notes if self._note is None else (*failure.response.notes, self._note)
            return attrs.evolve(failure.response, history=history, notes=notes)
        failure.error.history = history
        if self._note is not None:
            failure.error.add_note(self._note)
        raise failure.error
