"""The exceptions of the library. The ``outcome`` of each says what became of the request.

::

    OpenRouterError
    ├── RequestValidationError (ValueError)     bad input: nothing was sent
    ├── APIError                                the server answered 4XX or 5XX
    │   ├── BadRequestResponseError             400
    │   ├── UnauthorizedResponseError           401
    │   ├── ForbiddenResponseError              403
    │   ├── ConflictResponseError               409
    │   ├── TooManyRequestsResponseError        429
    │   └── InternalServerResponseError         500
    ├── ResponseValidationError                 an answer that the API does not document
    ├── TransportError                          no HTTP answer
    │   └── RequestTimeoutError (TimeoutError)  none in time
    ├── KeyDeliveryError                        the key was issued, but ``on_key`` failed
    ├── JournalError                            a batch's journal cannot be used
    └── ClientClosedError                       the client cannot be used (any more, or here)
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final

import attrs

from openrouter_async.redaction._masks import redact_headers

if TYPE_CHECKING:
    # The models import this module, so the package adds the name at run time, for `typing.get_type_hints`.
    from openrouter_async._values.models import ExchangeAuthCodeForAPIKeyResponse

__all__ = [
    "APIError",
    "Attempt",
    "BadRequestResponseError",
    "ClientClosedError",
    "ConflictResponseError",
    "ForbiddenResponseError",
    "InternalServerResponseError",
    "JournalError",
    "KeyDeliveryError",
    "OpenRouterError",
    "Outcome",
    "RequestTimeoutError",
    "RequestValidationError",
    "ResponseValidationError",
    "TooManyRequestsResponseError",
    "TransportError",
    "UnauthorizedResponseError",
]

# A string, because compiling it would slow the import down: `re` does so on first use.
_CODE_REJECTED: Final = r"(?i)(invalid|expired|used)\b.*\bcode\b|\bcode\b.*\b(invalid|expired|used)"

_TRY_AGAIN = "OpenRouter could not be reached. Please try again in a moment."
_LOG_IN_AGAIN = "This sign-in is no longer valid. Please sign in again."
_UNCONFIRMED = (
    "It could not be confirmed whether the sign-in went through. Please sign in again; "
    "a key that is not used may be listed at https://openrouter.ai/settings/keys."
)
_BUSY = "OpenRouter is busy. Please try again in {}."
# These fields come from the login; all other input comes from the app.
_LOGIN_FIELDS: Final = frozenset({"code", "code_verifier", "code_challenge_method"})
_MISCONFIGURED = "Signing in is not possible at the moment. Please tell the operator of this app."


class Outcome(enum.StrEnum):
    """The outcome of a request: whether it was sent, refused or carried out."""

    NOT_SENT = "not_sent"
    """The request was never sent: bad input, name resolution, connect, TLS, a closed client."""
    REFUSED = "refused"
    """The server refused the request."""
    UNKNOWN = "unknown"
    """The request was sent, and the server may have carried it out."""
    COMPLETED = "completed"
    """The server carried out the request; a later step failed."""


def _busy(retry_after: float | None) -> str:
    if not retry_after:
        return _BUSY.format("a moment")
    if retry_after < 100:
        return _BUSY.format(f"{math.ceil(retry_after)} second{'s' if retry_after > 1 else ''}")
    return _BUSY.format(f"{math.ceil(retry_after / 60)} minutes")


class OpenRouterError(Exception):
    """The base class of every error that this library raises.

    Attributes:
        outcome: The outcome of the request.
        status_code: The HTTP status; None when there was no HTTP response.
        attempts: How many attempts were made to send the request, 0 for none.
        retry_after: Seconds to wait, counted from the response in which the server asked for it; None if it did not.
        history: The failed attempts before the one that this error describes.
    """

    status_code: int | None = None

    def __init__(
        self,
        message: str,
        *,
        outcome: Outcome = Outcome.NOT_SENT,
        attempts: int = 0,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.outcome = outcome
        self.attempts = attempts
        self.retry_after = retry_after
        self.history: tuple[Attempt, ...] = ()

    @property
    def user_message(self) -> str:
        """A sentence that can be shown to the person who signs in."""
        return {
            Outcome.NOT_SENT: _TRY_AGAIN,
            Outcome.REFUSED: _LOG_IN_AGAIN,
            Outcome.UNKNOWN: _UNCONFIRMED,
            Outcome.COMPLETED: _UNCONFIRMED,
        }[self.outcome]

    @property
    def restart_login(self) -> bool:
        """Whether the login has to start again because its code is used, or may be."""
        return self.outcome is not Outcome.NOT_SENT

    def __reduce__(self) -> tuple[Any, ...]:
        # By default, pickle calls the class with the message alone, without the keyword-only arguments.
        return _rebuild, (type(self), self.args), self.__dict__


@attrs.frozen(kw_only=True, eq=False)
class Attempt:
    """A failed attempt that was followed by another.

    Attributes:
        number: The number of the attempt, from 1.
        error: The failure.
        elapsed: Seconds that the attempt took.
        wait: Seconds between this attempt and the next.
    """

    number: int
    error: OpenRouterError
    elapsed: float
    wait: float

    @property
    def is_ambiguous(self) -> bool:
        """Whether the server may have carried out this attempt."""
        return self.error.outcome is Outcome.UNKNOWN

    def __str__(self) -> str:
        return f"attempt {self.number}: {self.error} after {self.elapsed:.2f} s; waited {self.wait:.2f} s"


def _rebuild(cls: type[OpenRouterError], args: tuple[Any, ...]) -> OpenRouterError:
    error = cls.__new__(cls)
    error.args = args
    return error


class RequestValidationError(OpenRouterError, ValueError):
    """Invalid input: the API would refuse it, or it would weaken the login. Nothing was sent.

    Attributes:
        field: The name of the argument or field.
    """

    def __init__(self, field: str, requirement: str) -> None:
        super().__init__(f"{field}: {requirement}")
        self.field = field

    @property
    def user_message(self) -> str:
        """A sentence that can be shown to the person who signs in."""
        return _LOG_IN_AGAIN if self.restart_login else _MISCONFIGURED

    @property
    def restart_login(self) -> bool:
        """Whether the login has to start again: True when the invalid value came from the login."""
        return self.field in _LOGIN_FIELDS


class APIError(OpenRouterError):
    """An HTTP response with a status of 400 or more.

    Attributes:
        status_code: The HTTP status.
        message: The server's message, at most 200 characters, without secrets.
        code: The ``error.code`` of the body, which usually repeats the status; None when there is none.
        metadata: The ``error.metadata`` of the body; None when there is none.
        body: The body as text, without the secrets of the request.
        headers: The headers of the response.
        request_id: The id to quote to OpenRouter's support: ``X-Request-Id``, else ``CF-Ray``; None without either.
        is_key_rejected: Whether the server rejected the user's key that `Keys.current` asked about.
    """

    status_code: int
    _classes: ClassVar[dict[int, type[APIError]]] = {}

    def __init__(
        self,
        message: str,
        *,
        status_code: int,
        outcome: Outcome,
        code: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        body: str = "",
        headers: Mapping[str, str] | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        attempts: int = 1,
    ) -> None:
        super().__init__(f"{status_code} {message}", outcome=outcome, attempts=attempts, retry_after=retry_after)
        # The error of a response always has a status; nothing assigns None here.
        self.status_code = status_code  # pyright: ignore[reportIncompatibleVariableOverride]
        self.message = message
        self.code = code
        self.metadata = metadata
        self.body = body
        self.headers = headers if headers is not None else {}
        self.request_id = request_id
        self.is_key_rejected = False

    def __init_subclass__(cls, *, status_code: int, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        APIError._classes[status_code] = cls

    @classmethod
    def for_status(cls, status_code: int) -> type[APIError]:
        """Return the class for a status: `APIError` itself where the API documents none."""
        return cls._classes.get(status_code, APIError)

    @property
    def is_code_rejected(self) -> bool:
        """Whether the server rejected the authorization code: invalid, expired, used, or with a wrong verifier.

        True for a 400 or 403 with such a message, never by the status alone.
        """
        return self.status_code in (400, 403) and re.search(_CODE_REJECTED, self.message) is not None

    @property
    def user_message(self) -> str:
        """A sentence that can be shown to the person who signs in."""
        if self.outcome is not Outcome.REFUSED:
            return super().user_message
        if self.status_code == 429:
            return _busy(self.retry_after)
        return _LOG_IN_AGAIN if self.is_code_rejected or self.is_key_rejected else _MISCONFIGURED

    @property
    def restart_login(self) -> bool:
        """Whether the login has to start again; a 429 leaves the code usable."""
        return super().restart_login and not (self.outcome is Outcome.REFUSED and self.status_code == 429)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.message!r}, status_code={self.status_code}, outcome={self.outcome.value!r}, "
            f"attempts={self.attempts}, headers={redact_headers(self.headers)})"
        )


class BadRequestResponseError(APIError, status_code=400):
    """400: the request, or the authorization code in it, is not valid."""


class UnauthorizedResponseError(APIError, status_code=401):
    """401: the bearer token is missing or not valid."""


class ForbiddenResponseError(APIError, status_code=403):
    """403: the authorization code or its verifier is not valid, or the bearer token may not do this."""


class ConflictResponseError(APIError, status_code=409):
    """409: the request conflicts with another change."""


class TooManyRequestsResponseError(APIError, status_code=429):
    """429: too many requests; the code can still be used."""


class InternalServerResponseError(APIError, status_code=500):
    """500: the server failed, possibly after it had carried out the request."""


class ResponseValidationError(OpenRouterError):
    """A response that the API does not document: a malformed 2xx, a redirect, a body too large or undecodable.

    Attributes:
        status_code: The HTTP status.
        headers: The headers of the response.
    """

    status_code: int

    def __init__(
        self,
        message: str,
        *,
        status_code: int,
        headers: Mapping[str, str] | None = None,
        attempts: int = 1,
    ) -> None:
        super().__init__(message, outcome=Outcome.UNKNOWN, attempts=attempts)
        # The error of a response always has a status; nothing assigns None here.
        self.status_code = status_code  # pyright: ignore[reportIncompatibleVariableOverride]
        self.headers = headers if headers is not None else {}


class TransportError(OpenRouterError):
    """There was no HTTP response: name resolution, connect, TLS, a dropped connection, or bytes that are not HTTP.

    Attributes:
        stale_connection: Whether a pooled connection had been closed by the server before it was used again.
        is_permanent: Whether another attempt would fail in the same way, as with an invalid certificate; such a
            failure is not retried.
    """

    def __init__(
        self,
        message: str,
        *,
        outcome: Outcome,
        attempts: int = 1,
        retry_after: float | None = None,
        stale_connection: bool = False,
        is_permanent: bool = False,
    ) -> None:
        super().__init__(message, outcome=outcome, attempts=attempts, retry_after=retry_after)
        self.stale_connection = stale_connection
        self.is_permanent = is_permanent

    @property
    def user_message(self) -> str:
        """A sentence that can be shown to the person who signs in."""
        is_held_back = self.outcome is Outcome.NOT_SENT and self.retry_after is not None
        return _busy(self.retry_after) if is_held_back else super().user_message


class RequestTimeoutError(TransportError, TimeoutError):
    """There was no HTTP response in time."""


class KeyDeliveryError(OpenRouterError):
    """``on_key`` failed or took too long. The exchange itself succeeded, and this error holds its key.

    Attributes:
        response: The result of the exchange; ``response.key`` is the only copy that this library holds.
    """

    def __init__(self, message: str, *, response: ExchangeAuthCodeForAPIKeyResponse) -> None:
        super().__init__(message, outcome=Outcome.COMPLETED, attempts=response.http_meta.attempts)
        self.response = response


class JournalError(OpenRouterError):
    """A batch's journal cannot be used: not a journal, open in another process, or not writable."""


class ClientClosedError(OpenRouterError):
    """The client is closed, belongs to another event loop, or was carried over a fork."""
