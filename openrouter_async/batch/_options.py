"""The options of a batch."""

from __future__ import annotations

from typing import Any

import attrs

from openrouter_async._values.validation import is_count, is_duration
from openrouter_async.batch._journal import Journal
from openrouter_async.batch._progress import OnProgress
from openrouter_async.batch._results import ExchangeResult, StopOn
from openrouter_async.errors import KeyDeliveryError, OpenRouterError, RequestValidationError


def _is_stop_on(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    several = value if isinstance(value, tuple) else (value,)
    are_errors = all(isinstance(kind, type) and issubclass(kind, Exception) for kind in several)
    is_function = callable(value) and not isinstance(value, type)
    if value is not None and not are_errors and not is_function:
        raise RequestValidationError(attribute.name, "must be a class of errors, a tuple of them, or a callable")


def _is_journal(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and not (isinstance(value, Journal) and value.is_open):
        raise RequestValidationError(attribute.name, "must be an open Journal: use `async with`")


def _is_callable(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and not callable(value):
        raise RequestValidationError(attribute.name, "must be callable")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Options:
    """The options of a batch; see `openrouter_async._client.oauth.OAuth.exchange_many`.

    Attributes:
        has_on_key: Whether the client has an ``on_key``.
        dedup_size: The number of results that are remembered for equal requests that come later; None for all.
    """

    concurrency: int = attrs.field(validator=is_count)
    ordered: bool = False
    stop_on: StopOn | None = attrs.field(default=None, validator=_is_stop_on)
    timeout: float | None = attrs.field(default=None, validator=attrs.validators.optional(is_duration))
    journal: Journal | None = attrs.field(default=None, validator=_is_journal)
    on_progress: OnProgress | None = attrs.field(default=None, validator=_is_callable)
    has_on_key: bool = False
    dedup_size: int | None = None

    def __attrs_post_init__(self) -> None:
        if self.journal is not None and not self.is_safe:
            raise RequestValidationError(
                "journal",
                "must have encryption_keys, or the client an on_key: else a key is lost if the process dies with it",
            )

    @property
    def is_safe(self) -> bool:
        """Whether keys are stored somewhere before the consumer gets them."""
        return self.has_on_key or (self.journal is not None and self.journal.holds_keys)

    def is_kept(self, result: ExchangeResult) -> bool:
        """Return whether the key of a result is stored somewhere; an ``on_key`` that failed has not kept it."""
        holds_keys = self.journal is not None and self.journal.holds_keys
        return holds_keys or (self.has_on_key and not isinstance(result.error, KeyDeliveryError))

    def is_stopped_by(self, result: ExchangeResult) -> object:
        """Return whether a result ends the batch, by `stop_on`."""
        if callable(self.stop_on) and not isinstance(self.stop_on, type):
            return self.stop_on(result)
        if self.stop_on is None or result.error is None:
            return False
        # What an app's middleware raises arrives as the cause of a plain OpenRouterError.
        cause = result.error.__cause__ if type(result.error) is OpenRouterError else None
        return isinstance(result.error, self.stop_on) or isinstance(cause, self.stop_on)
