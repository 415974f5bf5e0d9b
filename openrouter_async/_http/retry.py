"""The retry middleware, which is built on the same interface as those of apps."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import TypeAlias

from openrouter_async._http.chain import Handler, Request, Response
from openrouter_async._http.counters import Counters
from openrouter_async._http.responses import error_from_response
from openrouter_async._http.retry_call import Call, Failure
from openrouter_async._http.retry_policy import RetryPolicy
from openrouter_async._http.throttle import HostThrottle
from openrouter_async._values.clock import SYSTEM_CLOCK, Clock
from openrouter_async._values.frames import describe
from openrouter_async.errors import Attempt, OpenRouterError
from openrouter_async.events import Event

__all__ = ["OnRetry", "RetryMiddleware", "RetryPolicy"]

logger = logging.getLogger("openrouter_async")

OnRetry: TypeAlias = Callable[[Request, Attempt], object]
"""A sync or async callable of (request, attempt), called before each retry with the failed attempt."""


class RetryMiddleware:
    """Send a request again as its `RetryPolicy` says, and record what happened.

    The attempts that failed are the ``history`` of the answer, or of the error. A 429 with ``Retry-After`` holds back
    every call to that host that shares the ``HostThrottle``; a 503 does so only as the third in a row. Such a pause
    lasts at most 60 s and ends at the first success of a request sent after it began; meanwhile one call at a time is
    let through to probe the host. A policy of one attempt is not bound by pauses.

    Args:
        throttle: The pauses and retry budgets of the hosts; None makes one of its own.
        clock: The source of time and randomness.
        on_retry: Called before each retry. An exception from it is logged and otherwise ignored.
        counters: The counters to increment; None makes some of its own.
    """

    def __init__(
        self,
        *,
        throttle: HostThrottle | None = None,
        clock: Clock = SYSTEM_CLOCK,
        on_retry: OnRetry | None = None,
        counters: Counters | None = None,
    ) -> None:
        self._throttle = throttle if throttle is not None else HostThrottle(clock)
        self._clock = clock
        self._on_retry = on_retry
        self._counters = counters if counters is not None else Counters()

    async def __call__(self, request: Request, call_next: Handler) -> Response:
        """Send a request until it succeeds, is refused, or no further attempt is allowed."""
        self._counters.calls += 1
        started = self._clock.monotonic()
        result: Response | Failure | None = None
        if self._throttle.is_idle and request.timeout <= request.retry.max_elapsed_time:
            # Most calls succeed at once, and need no `Call`, whose creation takes a thirtieth of the time of an
            # exchange.
            self._counters.attempts += 1
            try:
                response = await call_next(request)
            except OpenRouterError as error:
                result = Failure(error)
            else:
                if response.status_code < 300 and self._throttle.is_idle:
                    return response
                result = self._judge(request, response)
        call = Call(request, self._throttle, self._clock, started)
        if result is None:
            result = await self._wait_and_attempt(call, request, call_next)
        return await self._finish(call, result, request, call_next)

    async def _finish(
        self, call: Call, result: Response | Failure | None, request: Request, call_next: Handler
    ) -> Response:
        """Retry after a failed attempt for as long as the plan allows it; a first attempt of None was not sent."""
        failure: Failure | None = None
        while isinstance(result, Failure):
            failure = result
            attempt = call.plan_retry(failure)
            if attempt is None:
                return call.give_up(failure)
            await self._announce(request, attempt)
            result = await self._wait_and_attempt(call, request, call_next)
        return call.give_up(failure or call.not_sent()) if result is None else call.finish(result)

    async def _attempt(self, request: Request, call_next: Handler) -> Response | Failure:
        self._counters.attempts += 1
        try:
            response = await call_next(request)
        except OpenRouterError as error:
            return Failure(error)
        return self._judge(request, response)

    def _judge(self, request: Request, response: Response) -> Response | Failure:
        if response.status_code not in request.retry.statuses:
            return response
        return Failure(error_from_response(request, response, self._clock), response)

    async def _wait_and_attempt(self, call: Call, request: Request, call_next: Handler) -> Response | Failure | None:
        try:
            if not await self._wait_for_turn(call):
                return None
            return await self._attempt(call.next_request(), call_next)
        finally:
            call.end_attempt()

    async def _wait_for_turn(self, call: Call) -> bool:
        """Wait until the next attempt may begin.

        Returns:
            False when there is no time for it.
        """
        if not await self._wait(call):
            return False
        if (pace := call.pace) is None:
            return True
        entered = self._clock.monotonic()
        self._counters.waiting += 1
        try:
            await pace.queue.acquire()
        finally:
            self._counters.waiting -= 1
        try:
            call.postpone(entered)
            # A pause may have begun meanwhile.
            while await self._wait(call):
                if (delay := pace.take_turn(call.now)) <= 0:
                    return True
                await self._sleep(delay)
                call.postpone(call.now)
            return False
        finally:
            pace.queue.release()

    async def _wait(self, call: Call) -> bool:
        while (delay := call.next_delay()) is not None:
            if delay <= 0:
                return True
            await self._sleep(delay)
        return False

    async def _sleep(self, seconds: float) -> None:
        self._counters.waiting += 1
        try:
            await self._clock.sleep(seconds)
        finally:
            self._counters.waiting -= 1

    async def _announce(self, request: Request, attempt: Attempt) -> None:
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
            result = self._on_retry(request, attempt)
            if inspect.isawaitable(result):
                await result
        except Exception as failure:  # noqa: BLE001 - a hook must not end the call
            logger.error(  # noqa: TRY400 - the text of a foreign exception may hold a secret
                "on_retry raised %s; the retry goes on", describe(failure), extra={"event": Event.HOOK_FAILED}
            )
