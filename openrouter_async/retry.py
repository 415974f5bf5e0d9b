"""The retry middleware: an ordinary middleware, made of the same public parts that anyone has."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

import attrs

from openrouter_async.backoff import RetryPolicy, backoff
from openrouter_async.chain import Attempt, Handler, Request, Response
from openrouter_async.clock import SYSTEM_CLOCK, Clock
from openrouter_async.errors import OpenRouterError, Outcome, RequestTimeoutError, TransportError
from openrouter_async.outcomes import error_from
from openrouter_async.overload import RETRY_COST, SUCCESS_REFUND, TIMEOUT_COST, Overload

__all__ = ["OnRetry", "RetryMiddleware", "RetryPolicy"]

logger = logging.getLogger(__name__)

OnRetry: TypeAlias = Callable[[Request, Attempt], object]
"""Called before each retry, with the attempt that failed: its number, its error, the wait that follows."""

_PAUSING_STATUSES = frozenset({429, 503})


class RetryMiddleware:
    """Tries a request again as its `RetryPolicy` says, and remembers what happened.

    The attempts that failed are the ``history`` of the answer, or of the error. A 429 or 503 with ``Retry-After`` holds
    back every call that shares the same `Overload`, until the time that the server named.

    Args:
        overload: What is known of the hosts' trouble; None makes one of its own.
        clock: Where time and chance come from.
        on_retry: Called before each retry. What it raises is logged, and changes nothing.
    """

    def __init__(
        self, *, overload: Overload | None = None, clock: Clock = SYSTEM_CLOCK, on_retry: OnRetry | None = None
    ) -> None:
        self._overload = overload if overload is not None else Overload(clock)
        self._clock = clock
        self._on_retry = on_retry

    async def __call__(self, request: Request, call_next: Handler) -> Response:
        call = _Call(request, self._overload, self._clock)
        while await call.is_due():
            try:
                response = await call_next(call.next_request())
            except OpenRouterError as error:
                call.record(error)
            else:
                if response.status not in request.retry.statuses:
                    return call.finish(response)
                call.record(error_from(request, response, self._clock), response)
            attempt = call.plan_retry()
            if attempt is None:
                break
            self._announce(request, attempt)
        return call.give_up()

    def _announce(self, request: Request, attempt: Attempt) -> None:
        logger.info(
            "%s: retrying in %.2f s after attempt %d: %s",
            request.operation,
            attempt.wait,
            attempt.number,
            attempt.error,
            extra={
                "event": "retry",
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
            logger.exception("on_retry raised; the retry goes on")


class _Call:
    """One call on its way through its attempts."""

    def __init__(self, request: Request, overload: Overload, clock: Clock) -> None:
        self._request = request
        self._overload = overload
        self._clock = clock
        self._origin = request.url.origin()
        self._budget = overload.budget(self._origin, request.retry.retry_budget)
        self._deadline = clock.monotonic() + request.retry.max_elapsed_time
        self._due = 0.0
        self._started = 0.0
        self._failures = 0
        self._last_cost = SUCCESS_REFUND
        self._error: OpenRouterError | None = None
        self._response: Response | None = None
        self._history: list[Attempt] = []

    async def is_due(self) -> bool:
        """Wait for the host's pause and the backoff to end; False when that, or any attempt, would be too late."""
        while True:
            now = self._clock.monotonic()
            wait = self._due - now
            pause = self._overload.paused(self._origin)
            if pause > 0:
                wait = max(wait, pause + self._overload.spread(self._origin))
            if wait <= 0:
                return now < self._deadline
            if now + wait >= self._deadline:
                if self._error is None:
                    self._error = TransportError(
                        f"not sent: the server asked for a pause, {pause:.1f} s of which are left",
                        outcome=Outcome.NOT_SENT,
                        attempts=0,
                        retry_after=pause,
                    )
                return False
            await self._clock.sleep(wait)

    def next_request(self) -> Request:
        """The request for the next attempt, its timeout cut to what is left of the call's time."""
        self._started = self._clock.monotonic()
        left = self._deadline - self._started
        if not self._history and left >= self._request.timeout:
            return self._request
        number = self._history[-1].number + 1 if self._history else 1
        return attrs.evolve(self._request, attempt=number, timeout=min(self._request.timeout, left))

    def record(self, error: OpenRouterError, response: Response | None = None) -> None:
        """Take note of how an attempt failed."""
        self._error, self._response = error, response
        if error.outcome is not Outcome.UNKNOWN and not any(attempt.is_ambiguous for attempt in self._history):
            self._request.delivery.pending = False

    def plan_retry(self) -> Attempt | None:
        """Decide about another attempt; None when there shall be none."""
        error = self._error
        assert error is not None
        policy = self._request.retry
        now = self._clock.monotonic()
        wait = self._planned_wait(error)
        if wait is None or now + wait >= self._deadline:
            return None
        if not self._is_stale(error) and self._budget is not None:
            self._last_cost = TIMEOUT_COST if isinstance(error, RequestTimeoutError) else RETRY_COST
            if not self._budget.spend(self._last_cost):
                error.add_note(f"not retried: the retry budget of {policy.retry_budget:g} is used up")
                return None
        self._due = now + wait
        attempt = Attempt(number=len(self._history) + 1, error=error, elapsed=now - self._started, wait=wait)
        self._history.append(attempt)
        return attempt

    def _is_stale(self, error: OpenRouterError) -> bool:
        return isinstance(error, TransportError) and error.stale_connection

    def _planned_wait(self, error: OpenRouterError) -> float | None:
        policy = self._request.retry
        if self._response is None and not (isinstance(error, TransportError) and policy.retry_connection_errors):
            return None
        if self._is_stale(error):
            return 0.0
        self._failures += 1
        if error.retry_after is not None and self._response is not None and self._response.status in _PAUSING_STATUSES:
            self._overload.pause(self._origin, error.retry_after)
        if self._failures >= policy.max_attempts:
            return None
        if error.retry_after is not None:
            return error.retry_after
        return backoff(policy, self._failures, self._clock.random())

    def finish(self, response: Response) -> Response:
        """The answer that is not retried, with the attempts before it."""
        if response.status < 300 and self._budget is not None:
            self._budget.refund(self._last_cost)
        return self._with_history(response)

    def give_up(self) -> Response:
        """The last answer or error, with the attempts before it."""
        if self._response is not None:
            return self._with_history(self._response)
        assert self._error is not None
        self._error.history = tuple(self._history)
        raise self._error

    def _with_history(self, response: Response) -> Response:
        return attrs.evolve(response, history=tuple(self._history)) if self._history else response
