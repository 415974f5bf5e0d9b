"""The content of a login in a store, and of its result."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
from typing import Any, ClassVar, Final, Self

import attrs
from attrs.validators import instance_of

from openrouter_async._values.frames import hide_arguments
from openrouter_async._values.models import CodeChallengeMethod, validate_code_verifier
from openrouter_async.login._urls import validate_return_to
from openrouter_async.login.errors import LoginStoreError
from openrouter_async.redaction._masks import mask, mask_key

_MAX_MOMENT: Final = 253_402_300_799
"""The last second of the year 9999, the last one of which there is a date."""


def is_moment(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Raise unless a value is a number of seconds since the epoch of which there is a date; a validator of attrs."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= _MAX_MOMENT:
        raise ValueError(f"{attribute.name} must be a moment")


def is_path(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Raise unless a value is None or a path on the app's own site; a validator of attrs."""
    if value is not None:
        validate_return_to(attribute.name, value)


def _is_verifier(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    validate_code_verifier(attribute.name, value)


def login_id(state: str) -> str:
    """Return the name of a login in stores, a digest, so that neither they nor their logs can reveal the state.

    Args:
        state: The login's state.

    Returns:
        64 hexadecimal digits.
    """
    return hashlib.sha256(b"login:" + state.encode()).hexdigest()


def exchange_state(code: str, code_verifier: str) -> str:
    """Return the state of a login that has none: that of a page which brings its own code and verifier.

    Args:
        code: The authorization code.
        code_verifier: Its verifier.

    Returns:
        43 characters of base64url, the same for the same pair.
    """
    secret = hmac.new(code_verifier.encode(), b"exchange=" + code.encode(errors="surrogatepass"), hashlib.sha256)
    return base64.urlsafe_b64encode(secret.digest()).rstrip(b"=").decode()


def digest(state: str, context: str, value: str | None) -> str:
    """Return an HMAC of a value keyed by the state.

    A low-entropy value, such as a chat id, cannot be guessed from the content of the store.

    Args:
        state: The login's state.
        context: The kind of the value; equal values of different kinds have different digests.
        value: The value, or None.

    Returns:
        64 hexadecimal digits.
    """
    text = context if value is None else f"{context}={value}"
    return hmac.new(state.encode(), text.encode(errors="surrogatepass"), hashlib.sha256).hexdigest()


@attrs.frozen(kw_only=True)
class JSONRecord:
    """A value that a store holds as a JSON object of its fields.

    Attributes:
        complaint: The message of the error for bytes that are something else.
    """

    complaint: ClassVar[str]

    def to_json(self) -> bytes:
        """Return the value as JSON, with its secrets."""
        return json.dumps(attrs.asdict(self), separators=(",", ":")).encode()

    @classmethod
    @hide_arguments
    def from_json(cls, data: bytes) -> Self:
        """Return the value of the result of `to_json`.

        Raises:
            LoginStoreError: The bytes are something else.
        """
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            return cls(**json.loads(data))
        # Raised outside of a handler, as the foreign exception quotes the input.
        raise LoginStoreError(cls.complaint)


@attrs.frozen(kw_only=True)
class LoginRecord(JSONRecord):
    """A pending login.

    Attributes:
        verifier: The verifier of its challenge.
        method: The method by which the challenge was derived.
        expires_at: The end of the login, in seconds since the epoch.
        context: The app's own data, JSON.
        return_to: The path to which the app redirects the user after the login.
    """

    complaint: ClassVar[str] = "the value in the store is not a login"

    verifier: str = attrs.field(repr=mask, validator=_is_verifier)
    method: CodeChallengeMethod = attrs.field(converter=CodeChallengeMethod)
    expires_at: float = attrs.field(validator=is_moment)
    context: Any = attrs.field(default=None, repr=False)
    return_to: str | None = attrs.field(default=None, validator=is_path)


@attrs.frozen(kw_only=True)
class KeyRecord(JSONRecord):
    """The result of a login, kept for a short time for a browser that sends its callback again.

    Attributes:
        key: The user's API key.
        user_id: The user's id.
        code: The `digest` of the code.
        delivered: Whether ``on_key`` succeeded.
        context: The app's own data, JSON.
        return_to: The path to which the app redirects the user after the login.
    """

    complaint: ClassVar[str] = "the value in the store is not a result"

    key: str = attrs.field(repr=mask_key, validator=instance_of(str))
    user_id: str | None = attrs.field(validator=instance_of(str | None))
    code: str = attrs.field(repr=mask, validator=instance_of(str))
    delivered: bool = attrs.field(default=True, validator=instance_of(bool))
    context: Any = attrs.field(default=None, repr=False)
    return_to: str | None = attrs.field(default=None, validator=is_path)
