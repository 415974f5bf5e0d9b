"""Middlewares to choose from: a log of attempts, and a limit on their rate.

::

    from openrouter_async.middlewares import LoggingMiddleware, RateLimitMiddleware

    async with OpenRouter(
        middlewares=[RateLimitMiddleware(100, 60)],  # needs the extra "ratelimit"
        attempt_middlewares=[LoggingMiddleware()],
    ) as client: ...

The package does not import this module by itself.
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
    """Logs how each attempt ends; it belongs among the ``attempt_middlewares`` of a client.

    Every record has the attributes ``event`` (see `openrouter_async.events`), ``operation``, ``attempt``, ``server``
    and ``elapsed`` (seconds); one of an answer also ``status`` and ``request_id``, one of a failure ``outcome`` and
    ``error`` (the name of its class). No record holds a header, a body, or any other place of a secret.

    Args:
        logger: Where records go; by default ``openrouter_async.middlewares``.
        level: Their level.
    """

    def __init__(self, logger: logging.Logger | None = None, *, level: int = logging.DEBUG) -> None:
        self._logger = logging.getLogger(__name__) if logger is None else logger
        self._level = level

    async def __call__(self, request: Request, call_next: Handler) -> Response:
        """Send a request, and log how that ends."""
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
    """Lets so many requests pass in so much time, and has others wait for their turn; needs the extra ``ratelimit``.

    Among the ``middlewares`` of a client it counts calls, and a call has its whole time once its turn has come. Among
    the ``attempt_middlewares`` it counts attempts, retries too; then ``max_wait`` keeps a call from taking longer than
    its policy says. Clients that are given the same object share its limit.

    Args:
        max_rate: Requests in a ``time_period``, and in one go, from 1.
        time_period: Seconds.
        max_wait: Seconds that a request waits for its turn at the most; then a `RequestTimeoutError` says that it was
            not sent. None waits for as long as it takes.

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
        """Send a request when its turn has come."""
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
            # A limiter belongs to the loop that it was first used in.
            self._limiter, self._loop = self._make_limiter(), loop
        return self._limiter
