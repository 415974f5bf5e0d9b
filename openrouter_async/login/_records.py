"""What stores hold and what they promise.

A login is *pending*, then *claimed* by one callback at a time, and at last *spent*. A claim is a lease: it is renewed
while the exchange runs, and lapses when its worker dies, so that another callback can take the login over.
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
"""Seconds that a store remembers a login beyond its end, so that "expired" can be told from "unknown"."""


def login_id(state: str) -> str:
    """Return the name of a login in stores, a digest, so that neither they nor their logs can reveal the state.

    Args:
        state: The login's state.
    """
    return hashlib.sha256(b"login:" + state.encode()).hexdigest()


def digest(state: str, purpose: str, value: str | None) -> str:
    """Return an HMAC of a value keyed by the state.

    A low-entropy value, such as a chat id, cannot be found by trial from what is in the store.

    Args:
        state: The login's state.
        purpose: The kind of the value; values of different kinds have different digests.
        value: The value; None for none.
    """
    text = purpose if value is None else f"{purpose}={value}"
    return hmac.new(state.encode(), text.encode(errors="surrogatepass"), hashlib.sha256).hexdigest()


@attrs.frozen(kw_only=True)
class LoginRecord:
    """A login that was started, as a store holds it.

    Attributes:
        id: Its `openrouter_async.login.stores.login_id`.
        pkce: The verifier, and how its challenge was derived.
        expires_at: When it is over, in seconds since the epoch.
        binding: The `openrouter_async.login.stores.digest` of the browser or chat that it belongs to.
        context: What the app wants back, JSON.
        return_to: Where the app wants to lead the user.
    """

    id: str
    pkce: PKCEPair
    expires_at: float
    binding: str = attrs.field(repr=mask)
    context: Any = attrs.field(default=None, repr=False)
    return_to: str | None = None

    def to_json(self) -> bytes:
        """The record as bytes; they hold the verifier."""
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
        """The record of bytes that `to_json` made.

        Raises:
            LoginStoreError: They are something else.
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
            # The errors of these quote what they were given.
            raise LoginStoreError("what the store holds is not a login") from None


@attrs.frozen(kw_only=True)
class KeyRecord:
    """What a login gave, kept for a short while for a browser that asks again.

    Attributes:
        key: The user's API key.
        user_id: The user's id.
        code: The `openrouter_async.login.stores.digest` of the code that it was given for.
        delivered: Whether ``on_key`` took it.
        context: What the app wants back, JSON.
        return_to: Where the app wants to lead the user.
    """

    key: str = attrs.field(repr=mask_key)
    user_id: str | None
    code: str = attrs.field(repr=mask)
    delivered: bool = True
    context: Any = attrs.field(default=None, repr=False)
    return_to: str | None = None

    def to_json(self) -> bytes:
        """The record as bytes; they hold the key."""
        return _dump(attrs.asdict(self))

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """The record of bytes that `to_json` made.

        Raises:
            LoginStoreError: They are something else.
        """
        return read_fields(cls, data, "what the store holds is not a result")


@attrs.frozen(kw_only=True)
class ClaimRequest:
    """A callback that wants to finish a login.

    Attributes:
        login_id: Which one.
        binding: The `openrouter_async.login.stores.digest` of the browser or chat that it came from.
        is_bound: Whether there was anything to make that digest of.
        token: What tells it from other callbacks of the same login.
        cookies: The cookies that came with it.
    """

    login_id: str
    binding: str = attrs.field(repr=mask)
    is_bound: bool
    token: str = attrs.field(repr=mask)
    cookies: Mapping[str, str] = attrs.field(factory=dict[str, str], repr=False)


class ClaimStatus(enum.StrEnum):
    """How a store answers a claimant."""

    CLAIMED = "claimed"
    """The login is the claimant's, until its lease ends."""
    BUSY = "busy"
    """It is another claimant's."""
    FINISHED = "finished"
    """It is spent, and its result is here."""
    CONSUMED = "spent"
    """It is spent, and no result is kept."""
    BINDING_MISMATCH = "elsewhere"
    """It belongs to another browser or chat; nothing has changed."""
    UNKNOWN = "unknown"
    """There is no such login, or not any more."""


@attrs.frozen(kw_only=True)
class Claim:
    """The answer of a store to a claimant.

    Attributes:
        status: How it stands.
        login: The login, when it is claimed.
        result: What it gave, when it is finished.
        lost: Whether an earlier claimant's lease ended before it said how its exchange went.
        same_browser: Whether the store itself has shown that the login belongs to the claimant's browser.
    """

    status: ClaimStatus
    login: LoginRecord | None = None
    result: KeyRecord | None = attrs.field(default=None, repr=mask_optional)
    lost: bool = False
    same_browser: bool = False


class LoginStore(Protocol):
    """Where logins are between their start and their end.

    Every operation is atomic, and doing it twice is doing it once. ``now`` is in seconds since the epoch, and
    whatever has a lifetime is forgotten after it. A store that cannot be reached raises `LoginStoreError`.
    """

    async def put(self, login: LoginRecord, *, now: float) -> LoginCookie | None:
        """Hold a pending login until `TOMBSTONE_TTL` after its end; one that is known already stays as it is.

        Args:
            login: The login.
            now: The time.

        Returns:
            A cookie that the user's browser has to bring back; None when there is no need.
        """
        ...

    async def claim(self, claimant: ClaimRequest, *, now: float, lease: float) -> Claim:
        """Give the login to the claimant, or say why not.

        It is given when the binding is the login's own and the login is pending, or another's lease is over. To the
        claimant that has it already it is given again: that renews the lease.

        Args:
            claimant: Who wants it.
            now: The time.
            lease: Seconds until another one may take it.
        """
        ...

    async def restore(self, claimant: ClaimRequest, *, now: float) -> None:
        """Make the claimant's login pending again; do nothing when it is not, or no longer, the claimant's.

        Args:
            claimant: Who gives it back.
            now: The time.
        """
        ...

    async def finish(
        self, claimant: ClaimRequest, result: KeyRecord | None, *, now: float, keep: float
    ) -> LoginCookie | None:
        """Make the login spent.

        Without a result this is done only when the login is the claimant's. A result is always kept, for it is a key.

        Args:
            claimant: Who had it.
            result: What it gave; None when it gave nothing.
            now: The time.
            keep: Seconds to keep the result, which is held in memory or encrypted, or not at all.

        Returns:
            A cookie to set in place of the login's; None when there is no need.
        """
        ...


def _dump(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def _method(value: object) -> CodeChallengeMethod:
    return CodeChallengeMethod(value)  # type: ignore[arg-type]


def read_fields(kind: type[T], data: bytes, complaint: str) -> T:
    """The value whose fields are the members of a JSON object.

    Raises:
        LoginStoreError: It is none, says the complaint.
    """
    try:
        return kind(**json.loads(data))
    except (ValueError, TypeError, RecursionError):
        # The errors of these quote what they were given.
        raise LoginStoreError(complaint) from None
