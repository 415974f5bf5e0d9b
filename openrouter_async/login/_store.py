"""The protocols of stores: values under a lease.

A stored item is *pending*, then *claimed* by one request at a time, and finally *consumed*. A claim is a lease: it is
renewed while the exchange runs, and ends when its worker dies, so that another request can take the item over.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, Protocol, runtime_checkable

import attrs

from openrouter_async.login._models import LoginCookie
from openrouter_async.redaction._masks import mask

TOMBSTONE_TTL: Final = 60.0
"""The seconds for which a store remembers an item after its end, to distinguish "expired" from "unknown"."""


@attrs.frozen(kw_only=True)
class LeaseItem:
    """A pending login or a queued exchange, as a store holds it.

    Attributes:
        id: The name of the item.
        value: The content; it may hold a verifier, and must be encrypted if it leaves the process.
        binding: The digest of the browser or chat that the item belongs to.
        expires_at: The end of the item, in seconds since the epoch.
        source: The origin of the item, for stores that bound items by it.
    """

    id: str
    value: bytes = attrs.field(repr=False)
    binding: str = attrs.field(repr=mask)
    expires_at: float
    source: str | None = attrs.field(default=None, eq=False, repr=False)


@attrs.frozen(kw_only=True)
class ClaimRequest:
    """The request of a callback or worker to finish an item.

    Attributes:
        id: The name of the item.
        binding: The digest of the browser or chat that the request came from.
        is_bound: Whether the request came with a binding.
        token: A random value that distinguishes this request from others for the same item.
        cookies: The cookies of the request.
        single_use: Whether no other request may get the same result, whichever browser it comes from.
    """

    id: str
    binding: str = attrs.field(repr=mask)
    is_bound: bool
    token: str = attrs.field(repr=mask)
    cookies: Mapping[str, str] = attrs.field(factory=dict[str, str], repr=False)
    single_use: bool = False


class ClaimStatus(enum.StrEnum):
    """The answer of a store to a `ClaimRequest`."""

    CLAIMED = "claimed"
    """The item belongs to this request until its lease ends."""
    BUSY = "busy"
    """Another request has the item, and its lease has not ended."""
    FINISHED = "finished"
    """The item is over, and its result is in the answer."""
    CONSUMED = "consumed"
    """The item is over, and no result is kept."""
    BINDING_MISMATCH = "binding_mismatch"
    """The item belongs to another browser or chat; nothing has changed."""
    UNKNOWN = "unknown"
    """The store has no such item, or has forgotten it."""


@attrs.frozen(kw_only=True)
class Claim:
    """The answer of a store to a `ClaimRequest`, with its data.

    Attributes:
        status: The kind of the answer.
        value: The content of the item if it is claimed, and its result if it is finished; empty otherwise.
        lost: Whether the lease of an earlier request ended before the result of its exchange was recorded.
        same_browser: Whether the store itself has shown that the request comes from the browser of the item.
    """

    status: ClaimStatus
    value: bytes = attrs.field(default=b"", repr=False)
    lost: bool = False
    same_browser: bool = False


class LoginStore(Protocol):
    """Keeps logins between their start and their end.

    Every operation is atomic and idempotent. ``now`` is in seconds since the epoch; an item is forgotten after its
    lifetime. A store that cannot be reached raises `LoginStoreError`.
    """

    async def put(self, item: LeaseItem, *, now: float) -> LoginCookie | None:
        """Hold a pending item until `TOMBSTONE_TTL` after its end; do not change an item that is known already.

        Args:
            item: The item.
            now: The current time.

        Returns:
            A cookie for the user's browser; None when the store needs none.
        """
        ...

    async def claim(self, claim_request: ClaimRequest, *, now: float, claim_ttl: float) -> Claim:
        """Claim the item for a request, or renew the claim of the same request.

        The claim succeeds if the binding is that of the item, and the item is pending or the lease of another request
        has ended.

        Args:
            claim_request: The request.
            now: The current time.
            claim_ttl: The seconds until another request may take the item over.

        Returns:
            The claimed item, or the reason why it cannot be claimed.
        """
        ...

    async def release(self, claim_request: ClaimRequest, *, now: float) -> None:
        """Make the item pending again, unless the request does not have it any more.

        Args:
            claim_request: The request that has the item.
            now: The current time.
        """
        ...

    async def finish(
        self, claim_request: ClaimRequest, result: bytes | None, *, now: float, result_ttl: float
    ) -> LoginCookie | None:
        """End the item.

        Without a result this requires that the request still has the item. A result is recorded in any case: it is a
        key.

        Args:
            claim_request: The request that had the item.
            result: The result; None if there is none.
            now: The current time.
            result_ttl: The seconds to keep the result, which must be encrypted if it leaves the process.

        Returns:
            A cookie that replaces the item's; None when the store needs none.
        """
        ...


@runtime_checkable
class LeaseStore(LoginStore, Protocol):
    """A `LoginStore` that also keeps values by name, each until its time is over, as bots need it.

    The values hold the states of logins and, for at most ten minutes, codes; never a verifier or a key.
    """

    async def set(self, name: str, value: bytes, *, now: float, until: float) -> None:
        """Store a value, in place of an earlier one of the same name.

        Args:
            name: The name of the value.
            value: The value.
            now: The current time.
            until: The time after which the value may be dropped.
        """
        ...

    async def get(self, name: str, *, now: float) -> bytes | None:
        """Return the value of this name; None if there is none or its time is over.

        Args:
            name: The name of the value.
            now: The current time.
        """
        ...

    async def delete(self, name: str) -> None:
        """Delete the value of this name, if there is one."""
        ...
