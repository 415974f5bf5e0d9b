"""What goes into a batch, and what comes out of it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterable, Callable, Iterable
from typing import TypeAlias

import attrs

from openrouter_async._values.models import ExchangeAuthCodeForAPIKeyRequest, ExchangeAuthCodeForAPIKeyResponse
from openrouter_async.errors import KeyDeliveryError, OpenRouterError, Outcome, TransportError
from openrouter_async.events import Event

logger = logging.getLogger("openrouter_async.batch")

Requests: TypeAlias = (
    Iterable[ExchangeAuthCodeForAPIKeyRequest | str] | AsyncIterable[ExchangeAuthCodeForAPIKeyRequest | str]
)
"""Whole requests, or bare codes for those that need no verifier. It may have no end."""


# With slots, a frozen one takes three times as long to make.
@attrs.frozen(kw_only=True, slots=False)
class ExchangeResult:
    """What became of one request of a batch.

    Either `response` is set or `error`, never both.

    Attributes:
        index: The place of the request in the input, from 0.
        request: The request; None when the input was not a valid one.
        response: What the exchange gave.
        error: How it failed: an `OpenRouterError`, or whatever a middleware of the app raised.
    """

    index: int
    request: ExchangeAuthCodeForAPIKeyRequest | None = None
    response: ExchangeAuthCodeForAPIKeyResponse | None = None
    error: Exception | None = None

    @property
    def key(self) -> str | None:
        """The user's API key, wherever it is: also when only ``on_key`` failed. None when there is none."""
        response = self.error.response if isinstance(self.error, KeyDeliveryError) else self.response
        return None if response is None else response.key

    @property
    def outcome(self) -> Outcome:
        """What became of the request."""
        if self.error is None:
            return Outcome.COMPLETED
        return self.error.outcome if isinstance(self.error, OpenRouterError) else Outcome.UNKNOWN

    def unwrap(self) -> ExchangeAuthCodeForAPIKeyResponse:
        """The response.

        Raises:
            Exception: The error, when there is no response.
        """
        if self.error is not None:
            raise self.error
        assert self.response is not None  # noqa: S101 - one of the two is set
        return self.response


def not_sent(reason: str) -> OpenRouterError:
    """The error for a request that was taken, and not sent before its batch ended."""
    return TransportError(f"not sent: {reason}", outcome=Outcome.NOT_SENT, attempts=0)


def log_lost_keys(results: Iterable[ExchangeResult]) -> None:
    """Say that the consumer will not get these results, and that their keys are nowhere else."""
    lost = sum(result.key is not None for result in results)
    if lost:
        logger.error(
            "%d key(s) of a batch are lost: it was left before its end, and no on_key is set",
            lost,
            extra={"event": Event.KEY_LOST, "keys": lost},
        )


StopOn: TypeAlias = Callable[[ExchangeResult], object] | type[Exception] | tuple[type[Exception], ...]
"""What ends a batch: classes of errors, or a callable that says so of a result."""
