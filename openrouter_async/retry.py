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
        """Send a request until it is answered, refused, or given up."""
        call = _Call(request, self._overload, self._clock)
        failure: _Failure | None = None
        while (wait := call.wait()) is not None:
            if wait > 0:
                await self._clock.sleep(wait)
                continue
            try:
                response = await call_next(call.next_request())
            except OpenRouterError as error:
                failure = _Failure(error)
            else:
                if response.status not in request.retry.statuses:
                    return call.finish(response)
                failure = _Failure(error_from(request, response, self._clock), response)
            attempt = call.plan_retry(failure)
            if attempt is None:
                break
            self._announce(request, attempt)
        return call.give_up(failure or call.not_sent())

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


@attrs.frozen
class _Failure:
    """How an attempt failed: by an error, or by an answer that stands for one."""

    error: OpenRouterError
    response: Response | None = None

    @property
    def is_stale_connection(self) -> bool:
        return isinstance(self.error, TransportError) and self.error.stale_connection


class _Call:
    """One call on its way through its attempts."""

    __slots__ = (
        "_clock",
        "_deadline",
        "_due",
        "_failures",
        "_history",
        "_now",
        "_origin",
        "_overload",
        "_policy",
        "_refund",
        "_request",
    )

    def __init__(self, request: Request, overload: Overload, clock: Clock) -> None:
        self._request = request
        self._policy = request.retry
        self._overload = overload
        self._clock = clock
        self._origin = request.url.origin()
        self._now = self._due = clock.monotonic()
        self._deadline = self._now + request.retry.max_elapsed_time
        self._failures = 0
        self._refund = SUCCESS_REFUND
        self._history: list[Attempt] = []

    def wait(self) -> float | None:
        """Seconds until the host's pause and the backoff end; None when they do not end in time."""
        self._now = self._clock.monotonic()
        wait = self._due - self._now
        pause = self._overload.paused(self._origin)
        if pause > 0:
            wait = max(wait, pause + self._overload.spread(self._origin))
        return None if self._now + max(wait, 0.0) >= self._deadline else wait

    def next_request(self) -> Request:
        """The request for the next attempt, its timeout cut to what is left of the call's time."""
        left = self._deadline - self._now
        if not self._history and left >= self._request.timeout:
            return self._request
        return attrs.evolve(self._request, attempt=len(self._history) + 1, timeout=min(self._request.timeout, left))

    def plan_retry(self, failure: _Failure) -> Attempt | None:
        """Decide about another attempt; None when there shall be none."""
        now = self._clock.monotonic()
        if failure.error.outcome is not Outcome.UNKNOWN and not any(a.is_ambiguous for a in self._history):
            self._request.delivery.pending = False
        wait = self._wait_after(failure)
        if wait is None or now + wait >= self._deadline or not self._pay_for(failure):
            return None
        self._due = now + wait
        attempt = Attempt(number=len(self._history) + 1, error=failure.error, elapsed=now - self._now, wait=wait)
        self._history.append(attempt)
        return attempt

    def _wait_after(self, failure: _Failure) -> float | None:
        """Seconds to wait after a failure; None when it is not to be retried."""
        error, response = failure.error, failure.response
        if response is None and not (isinstance(error, TransportError) and self._policy.retry_connection_errors):
            return None
        if failure.is_stale_connection:
            # The server closed an idle connection as it may: not its failure, and no reason to wait.
            return 0.0
        self._failures += 1
        if response is not None and response.status in _PAUSING_STATUSES and error.retry_after is not None:
            self._overload.pause(self._origin, error.retry_after)
        if self._failures >= self._policy.max_attempts:
            return None
        if error.retry_after is not None:
            return error.retry_after
        return backoff(self._policy, self._failures, self._clock.random())

    def _pay_for(self, failure: _Failure) -> bool:
        if failure.is_stale_connection:
            return True
        cost = TIMEOUT_COST if isinstance(failure.error, RequestTimeoutError) else RETRY_COST
        if not self._overload.spend(self._origin, self._policy.retry_budget, cost):
            failure.error.add_note(f"not retried: the retry budget of {self._policy.retry_budget:g} is used up")
            return False
        self._refund = cost
        return True

    def not_sent(self) -> _Failure:
        """The failure of a call that could not wait for the end of its host's pause."""
        pause = self._overload.paused(self._origin)
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
        if response.status < 300:
            self._overload.refund(self._origin, self._policy.retry_budget, self._refund)
        return self._with_history(response)

    def give_up(self, failure: _Failure) -> Response:
        """The last answer or error, with the attempts before it."""
        if failure.response is not None:
            return self._with_history(failure.response)
        failure.error.history = tuple(self._history)
        raise failure.error

    def _with_history(self, response: Response) -> Response:
        return attrs.evolve(response, history=tuple(self._history)) if self._history else response
