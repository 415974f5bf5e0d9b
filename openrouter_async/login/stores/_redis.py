"""Logins in Redis or Valkey, for apps of many workers; needs the extra ``redis``."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from openrouter_async.errors import RequestValidationError
from openrouter_async.login._models import LoginCookie
from openrouter_async.login._records import TOMBSTONE_TTL, Claim, ClaimRequest, ClaimStatus, KeyRecord, LoginRecord
from openrouter_async.login.errors import LoginStoreError

try:
    import redis.exceptions
    from redis.asyncio import BlockingConnectionPool, Redis
except ImportError as missing:
    raise ImportError("RedisStore needs redis: pip install 'openrouter-async[redis]'") from missing

if TYPE_CHECKING:
    from redis.asyncio import RedisCluster

    from openrouter_async.encryption import Encryptor, Keys

_Record = TypeVar("_Record", LoginRecord, KeyRecord)

# Each script is one atomic step on the keys of one login, which share a hash tag and so a node of a cluster. Time is
# the server's own: the clocks of workers need not agree. The keys are those of the login and of its result.

# It takes the binding, the login, and milliseconds to live.
_PUT: Final = """
if redis.call('EXISTS', KEYS[1]) == 0 then
    redis.call('HSET', KEYS[1], 'status', 'pending', 'binding', ARGV[1], 'login', ARGV[2])
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
"""

# It takes the binding, the token, milliseconds of the lease, and milliseconds to live at least.
_CLAIM: Final = """
local login = redis.call('HMGET', KEYS[1], 'status', 'binding', 'login', 'token', 'lease_ends_at', 'lost')
local status, token, lost = login[1], login[4], login[6] or '0'
if not status then return {'unknown'} end
if login[2] ~= ARGV[1] then return {'elsewhere'} end
if status == 'spent' then
    local result = redis.call('GET', KEYS[2])
    if result then return {'finished', result} end
    return {'spent'}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if status == 'claimed' and token ~= ARGV[2] then
    if tonumber(login[5]) > now then return {'busy'} end
    lost = '1'
end
local ends_at = string.format('%.0f', now + ARGV[3])
redis.call('HSET', KEYS[1], 'status', 'claimed', 'token', ARGV[2], 'lease_ends_at', ends_at, 'lost', lost)
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[4]) then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
return {'claimed', login[3], lost}
"""

# It takes the token.
_RESTORE: Final = """
if redis.call('HGET', KEYS[1], 'token') == ARGV[1] then
    redis.call('HSET', KEYS[1], 'status', 'pending')
    redis.call('HDEL', KEYS[1], 'token', 'lease_ends_at')
end
"""

# It takes the token, the binding, whether there is a result, what to keep of it, milliseconds to keep that, and
# milliseconds to live at least.
_FINISH: Final = """
if ARGV[3] == '0' and redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return end
redis.call('HSET', KEYS[1], 'status', 'spent', 'binding', ARGV[2])
redis.call('HDEL', KEYS[1], 'login', 'token', 'lease_ends_at', 'lost')
if ARGV[4] ~= '' then redis.call('SET', KEYS[2], ARGV[4], 'PX', ARGV[5]) end
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[6]) then redis.call('PEXPIRE', KEYS[1], ARGV[6]) end
"""

_ATTEMPTS: Final = 4
_FIRST_PAUSE: Final = 0.05
_MOST_CONNECTIONS: Final = 50
_TIMEOUT: Final = 5.0


class RedisStore:
    """Holds logins in Redis 6.2 or newer, in Valkey, or in a cluster of either.

    With ``keys`` everything that is secret is encrypted there. Without them the verifiers can be read by whoever can
    read the database, and results are not kept at all: a second callback of a finished login is then refused instead of
    getting the same key.

    A connection that was lost is made anew, and the operation repeated: each of them may be done twice.

    Args:
        client: A client of redis-py's asyncio side. It is borrowed: closing it is up to the caller.
        keys: Fernet keys, by `generate_encryption_key`; the first one seals, all of them open. They need the
            extra ``cookie``.
        prefix: What the names of all keys in the database start with.

    Raises:
        RequestValidationError: An argument is not valid.
    """

    def __init__(
        self, client: Redis | RedisCluster, *, keys: Keys | None = None, prefix: str = "openrouter-login"
    ) -> None:
        if "{" in prefix or "}" in prefix:
            raise RequestValidationError("prefix", "must not hold braces, which choose the node of a cluster")
        self._client = client
        self._encryptor = None if keys is None else _encryptor(keys)
        self._prefix = prefix
        self._is_owner = False

    @classmethod
    def from_url(cls, url: str, *, keys: Keys | None = None, prefix: str = "openrouter-login") -> Self:
        """A store with a client of its own, which `aclose` closes.

        Args:
            url: ``redis://``, ``rediss://`` or ``unix://``, as redis-py takes it.
            keys: As for `RedisStore`.
            prefix: As for `RedisStore`.

        Raises:
            RequestValidationError: An argument is not valid.
        """
        try:
            # The usual pool has an error for who finds all connections in use, instead of one for who waits too long.
            pool = BlockingConnectionPool.from_url(
                url,
                max_connections=_MOST_CONNECTIONS,
                timeout=_TIMEOUT,
                socket_timeout=_TIMEOUT,
                socket_connect_timeout=_TIMEOUT,
            )
        except ValueError:
            # redis-py quotes the URL, and its password with it.
            raise RequestValidationError("url", "must be a redis://, rediss:// or unix:// URL") from None
        store = cls(Redis.from_pool(pool), keys=keys, prefix=prefix)
        store._is_owner = True
        return store

    async def aclose(self) -> None:
        """Close the client, unless it is borrowed."""
        if self._is_owner:
            await self._client.aclose()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._prefix} {'plain' if self._encryptor is None else 'encrypted'}>"

    async def put(self, login: LoginRecord, *, now: float) -> LoginCookie | None:
        """Hold a pending login; see `LoginStore.put`."""
        data = self._seal("login", login.id, login)
        await self._run(_PUT, login.id, login.binding, data, _milliseconds(login.expires_at + TOMBSTONE_TTL - now))
        return None

    async def claim(self, claimant: ClaimRequest, *, now: float, lease: float) -> Claim:
        """Give the login to the claimant, or say why not; see `LoginStore.claim`. The time is the server's."""
        answer = await self._run(
            _CLAIM,
            claimant.login_id,
            claimant.binding,
            claimant.token,
            _milliseconds(lease),
            _milliseconds(lease + TOMBSTONE_TTL),
        )
        status = ClaimStatus(_bytes(answer[0]).decode())
        if status is ClaimStatus.CLAIMED:
            login = self._open("login", claimant.login_id, LoginRecord, answer[1])
            return Claim(status=status, login=login, lost=_bytes(answer[2]) == b"1")
        if status is ClaimStatus.FINISHED:
            return Claim(status=status, result=self._open("result", claimant.login_id, KeyRecord, answer[1]))
        return Claim(status=status)

    async def restore(self, claimant: ClaimRequest, *, now: float) -> None:
        """Make the claimant's login pending again; see `LoginStore.restore`."""
        await self._run(_RESTORE, claimant.login_id, claimant.token)

    async def finish(
        self, claimant: ClaimRequest, result: KeyRecord | None, *, now: float, keep: float
    ) -> LoginCookie | None:
        """Make the login spent; see `LoginStore.finish`. Without ``keys`` the result is not kept."""
        kept = b""
        if result is not None and keep > 0 and self._encryptor is not None:
            kept = self._seal("result", claimant.login_id, result)
        await self._run(
            _FINISH,
            claimant.login_id,
            claimant.token,
            claimant.binding,
            "0" if result is None else "1",
            kept,
            _milliseconds(keep),
            _milliseconds(keep + TOMBSTONE_TTL),
        )
        return None

    def _seal(self, purpose: str, login_id: str, record: LoginRecord | KeyRecord) -> bytes:
        data = record.to_json()
        return data if self._encryptor is None else self._encryptor.encrypt(f"{purpose} {login_id}", data)

    def _open(self, purpose: str, login_id: str, kind: type[_Record], data: Any) -> _Record:
        data = _bytes(data)
        if self._encryptor is not None:
            from openrouter_async.encryption import DecryptionError

            try:
                data = self._encryptor.decrypt(f"{purpose} {login_id}", data)
            except DecryptionError:
                raise LoginStoreError("what Redis holds was not sealed with the keys of this store") from None
        return kind.from_json(data)

    async def _run(self, script: str, login_id: str, *arguments: str | bytes | int) -> Any:
        # EVAL and not EVALSHA: it needs no second way for a server that was restarted or failed over, and the server
        # compiles a text that it knows only once.
        names = (f"{self._prefix}:{{{login_id}}}", f"{self._prefix}:{{{login_id}}}:result")
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return await self._client.eval(script, len(names), *names, *arguments)
            except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError) as failure:
                if attempt == _ATTEMPTS:
                    raise LoginStoreError(f"Redis cannot be reached: {type(failure).__name__}") from None
            # The last one is of a caller's client that decodes answers.
            except (redis.exceptions.RedisError, redis.exceptions.RedisClusterException, UnicodeError) as failure:
                # Their messages can quote the arguments of the command.
                raise LoginStoreError(f"Redis refused the operation: {type(failure).__name__}") from None
            await asyncio.sleep(_FIRST_PAUSE * 2 ** (attempt - 1))
        raise AssertionError  # pragma: no cover - the last attempt returns or raises


def _encryptor(keys: Keys) -> Encryptor:
    from openrouter_async.encryption import Encryptor

    return Encryptor(keys)


def _milliseconds(seconds: float) -> int:
    return max(1, math.ceil(seconds * 1000))


def _bytes(value: Any) -> bytes:
    # The caller's client may decode answers.
    return value.encode() if isinstance(value, str) else value
