"""Optional middlewares: a log of attempts, and a rate limit.

::

    from openrouter_async.middlewares import LoggingMiddleware, RateLimitMiddleware

    async with OpenRouter(
        middlewares=[RateLimitMiddleware(100, 60)],
        attempt_middlewares=[LoggingMiddleware()],
    ) as client: ...

The package does not import this module on its own.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from weakref import WeakKeyDictionary

from openrouter_async._http.chain import Handler, Request, Response
from openrouter_async._http.pace import LeakyBucket
from openrouter_async._values.clock import SYSTEM_CLOCK, Clock
from openrouter_async._values.models import request_id_of
from openrouter_async._values.validation import check_number
from openrouter_async.errors import OpenRouterError, Outcome, RequestTimeoutError
from openrouter_async.events import Event

__all__ = ["LoggingMiddleware", "RateLimitMiddleware"]


class LoggingMiddleware:
    """Logs the outcome of each attempt, as one of the ``attempt_middlewares`` of a client.

    Every record has the attributes ``event`` (see `openrouter_async.events`), ``operation``, ``attempt``, ``server``
    and ``elapsed`` (seconds). The record of an answer also has ``status`` and ``request_id``; that of a failure has
    ``outcome`` and ``error`` (the name of its class). No record holds a header, a body or a secret.

    Args:
        logger: The logger to use; by default ``openrouter_async.middlewares``.
        level: The level of the records.
    """

    def __init__(self, logger: logging.Logger | None = None, *, level: int = logging.DEBUG) -> None:
        self._logger = logging.getLogger(__name__) if logger is None else logger
        self._level = level

    async def __call__(self, request: Request, call_next: Handler) -> Response:
        """Send a request, and log its outcome."""
        if not self._logger.isEnabledFor(self._level):
            return await call_next(request)
        started = time.perf_counter()
        try:
            response = await call_next(request)
        except OpenRouterError as failure:
            outcome, error = failure.outcome.value, type(failure).__name__
            self._log(request, started, Event.ATTEMPT_FAILED, str(failure), outcome=outcome, error=error)
            raise
        request_id = request_id_of(response.headers)
        self._log(
            request,
            started,
            Event.ATTEMPT_ANSWERED,
            f"answered {response.status_code}",
            status=response.status_code,
            request_id=request_id,
        )
        return response

    def _log(self, request: Request, started: float, event: Event, end: str, **extra: object) -> None:
        elapsed = time.perf_counter() - started
        self._logger.log(
            self._level,
            "%s: attempt %d: %s after %.3f s",
            request.operation,
            request.attempt,
            end,
            elapsed,
            extra={
                "event": event,
                "operation": request.operation,
                "attempt": request.attempt,
                "server": request.url.authority,
                "elapsed": elapsed,
                **extra,
            },
        )


class RateLimitMiddleware:
    """Limits the rate of requests by making them wait.

    Among the ``middlewares`` of a client, it limits calls, and the time of a call starts after the wait. Among the
    ``attempt_middlewares``, it limits attempts, including retries; set ``max_wait`` then, so that a call does not take
    longer than its policy allows. Clients that share one object share its limit, even across event loops and threads.

    Args:
        max_rate: The maximum number of requests in a ``time_period``, also as a single burst; at least 1.
        time_period: The length of the period in seconds.
        max_wait: The maximum number of seconds that a request waits; after that, it fails unsent with a
            `RequestTimeoutError`. None waits without a limit.
        clock: The source of time, for tests.

    Raises:
        RequestValidationError: An argument is out of its range.
    """

    def __init__(
        self,
        max_rate: float,
        time_period: float = 60.0,
        *,
        max_wait: float | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        check_number("max_rate", max_rate, least=1)
        check_number("time_period", time_period, least=0, exclusive=True)
        if max_wait is not None:
            check_number("max_wait", max_wait, least=0)
        self._bucket = LeakyBucket(max_rate / time_period, max_rate)
        self._lock = threading.Lock()
        self._max_wait = max_wait
        self._clock = clock
        # In each loop only the first in the queue asks the bucket, so requests leave in the order in which they came.
        self._queues: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    async def __call__(self, request: Request, call_next: Handler) -> Response:
        """Send a request as soon as the limit allows."""
        try:
            async with asyncio.timeout(self._max_wait), self._queue():
                while (delay := self._take()) > 0:
                    await self._clock.sleep(delay)
        except TimeoutError:
            raise RequestTimeoutError(
                f"{request.operation}: waited more than {self._max_wait:g} s for its turn under the rate limit",
                outcome=Outcome.NOT_SENT,
                attempts=0,
            ) from None
        return await call_next(request)

    def _queue(self) -> asyncio.Lock:
        with self._lock:
            return self._queues.setdefault(asyncio.get_running_loop(), asyncio.Lock())

    def _take(self) -> float:
        with self._lock:
            return self._bucket.take(self._clock.monotonic())
