"""Logins in the memory of one process."""

from __future__ import annotations

import hmac
from collections import OrderedDict, deque

import attrs

from openrouter_async.errors import RequestValidationError
from openrouter_async.login._models import LoginCookie
from openrouter_async.login._records import TOMBSTONE_TTL, Claim, ClaimRequest, ClaimStatus, KeyRecord, LoginRecord


@attrs.define(slots=True)
class _Entry:
    binding: str = attrs.field(repr=False)
    forget_at: float
    # None when it is spent: a verifier that is of no use any more is not held.
    login: LoginRecord | None = None
    token: str | None = attrs.field(default=None, repr=False)
    lease_ends_at: float = 0.0
    lost: bool = False
    result: KeyRecord | None = None
    result_ends_at: float = 0.0


class MemoryStore:
    """Holds logins in this process, for apps that run as one.

    They are bounded in number and time. When there are too many, the oldest are forgotten: refusing new ones instead
    would let anyone who starts many logins lock everybody out.

    Args:
        max_logins: The most logins to hold, spent ones included.

    Raises:
        RequestValidationError: ``max_logins`` is not an integer from 1.
    """

    def __init__(self, *, max_logins: int = 10_000) -> None:
        if isinstance(max_logins, bool) or not isinstance(max_logins, int) or max_logins < 1:
            raise RequestValidationError("max_logins", "must be an integer from 1")
        self._max_logins = max_logins
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        # Results with the time to drop them, in the order in which they came: theirs as well, if all are kept as long.
        self._results: deque[tuple[float, _Entry]] = deque()

    def __len__(self) -> int:
        """Return the number of logins in the store, including those that are over."""
        return len(self._entries)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self)}/{self._max_logins}>"

    async def put(self, login: LoginRecord, *, now: float) -> LoginCookie | None:
        """Hold a pending login; see `LoginStore.put`."""
        if self._find(login.id, now) is None:
            self._add(login.id, _Entry(binding=login.binding, forget_at=login.expires_at + TOMBSTONE_TTL, login=login))
        return None

    async def claim(self, claim_request: ClaimRequest, *, now: float, claim_ttl: float) -> Claim:
        """Claim the login; see `LoginStore.claim`."""
        entry = self._find(claim_request.login_id, now)
        if entry is None:
            return Claim(status=ClaimStatus.UNKNOWN)
        if not hmac.compare_digest(entry.binding.encode(), claim_request.binding.encode()):
            return Claim(status=ClaimStatus.BINDING_MISMATCH)
        if entry.login is None:
            if entry.result is None or entry.result_ends_at <= now:
                return Claim(status=ClaimStatus.CONSUMED)
            return Claim(status=ClaimStatus.FINISHED, result=entry.result)
        if entry.token is not None and entry.token != claim_request.token:
            if entry.lease_ends_at > now:
                return Claim(status=ClaimStatus.BUSY)
            entry.lost = True
        entry.token = claim_request.token
        entry.lease_ends_at = now + claim_ttl
        entry.forget_at = max(entry.forget_at, now + claim_ttl + TOMBSTONE_TTL)
        return Claim(status=ClaimStatus.CLAIMED, login=entry.login, lost=entry.lost)

    async def release(self, claim_request: ClaimRequest, *, now: float) -> None:
        """Make the login pending again; see `LoginStore.release`."""
        entry = self._find(claim_request.login_id, now)
        if entry is not None and entry.token == claim_request.token:
            entry.token = None

    async def finish(
        self, claim_request: ClaimRequest, result: KeyRecord | None, *, now: float, result_ttl: float
    ) -> LoginCookie | None:
        """End the login; see `LoginStore.finish`."""
        entry = self._find(claim_request.login_id, now)
        if entry is None:
            entry = _Entry(binding=claim_request.binding, forget_at=now + result_ttl + TOMBSTONE_TTL)
            self._add(claim_request.login_id, entry)
        elif result is None and entry.token != claim_request.token:
            return None
        entry.login = entry.token = None
        if result is not None and result_ttl > 0:
            entry.result, entry.result_ends_at = result, now + result_ttl
            entry.forget_at = max(entry.forget_at, now + result_ttl)
            self._results.append((now + result_ttl, entry))
            if len(self._results) > self._max_logins:
                self._results.popleft()[1].result = None
        return None

    def _find(self, key: str, now: float) -> _Entry | None:
        self._forget(now)
        entry = self._entries.get(key)
        if entry is not None and entry.forget_at <= now:
            del self._entries[key]
            return None
        return entry

    def _add(self, key: str, entry: _Entry) -> None:
        self._entries[key] = entry
        while len(self._entries) > self._max_logins:
            self._entries.popitem(last=False)

    def _forget(self, now: float) -> None:
        # Logins come in the order of their ends as long as they have one lifetime. Where they do not, some stay until
        # the bound presses them out.
        while self._results and self._results[0][0] <= now:
            self._results.popleft()[1].result = None
        while self._entries and next(iter(self._entries.values())).forget_at <= now:
            self._entries.popitem(last=False)
