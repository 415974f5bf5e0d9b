"""The values that travel through the middlewares, and the chain that they make."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeAlias

import attrs
from yarl import URL

from openrouter_async._http.retry_policy import RetryPolicy
from openrouter_async.errors import OpenRouterError, Outcome, RequestValidationError
from openrouter_async.redaction import redact_headers


class SendState:
    """Whether the server may have carried out a call; one for all attempts of the call.

    Attributes:
        maybe_processed: True from the moment a request body is written until an answer shows that it was refused.
        cancelled: Whether the call was given up; nothing more of it is to be written.
        key_saved: Whether the result is in its safe place, whoever takes it.
    """

    # On the class, as most of them keep what they begin with.
    maybe_processed = False
    cancelled = False
    key_saved = False


@attrs.frozen(kw_only=True, eq=False)
class Request:
    """An HTTP request on its way to the server.

    A middleware passes on another one by ``attrs.evolve(request, …)``.

    Attributes:
        method: The HTTP method.
        url: The absolute URL.
        headers: The headers to send; those of the connection are added by the transport.
        body: The serialized body.
        operation: The ``operationId`` of the API: ``exchangeAuthCodeForAPIKey`` or ``createAuthKeysCode``.
        timeout: Seconds for one attempt.
        retry: The policy for this call.
        attempt: The number of this attempt, from 1.
        secrets: The values in this request that must not be shown.
        send_state: What is known of the call's way to the server.
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


@attrs.frozen(kw_only=True, eq=False)
class Attempt:
    """An attempt that failed and was followed by another.

    Attributes:
        number: Its number, from 1.
        error: How it failed.
        elapsed: Seconds that it took.
        wait: Seconds between it and the next attempt.
    """

    number: int
    error: OpenRouterError
    elapsed: float
    wait: float

    @property
    def is_ambiguous(self) -> bool:
        """Whether the server may have carried it out."""
        return self.error.outcome is Outcome.UNKNOWN

    def __str__(self) -> str:
        return f"attempt {self.number}: {self.error} after {self.elapsed:.2f} s; waited {self.wait:.2f} s"


@attrs.frozen(kw_only=True, eq=False)
class Response:
    """An HTTP answer, read completely.

    Attributes:
        status_code: The HTTP status, whatever it is: only the lack of an answer is raised.
        headers: The headers, looked up without regard to case.
        body: The body, decompressed.
        elapsed: Seconds from the start of the attempt to the last byte.
        waited: Those of them that passed before the request was written: for a connection of the pool, or a new one.
        history: The attempts before this one.
        notes: What else there is to say, such as why it was not retried; an error made of the answer carries them.
    """

    status_code: int
    headers: Mapping[str, str] = attrs.field(repr=redact_headers)
    body: bytes = attrs.field(repr=False)
    elapsed: float
    waited: float = 0.0
    history: tuple[Attempt, ...] = ()
    notes: tuple[str, ...] = ()


Handler: TypeAlias = Callable[[Request], Awaitable[Response]]
"""Sends a request and gives its answer."""

Middleware: TypeAlias = Callable[[Request, Handler], Awaitable[Response]]
"""Wraps a `Handler`: ``async def middleware(request, call_next) -> Response``.

It may change the request, answer without sending, call ``call_next`` more than once, and change the answer. It sees
every HTTP status as a `Response`; only the lack of an answer is raised, as a `TransportError`. What it raises itself
reaches the caller as it is. One that sends a request again puts the attempts that failed before what it has in the
``history`` of the answer or the error: the outcome is told from there. The time that it takes itself is its own
business: `Request.timeout` bounds what the transport does, and `RetryPolicy.max_elapsed_time` when another attempt may
begin.
"""


def build_chain(field: str, middlewares: Iterable[Middleware], handler: Handler) -> Handler:
    """Wrap a handler in middlewares, the first outermost.

    Args:
        field: The name of the argument that they came by.
        middlewares: The middlewares.
        handler: What the last one calls.

    Raises:
        RequestValidationError: One of them is not an async callable of two arguments.
    """
    for middleware in reversed(tuple(middlewares)):
        _check_middleware(field, middleware)
        handler = _wrap(middleware, handler)
    return handler


def _wrap(middleware: Middleware, call_next: Handler) -> Handler:
    # Python enters a function of its own more quickly than a partial, or an object that can be called.
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
