"""Logins in Redis or Valkey, for apps of many workers; needs the extra ``redis``."""

from __future__ import annotations

import math
import zlib
from typing import TYPE_CHECKING, Any, Final, Self

import attrs

from openrouter_async._values.encryptor import DecryptionError, EncryptionKeys, Encryptor
from openrouter_async._values.frames import hide_arguments
from openrouter_async._values.validation import check_integer
from openrouter_async.errors import RequestValidationError
from openrouter_async.login._models import LoginCookie
from openrouter_async.login._store import TOMBSTONE_TTL, Claim, ClaimRequest, ClaimStatus, LeaseItem
from openrouter_async.login.errors import LoginStoreError
from openrouter_async.login.stores._redis_calls import bind_script, call, connect, to_bytes
from openrouter_async.login.stores._redis_scripts import CLAIM, FINISH, PUT, RELEASE, SET

if TYPE_CHECKING:
    from redis.asyncio import Redis, RedisCluster
else:
    # redis is optional at run time, but `typing.get_type_hints` must be able to resolve these names.
    Redis = RedisCluster = Any

_GROUPS: Final = 16
_MIN_BOUND: Final = 1000


@attrs.frozen(kw_only=True)
class RedisStoreStats:
    """The counters of a `RedisStore`.

    Attributes:
        evicted: The logins and values that this store, in this process, evicted before their time, because there were
            too many in the database.
    """

    evicted: int


class RedisStore:
    """Holds logins in Redis 6.2 or newer, in Valkey, or in a cluster of either.

    With ``encryption_keys`` everything secret is encrypted there. Without them anyone with access to the database can
    read the verifiers, and results are not kept: a second callback of a finished login is then refused instead of
    getting the same key.

    Each operation is idempotent. It is repeated when the connection is lost, and on a new connection when the server
    refuses it: after a failover that keeps connections open, while a server loads its data, or when a slot has moved to
    another node.

    The number of pending logins is bounded, and so is that of bots' values: when there are too many, those that expire
    first are forgotten. Logins that are over are never evicted, so a flood of new ones cannot make a used login usable
    again. The bound is approximate, within a few percent. A site on which a flood must not reach Redis at all can use a
    `CookieStore` with a `RedisStore` as its ledger, which holds only logins whose browser came back.

    Args:
        client: An asyncio client of redis-py. It is borrowed: the caller closes it.
        encryption_keys: Fernet keys, by `openrouter_async.encryption.generate_encryption_key`; the first one encrypts,
            all of them decrypt.
        prefix: The start of the names of all keys in the database.
        max_logins: The maximum number of pending logins, and of values, under this prefix; at least 1,000.

    Raises:
        RequestValidationError: An argument is not valid.
    """

    @hide_arguments
    def __init__(
        self,
        client: Redis | RedisCluster,
        *,
        encryption_keys: EncryptionKeys | None = None,
        prefix: str = "openrouter-login",
        max_logins: int = 100_000,
    ) -> None:
        if "{" in prefix or "}" in prefix:
            raise RequestValidationError("prefix", "must not contain braces, which choose the node of a cluster")
        check_integer("max_logins", max_logins, least=_MIN_BOUND)
        self._max_in_group = math.ceil(max_logins / _GROUPS)
        self._evicted = 0
        self._client = client
        self._encryptor = None if encryption_keys is None else Encryptor(encryption_keys, extra="redis")
        self._prefix = prefix
        self._is_owner = False

    @classmethod
    @hide_arguments
    def from_url(
        cls,
        url: str,
        *,
        encryption_keys: EncryptionKeys | None = None,
        prefix: str = "openrouter-login",
        max_logins: int = 100_000,
    ) -> Self:
        """Return a store with a client of its own, which `aclose` closes.

        Args:
            url: ``redis://``, ``rediss://`` or ``unix://``, as redis-py takes it.
            encryption_keys: As for `RedisStore`.
            prefix: As for `RedisStore`.
            max_logins: As for `RedisStore`.

        Raises:
            ImportError: redis is not installed.
            RequestValidationError: An argument is not valid.
        """
        store = cls(connect(url), encryption_keys=encryption_keys, prefix=prefix, max_logins=max_logins)
        store._is_owner = True
        return store

    async def aclose(self) -> None:
        """Close the client, unless it is borrowed."""
        if self._is_owner:
            await self._client.aclose()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._prefix} {'plain' if self._encryptor is None else 'encrypted'}>"

    def stats(self) -> RedisStoreStats:
        """Return the counters of this store, for health checks."""
        return RedisStoreStats(evicted=self._evicted)

    async def put(self, item: LeaseItem, *, now: float) -> LoginCookie | None:
        """Hold a pending login; see `LoginStore.put`."""
        lifetime = _milliseconds(item.expires_at + TOMBSTONE_TTL - now)
        index, name, _ = self._names(item.id)
        # No local variable holds the value: without `encryption_keys` it shows the verifier.
        evicted = await self._run(
            PUT,
            (index, name),
            *(name, lifetime, self._max_in_group, item.binding, self._seal(f"login {item.id}", item.value)),
        )
        self._evicted += evicted
        return None

    async def claim(self, claim_request: ClaimRequest, *, now: float, claim_ttl: float) -> Claim:
        """Claim the login; see `LoginStore.claim`. The time is that of the server's clock."""
        answer = await self._run(
            CLAIM,
            self._names(claim_request.id)[1:],
            claim_request.binding,
            claim_request.token,
            _milliseconds(claim_ttl),
            _milliseconds(claim_ttl + TOMBSTONE_TTL),
        )
        status = ClaimStatus(to_bytes(answer[0]).decode())
        if status is ClaimStatus.CLAIMED:
            value = self._open(f"login {claim_request.id}", answer[1])
            return Claim(status=status, value=value, lost=to_bytes(answer[2]) == b"1")
        if status is ClaimStatus.FINISHED:
            return Claim(status=status, value=self._open(f"result {claim_request.id}", answer[1]))
        return Claim(status=status)

    async def release(self, claim_request: ClaimRequest, *, now: float) -> None:
        """Make the login pending again; see `LoginStore.release`."""
        await self._run(RELEASE, self._names(claim_request.id)[1:], claim_request.token)

    async def finish(
        self, claim_request: ClaimRequest, result: bytes | None, *, now: float, result_ttl: float
    ) -> LoginCookie | None:
        """End the login; see `LoginStore.finish`. Without ``encryption_keys`` the result is not kept."""
        kept = b""
        if result is not None and result_ttl > 0 and self._encryptor is not None:
            kept = self._seal(f"result {claim_request.id}", result)
        has_result = "0" if result is None else "1"
        # Tracebacks that show local variables would show the key.
        del result
        await self._run(
            FINISH,
            self._names(claim_request.id)[1:],
            claim_request.token,
            claim_request.binding,
            has_result,
            kept,
            _milliseconds(result_ttl),
            _milliseconds(result_ttl + TOMBSTONE_TTL),
        )
        return None

    async def set(self, name: str, value: bytes, *, now: float, until: float) -> None:
        """Store a value; see `LeaseStore.set`."""
        value_name = self._value_name(name)
        index = f"{self._prefix}:{_group(name)}:values"
        sealed = self._seal(f"value {name}", value)
        lifetime = _milliseconds(until - now)
        operation = bind_script(
            self._client, SET, (index, value_name), value_name, lifetime, self._max_in_group, sealed
        )
        # Tracebacks that show local variables would show these values.
        del value, sealed
        evicted = await call(self._client, operation)
        self._evicted += evicted

    async def get(self, name: str, *, now: float) -> bytes | None:
        """Return a value; see `LeaseStore.get`. Redis itself drops a value whose time is over."""
        data = await call(self._client, lambda: self._client.get(self._value_name(name)))
        try:
            return None if data is None else self._open(f"value {name}", data)
        except LoginStoreError:
            # After a change of keys, the user of an old value starts again.
            return None

    async def delete(self, name: str) -> None:
        """Delete a value."""
        await call(self._client, lambda: self._client.delete(self._value_name(name)))

    def _value_name(self, name: str) -> str:
        return f"{self._prefix}:{_group(name)}:value:{name}"

    def _names(self, item_id: str) -> tuple[str, str, str]:
        """Return the names of the index, of the login and of its result."""
        start = f"{self._prefix}:{_group(item_id)}"
        return f"{start}:logins", f"{start}:login:{item_id}", f"{start}:result:{item_id}"

    def _seal(self, context: str, data: bytes) -> bytes:
        return data if self._encryptor is None else self._encryptor.encrypt(context, data)

    def _open(self, context: str, data: bytes | str | None) -> bytes:
        if data is None:
            raise LoginStoreError("a login in Redis is incomplete")
        data = to_bytes(data)
        if self._encryptor is None:
            return data
        try:
            return self._encryptor.decrypt(context, data)
        except DecryptionError:
            raise LoginStoreError("a value in Redis was not encrypted with the keys of this store") from None

    async def _run(self, script: str, names: tuple[str, ...], *arguments: str | bytes | int) -> Any:
        operation = bind_script(self._client, script, names, *arguments)
        # Tracebacks that show local variables would show these values.
        del arguments
        return await call(self._client, operation)


def _group(name: str) -> str:
    """Return the hash tag of a name's group, evenly distributed and the same in every process."""
    return f"{{{zlib.crc32(name.encode()) % _GROUPS}}}"


def _milliseconds(seconds: float) -> int:
    return max(1, math.ceil(seconds * 1000))
