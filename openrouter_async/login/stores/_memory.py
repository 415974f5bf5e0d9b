"""Logins in the memory of one process."""

from __future__ import annotations

import hmac
from collections import OrderedDict, deque

import attrs

from openrouter_async._values.validation import check_integer
from openrouter_async.login._models import LoginCookie
from openrouter_async.login._store import TOMBSTONE_TTL, Claim, ClaimRequest, ClaimStatus, LeaseItem


@attrs.define(slots=True)
class _Entry:
    binding: str = attrs.field(repr=False)
    forget_at: float
    # None once the item is consumed, so that its verifier is not held any longer.
    item: LeaseItem | None = None
    token: str | None = attrs.field(default=None, repr=False)
    lease_ends_at: float = 0.0
    lost: bool = False
    result: bytes | None = attrs.field(default=None, repr=False)
    result_ends_at: float = 0.0


@attrs.frozen(kw_only=True)
class MemoryStoreStats:
    """The contents of a `MemoryStore`.

    Attributes:
        pending: The logins that are not over.
        consumed: The logins that are over, and still remembered.
        evicted: The logins and values that were forgotten before their time, because there were too many.
    """

    pending: int
    consumed: int
    evicted: int


class MemoryStore:
    """Holds logins in this process, for apps that run as one.

    They are bounded in number and time. When there are too many, the oldest pending ones are forgotten: to refuse new
    ones instead would let anyone who starts many logins lock everybody out. Logins that are over are forgotten last, so
    that a flood of new ones cannot make a used login usable again.

    Args:
        max_logins: The maximum number of logins to hold, including those that are over; and of values of bots.
        max_logins_per_source: The maximum number of pending logins of one ``source`` of `AuthorizationFlow.start`;
            beyond it the oldest of this source are forgotten.

    Raises:
        RequestValidationError: A bound is not a positive integer.
    """

    def __init__(self, *, max_logins: int = 10_000, max_logins_per_source: int = 20) -> None:
        for name, value in (("max_logins", max_logins), ("max_logins_per_source", max_logins_per_source)):
            check_integer(name, value)
        self._max_logins = max_logins
        self._max_logins_per_source = max_logins_per_source
        self._pending: OrderedDict[str, _Entry] = OrderedDict()
        self._consumed: OrderedDict[str, _Entry] = OrderedDict()
        self._by_source: dict[str, OrderedDict[str, None]] = {}
        self._values: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._evicted = 0
        # Results with their expiry times, in order of arrival, which is the order of expiry if `result_ttl` never
        # changes.
        self._results: deque[tuple[float, _Entry]] = deque()

    def __len__(self) -> int:
        """Return the number of logins in the store, including those that are over."""
        return len(self._pending) + len(self._consumed)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self)}/{self._max_logins}>"

    def stats(self) -> MemoryStoreStats:
        """Return the numbers of logins in the store, for health checks."""
        return MemoryStoreStats(pending=len(self._pending), consumed=len(self._consumed), evicted=self._evicted)

    async def put(self, item: LeaseItem, *, now: float) -> LoginCookie | None:
        """Hold a pending login; see `LoginStore.put`."""
        if self._find(item.id, now) is None:
            self._pending[item.id] = _Entry(binding=item.binding, forget_at=item.expires_at + TOMBSTONE_TTL, item=item)
            if item.source is not None:
                siblings = self._by_source.setdefault(item.source, OrderedDict())
                siblings[item.id] = None
                if len(siblings) > self._max_logins_per_source:
                    self._evict_pending(next(iter(siblings)))
            self._bound()
        return None

    async def claim(self, claim_request: ClaimRequest, *, now: float, claim_ttl: float) -> Claim:
        """Claim the login; see `LoginStore.claim`."""
        entry = self._find(claim_request.id, now)
        if entry is None:
            return Claim(status=ClaimStatus.UNKNOWN)
        if not hmac.compare_digest(entry.binding.encode(), claim_request.binding.encode()):
            return Claim(status=ClaimStatus.BINDING_MISMATCH)
        if entry.item is None:
            if entry.result is None or entry.result_ends_at <= now:
                return Claim(status=ClaimStatus.CONSUMED)
            return Claim(status=ClaimStatus.FINISHED, value=entry.result)
        if entry.token is not None and entry.token != claim_request.token:
            if entry.lease_ends_at > now:
                return Claim(status=ClaimStatus.BUSY)
            entry.lost = True
        entry.token = claim_request.token
        entry.lease_ends_at = now + claim_ttl
        entry.forget_at = max(entry.forget_at, now + claim_ttl + TOMBSTONE_TTL)
        return Claim(status=ClaimStatus.CLAIMED, value=entry.item.value, lost=entry.lost)

    async def release(self, claim_request: ClaimRequest, *, now: float) -> None:
        """Make the login pending again; see `LoginStore.release`."""
        entry = self._find(claim_request.id, now)
        if entry is not None and entry.token == claim_request.token:
            entry.token = None

    async def finish(
        self, claim_request: ClaimRequest, result: bytes | None, *, now: float, result_ttl: float
    ) -> LoginCookie | None:
        """End the login; see `LoginStore.finish`."""
        entry = self._find(claim_request.id, now)
        if entry is None:
            entry = _Entry(binding=claim_request.binding, forget_at=now + result_ttl + TOMBSTONE_TTL)
        elif result is None and entry.token != claim_request.token:
            return None
        self._drop_pending(claim_request.id)
        entry.item = entry.token = None
        self._consumed[claim_request.id] = entry
        self._bound()
        if result is not None and result_ttl > 0:
            entry.result, entry.result_ends_at = result, now + result_ttl
            entry.forget_at = max(entry.forget_at, now + result_ttl)
            self._results.append((now + result_ttl, entry))
            if len(self._results) > self._max_logins:
                self._results.popleft()[1].result = None
        return None

    async def set(self, name: str, value: bytes, *, now: float, until: float) -> None:
        """Store a value; see `LeaseStore.set`."""
        self._values.pop(name, None)
        while self._values and next(iter(self._values.values()))[0] <= now:
            self._values.popitem(last=False)
        self._values[name] = until, value
        if len(self._values) > self._max_logins:
            self._values.popitem(last=False)
            self._evicted += 1

    async def get(self, name: str, *, now: float) -> bytes | None:
        """Return a value; see `LeaseStore.get`."""
        until, value = self._values.get(name, (now, b""))
        return value if until > now else None

    async def delete(self, name: str) -> None:
        """Delete a value."""
        self._values.pop(name, None)

    def _find(self, key: str, now: float) -> _Entry | None:
        self._forget(now)
        entry = self._pending.get(key) or self._consumed.get(key)
        if entry is not None and entry.forget_at <= now:
            self._drop_pending(key)
            self._consumed.pop(key, None)
            return None
        return entry

    def _bound(self) -> None:
        while len(self) > self._max_logins:
            if self._pending:
                self._evict_pending(next(iter(self._pending)))
            else:
                self._consumed.popitem(last=False)
                self._evicted += 1

    def _evict_pending(self, key: str) -> None:
        self._drop_pending(key)
        self._evicted += 1

    def _drop_pending(self, key: str) -> None:
        entry = self._pending.pop(key, None)
        source = None if entry is None or entry.item is None else entry.item.source
        if source is not None:
            siblings = self._by_source[source]
            del siblings[key]
            if not siblings:
                del self._by_source[source]

    def _forget(self, now: float) -> None:
        # As long as all logins have the same lifetime, they expire in the order in which they arrive. Otherwise some
        # stay until the bound evicts them.
        while self._results and self._results[0][0] <= now:
            self._results.popleft()[1].result = None
        while self._pending and (first := next(iter(self._pending.items())))[1].forget_at <= now:
            self._drop_pending(first[0])
        while self._consumed and next(iter(self._consumed.values())).forget_at <= now:
            self._consumed.popitem(last=False)
