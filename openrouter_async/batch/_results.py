"""The requests of a batch, and their results."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterable, Callable, Iterable
from typing import NoReturn, TypeAlias

import attrs

from openrouter_async._values.models import ExchangeAuthCodeForAPIKeyRequest, ExchangeAuthCodeForAPIKeyResponse
from openrouter_async.errors import KeyDeliveryError, OpenRouterError, Outcome, TransportError
from openrouter_async.events import Event

logger = logging.getLogger("openrouter_async.batch")

Requests: TypeAlias = (
    Iterable[ExchangeAuthCodeForAPIKeyRequest | str] | AsyncIterable[ExchangeAuthCodeForAPIKeyRequest | str]
)
"""Requests, or bare codes that need no verifier. It may be endless."""


# Creating an instance of a frozen class with slots takes three times as long.
@attrs.frozen(kw_only=True, slots=False)
class ExchangeSuccess:
    """The result of a request that succeeded.

    Attributes:
        index: The index of the request in the input, from 0.
        request: The request.
        response: The response of the exchange.
        error: None.
    """

    index: int
    request: ExchangeAuthCodeForAPIKeyRequest
    response: ExchangeAuthCodeForAPIKeyResponse
    error: None = attrs.field(default=None, init=False)

    @property
    def key(self) -> str:
        """The user's API key."""
        return self.response.key

    @property
    def outcome(self) -> Outcome:
        """`Outcome.COMPLETED`."""
        return Outcome.COMPLETED

    def unwrap(self) -> ExchangeAuthCodeForAPIKeyResponse:
        """Return the response."""
        return self.response


@attrs.frozen(kw_only=True, slots=False)
class ExchangeFailure:
    """The result of a request that failed.

    Attributes:
        index: The index of the request in the input, from 0.
        request: The request; None if the input was not a valid request.
        error: The failure of the exchange. An exception from a middleware of the app is the ``__cause__`` of an
            `OpenRouterError` with the outcome ``UNKNOWN``.
        response: None.
    """

    index: int
    request: ExchangeAuthCodeForAPIKeyRequest | None = None
    error: OpenRouterError
    response: None = attrs.field(default=None, init=False)

    @property
    def key(self) -> str | None:
        """The user's API key if only ``on_key`` failed, else None."""
        return self.error.response.key if isinstance(self.error, KeyDeliveryError) else None

    @property
    def outcome(self) -> Outcome:
        """The outcome of the error."""
        return self.error.outcome

    def unwrap(self) -> NoReturn:
        """Raise the error.

        Raises:
            OpenRouterError: The error.
        """
        raise self.error


ExchangeResult: TypeAlias = ExchangeSuccess | ExchangeFailure
"""The result of one request of a batch. If its ``error`` is None it has a ``response``, and type checkers know that."""


def to_failure(index: int, request: ExchangeAuthCodeForAPIKeyRequest | None, error: Exception) -> ExchangeFailure:
    """Return the result of a request that raised an exception."""
    if not isinstance(error, OpenRouterError):
        wrapped = OpenRouterError(f"the exchange raised {type(error).__name__}", outcome=Outcome.UNKNOWN)
        wrapped.__cause__ = error
        return ExchangeFailure(index=index, request=request, error=wrapped)
    # The library's own errors need no traceback, whose frames take much memory.
    return ExchangeFailure(index=index, request=request, error=error.with_traceback(None))


def not_sent(reason: str) -> OpenRouterError:
    """Return the error for a request that was taken but not sent before its batch ended."""
    return TransportError(f"not sent: {reason}", outcome=Outcome.NOT_SENT, attempts=0)


def log_lost_results(results: Iterable[ExchangeResult]) -> None:
    """Log that the consumer does not get these results, which may hold the only copy of a key."""
    lost = sum(result.key is not None for result in results)
    if lost:
        logger.error(
            "%d key(s) of a batch are lost: it was left before its end, and no on_key kept them",
            lost,
            extra={"event": Event.KEY_LOST, "keys": lost},
        )


def log_unknown_results(results: Iterable[ExchangeResult]) -> None:
    """Log that nobody reads these results, if a key may have been issued that nobody has."""
    unknown = [result for result in results if result.outcome is Outcome.UNKNOWN]
    if unknown:
        logger.warning(
            "%d unread result(s) of a batch have the outcome unknown: keys may exist that nobody has. The first: %s",
            len(unknown),
            unknown[0].error,
            extra={"event": Event.UNSEEN_FAILURE, "results": len(unknown)},
        )


StopOn: TypeAlias = Callable[[ExchangeResult], object] | type[Exception] | tuple[type[Exception], ...]
"""The condition that ends a batch: classes of errors, or a callable that returns whether a result ends it."""
