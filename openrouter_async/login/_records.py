"""The records and the protocol of login stores.

A login is *pending*, then *claimed* by one callback at a time, and finally *consumed*. A claim is a lease: it is
renewed while the exchange runs, and ends when its worker dies, so that another callback can take the login over.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any, Final, Protocol, Self, TypeVar

import attrs

from openrouter_async._values.models import CodeChallengeMethod
from openrouter_async.login._models import LoginCookie
from openrouter_async.login.errors import LoginStoreError
from openrouter_async.pkce import PKCEPair
from openrouter_async.redaction import mask, mask_key, mask_optional

T = TypeVar("T")

TOMBSTONE_TTL: Final = 60.0
"""The seconds for which a store remembers a login after its end, to distinguish "expired" from "unknown"."""


def login_id(state: str) -> str:
    """Return the name of a login in stores, a digest, so that neither they nor their logs can reveal the state.

    Args:
        state: The login's state.

    Returns:
        64 hexadecimal digits.
    """
    return hashlib.sha256(b"login:" + state.encode()).hexdigest()


def digest(state: str, context: str, value: str | None) -> str:
    """Return an HMAC of a value keyed by the state.

    A low-entropy value, such as a chat id, cannot be found by trial from what is in the store.

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
class LoginRecord:
    """A pending login, as a store holds it.

    Attributes:
        id: The `openrouter_async.login.stores.login_id` of the state.
        pkce: The verifier and the method of its challenge.
        expires_at: The end of the login, in seconds since the epoch.
        binding: The `openrouter_async.login.stores.digest` of the browser or chat that it belongs to.
        context: The app's own data, JSON.
        return_to: The path to which the app redirects the user after the login.
        source: The origin of the login, for stores that bound logins by it; it is not in the JSON.
    """

    id: str
    pkce: PKCEPair
    expires_at: float
    binding: str = attrs.field(repr=mask)
    context: Any = attrs.field(default=None, repr=False)
    return_to: str | None = None
    source: str | None = attrs.field(default=None, eq=False, repr=False)

    def to_json(self) -> bytes:
        """Return the record as JSON, which includes the verifier."""
        return _dump(
            {
                "id": self.id,
                "verifier": self.pkce.code_verifier,
                "method": self.pkce.code_challenge_method,
                "expires": self.expires_at,
                "binding": self.binding,
                "context": self.context,
                "return_to": self.return_to,
            }
        )

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Return the record of the result of `to_json`.

        Raises:
            LoginStoreError: The bytes are something else.
        """
        try:
            fields = json.loads(data)
            return cls(
                id=fields["id"],
                pkce=PKCEPair(code_verifier=fields["verifier"], code_challenge_method=_method(fields["method"])),
                expires_at=float(fields["expires"]),
                binding=fields["binding"],
                context=fields["context"],
                return_to=fields["return_to"],
            )
        except (ValueError, KeyError, TypeError, RecursionError):
            # Their messages quote the input.
            raise LoginStoreError("the value in the store is not a login") from None


@attrs.frozen(kw_only=True)
class KeyRecord:
    """The result of a login, kept for a short time for a browser that sends its callback again.

    Attributes:
        key: The user's API key.
        user_id: The user's id.
        code: The `openrouter_async.login.stores.digest` of the code.
        delivered: Whether ``on_key`` succeeded.
        context: The app's own data, JSON.
        return_to: The path to which the app redirects the user after the login.
    """

    key: str = attrs.field(repr=mask_key)
    user_id: str | None
    code: str = attrs.field(repr=mask)
    delivered: bool = True
    context: Any = attrs.field(default=None, repr=False)
    return_to: str | None = None

    def to_json(self) -> bytes:
        """Return the record as JSON, which includes the key."""
        return _dump(attrs.asdict(self))

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Return the record of the result of `to_json`.

        Raises:
            LoginStoreError: The bytes are something else.
        """
        return read_fields(cls, data, "the value in the store is not a result")


@attrs.frozen(kw_only=True)
class ClaimRequest:
    """The request of a callback to finish a login.

    Attributes:
        login_id: The id of the login.
        binding: The `openrouter_async.login.stores.digest` of the browser or chat that it came from.
        is_bound: Whether the callback came with a binding.
        token: A random value that distinguishes this callback from others of the same login.
        cookies: The cookies of the callback.
    """

    login_id: str
    binding: str = attrs.field(repr=mask)
    is_bound: bool
    token: str = attrs.field(repr=mask)
    cookies: Mapping[str, str] = attrs.field(factory=dict[str, str], repr=False)


class ClaimStatus(enum.StrEnum):
    """The answer of a store to a `ClaimRequest`."""

    CLAIMED = "claimed"
    """The login belongs to this request until its lease ends."""
    BUSY = "busy"
    """Another request has the login, and its lease has not ended."""
    FINISHED = "finished"
    """The login is over, and its result is in the answer."""
    CONSUMED = "consumed"
    """The login is over, and no result is kept."""
    BINDING_MISMATCH = "binding_mismatch"
    """The login belongs to another browser or chat; nothing has changed."""
    UNKNOWN = "unknown"
    """The store has no such login, or has forgotten it."""


@attrs.frozen(kw_only=True)
class Claim:
    """The answer of a store to a `ClaimRequest`, with its data.

    Attributes:
        status: The kind of the answer.
        login: The login, if it is claimed.
        result: The result, if the login is finished and it is kept.
        lost: Whether the lease of an earlier request ended before the result of its exchange was recorded.
        same_browser: Whether the store itself has shown that the request comes from the browser of the login.
    """

    status: ClaimStatus
    login: LoginRecord | None = None
    result: KeyRecord | None = attrs.field(default=None, repr=mask_optional)
    lost: bool = False
    same_browser: bool = False


class LoginStore(Protocol):
    """Keeps logins between their start and their end.

    Every operation is atomic and idempotent. ``now`` is in seconds since the epoch; a record is forgotten after its
    lifetime. A store that cannot be reached raises `LoginStoreError`.
    """

    async def put(self, login: LoginRecord, *, now: float) -> LoginCookie | None:
        """Hold a pending login until `TOMBSTONE_TTL` after its end; do not change a login that is known already.

        Args:
            login: The login.
            now: The current time.

        Returns:
            A cookie for the user's browser; None when the store needs none.
        """
        ...

    async def claim(self, claim_request: ClaimRequest, *, now: float, claim_ttl: float) -> Claim:
        """Claim the login for a request, or renew the claim of the same request.

        The claim succeeds if the binding is that of the login, and the login is pending or the lease of another request
        has ended.

        Args:
            claim_request: The request.
            now: The current time.
            claim_ttl: The seconds until another request may take the login over.

        Returns:
            The claimed login, or the reason why it cannot be claimed.
        """
        ...

    async def release(self, claim_request: ClaimRequest, *, now: float) -> None:
        """Make the login pending again, unless the request does not have it any more.

        Args:
            claim_request: The request that has the login.
            now: The current time.
        """
        ...

    async def finish(
        self, claim_request: ClaimRequest, result: KeyRecord | None, *, now: float, result_ttl: float
    ) -> LoginCookie | None:
        """End the login.

        Without a result this requires that the request still has the login. A result is recorded in any case: it is a
        key.

        Args:
            claim_request: The request that had the login.
            result: The result; None if there is none.
            now: The current time.
            result_ttl: The seconds to keep the result, which must be encrypted if it leaves the process.

        Returns:
            A cookie that replaces the login's; None when the store needs none.
        """
        ...


def _dump(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def _method(value: object) -> CodeChallengeMethod:
    return CodeChallengeMethod(value)  # type: ignore[arg-type]


def read_fields(kind: type[T], data: bytes, complaint: str) -> T:
    """Return the value whose fields are the members of a JSON object.

    Raises:
        LoginStoreError: The data are something else; `complaint` is the message.
    """
    try:
        return kind(**json.loads(data))
    except (ValueError, TypeError, RecursionError):
        # Their messages quote the input.
        raise LoginStoreError(complaint) from None
