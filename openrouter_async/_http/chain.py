"""Requests and responses as middlewares see them, and the chain of middlewares."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeAlias

import attrs
from yarl import URL

from openrouter_async._http.retry_policy import RetryPolicy
from openrouter_async.errors import Attempt, RequestValidationError
from openrouter_async.redaction._masks import redact_headers


class SendState:
    """The progress of a call towards the server; all attempts of a call share one state.

    Attributes:
        maybe_processed: True from the moment a request body is written until an answer shows that it was refused.
        cancelled: Whether the call was abandoned, so that nothing more of it may be written.
        key_saved: Whether ``on_key`` has saved the key, so that it is safe even if nobody takes the result.
        exchanged_before: Whether this process has exchanged the code already: True, False when that is uncertain, None
            when it has not.
        is_batched: Whether the call is part of a batch, and so keeps to the rate that the server bears.
    """

    # Class attributes, because most calls keep the initial values.
    maybe_processed = False
    cancelled = False
    key_saved = False
    exchanged_before: bool | None = None
    is_batched = False

    def finish(self, result: object) -> None:
        """Receive the result of the call, right before its coroutine returns it."""


# A frozen attrs class with this many fields is created three times as fast without slots.
@attrs.frozen(kw_only=True, eq=False, slots=False)
class Request:
    """An HTTP request before it is sent.

    A middleware changes a request by ``attrs.evolve(request, …)``.

    Attributes:
        method: The HTTP method.
        url: The absolute URL.
        headers: The headers to send; the transport adds those that belong to the connection.
        body: The serialized body.
        operation: The ``operationId`` of the API: ``exchangeAuthCodeForAPIKey`` or ``createAuthKeysCode``.
        timeout: Seconds for one attempt.
        retry: The policy for this call.
        attempt: The number of this attempt, from 1.
        secrets: The values in this request that must not appear in errors or logs.
        send_state: Whether the server may have received the call.
    """

    method: str
    url: URL
    headers: Mapping[str, str] = attrs.field(repr=redact_headers)
    body: bytes = attrs.field(repr=False)
    operation: str
    timeout: float
    retry: RetryPolicy = attrs.field(repr=False)
    attempt: int = 1
    secrets: tuple[str, ...] = attrs.field(default=(), repr=False)
    send_state: SendState = attrs.field(factory=SendState, repr=False)


@attrs.frozen(kw_only=True, eq=False, slots=False)
class Response:
    """An HTTP response whose body was read completely.

    Attributes:
        status_code: The HTTP status, including error statuses: only a missing answer is raised.
        headers: The headers, looked up without regard to case.
        body: The body, decompressed.
        elapsed: Seconds from the start of the attempt to the last byte.
        waited: The part of ``elapsed`` before the request was written: waiting for a connection, or opening one.
        history: The failed attempts before this one.
        notes: Remarks, such as why the call was not retried; they become notes of an error that is made from the
            response.
    """

    status_code: int
    headers: Mapping[str, str] = attrs.field(repr=redact_headers)
    body: bytes = attrs.field(repr=False)
    elapsed: float
    waited: float = 0.0
    history: tuple[Attempt, ...] = ()
    notes: tuple[str, ...] = ()


Handler: TypeAlias = Callable[[Request], Awaitable[Response]]
"""Sends a request and returns the response: ``async def handler(request) -> Response``."""

Middleware: TypeAlias = Callable[[Request, Handler], Awaitable[Response]]
"""Wraps a `Handler`: ``async def middleware(request, call_next) -> Response``.

A middleware may change the request, respond without sending it, call ``call_next`` more than once, and change the
response. It sees every HTTP status as a `Response`; only a missing response is raised, as a `TransportError`. An
exception that a middleware raises reaches the caller unchanged. A middleware that retries must prepend the failed
attempts to ``history`` of the response that it returns or the error that it raises; the outcome is computed from them.
Time spent in a middleware is not limited: `Request.timeout` limits the transport, and `RetryPolicy.max_elapsed_time`
the moment until which another attempt may begin.
"""


def build_chain(field: str, middlewares: Iterable[Middleware], handler: Handler) -> Handler:
    """Wrap a handler in middlewares, the first outermost.

    Args:
        field: The name of the argument to report when a middleware cannot be used.
        middlewares: The middlewares.
        handler: The handler that the innermost middleware calls.

    Returns:
        The handler to call instead.

    Raises:
        RequestValidationError: A middleware is not an async callable of two arguments.
    """
    for middleware in reversed(tuple(middlewares)):
        _check_middleware(field, middleware)
        handler = _wrap(middleware, handler)
    return handler


def _wrap(middleware: Middleware, call_next: Handler) -> Handler:
    # A plain function is called faster than a partial or an object with `__call__`.
    called: Any = middleware
    enter: Middleware = called.__call__ if inspect.ismethod(called.__call__) else middleware

    def handle(request: Request) -> Awaitable[Response]:
        return enter(request, call_next)

    return handle


def _check_middleware(field: str, middleware: Any) -> None:
    requirement = "must hold async callables of (request, call_next)"
    if not callable(middleware) or isinstance(middleware, type):
        raise RequestValidationError(field, requirement)
    if not (inspect.iscoroutinefunction(middleware) or inspect.iscoroutinefunction(middleware.__call__)):
        raise RequestValidationError(field, requirement)
    try:
        inspect.signature(middleware).bind(None, None)
    except TypeError:
        raise RequestValidationError(field, requirement) from None
