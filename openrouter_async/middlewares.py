"""Optional middlewares: a log of attempts, and a rate limit.

::

    from openrouter_async.middlewares import LoggingMiddleware, RateLimitMiddleware

    async with OpenRouter(
        middlewares=[RateLimitMiddleware(100, 60)],  # needs the extra "ratelimit"
        attempt_middlewares=[LoggingMiddleware()],
    ) as client: ...

The package does not import this module on its own.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from openrouter_async._http.chain import Handler, Request, Response
from openrouter_async._http.retry_policy import check_number
from openrouter_async._values.models import request_id_of
from openrouter_async.errors import OpenRouterError, Outcome, RequestTimeoutError
from openrouter_async.events import Event

if TYPE_CHECKING:
    from aiolimiter import AsyncLimiter

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
    """Limits the rate of requests by making them wait; needs the extra ``ratelimit``.

    Among the ``middlewares`` of a client, it limits calls, and the time of a call starts after the wait. Among the
    ``attempt_middlewares``, it limits attempts, including retries; set ``max_wait`` then, so that a call does not take
    longer than its policy allows. Clients that share one object share its limit.

    Args:
        max_rate: The maximum number of requests in a ``time_period``, also as a single burst; at least 1.
        time_period: The length of the period in seconds.
        max_wait: The maximum number of seconds that a request waits; after that, it fails unsent with a
            `RequestTimeoutError`. None waits without a limit.

    Raises:
        RequestValidationError: An argument is out of its range.
        ImportError: ``aiolimiter`` is not installed.

    See Also:
        https://aiolimiter.readthedocs.io
    """

    def __init__(self, max_rate: float, time_period: float = 60.0, *, max_wait: float | None = None) -> None:
        check_number("max_rate", max_rate, least=1)
        check_number("time_period", time_period, least=0, exclusive=True)
        if max_wait is not None:
            check_number("max_wait", max_wait, least=0)
        try:
            from aiolimiter import AsyncLimiter
        except ImportError as missing:
            raise ImportError(
                "RateLimitMiddleware needs aiolimiter: pip install 'openrouter-async[ratelimit]'"
            ) from missing
        self._make_limiter: Callable[[], AsyncLimiter] = functools.partial(AsyncLimiter, max_rate, time_period)
        self._max_wait = max_wait
        self._limiter: AsyncLimiter | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __call__(self, request: Request, call_next: Handler) -> Response:
        """Send a request as soon as the limit allows."""
        limiter = self._limiter_of_loop()
        try:
            async with asyncio.timeout(self._max_wait):
                await limiter.acquire()
        except TimeoutError:
            raise RequestTimeoutError(
                f"{request.operation}: waited more than {self._max_wait:g} s for its turn under the rate limit",
                outcome=Outcome.NOT_SENT,
                attempts=0,
            ) from None
        return await call_next(request)

    def _limiter_of_loop(self) -> AsyncLimiter:
        loop = asyncio.get_running_loop()
        if self._limiter is None or self._loop is not loop:
            # An AsyncLimiter can be used only in the loop of its first use.
            self._limiter, self._loop = self._make_limiter(), loop
        return self._limiter
