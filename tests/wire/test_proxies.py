"""Exchanges through real proxies that are reloaded, killed, too busy or sick."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from openrouter_async import OpenRouter, RetryPolicy, errors
from tests.kit.proxies import Daemon, haproxy, nginx, squid
from tests.kit.wire import BEARER, WireServer, code_of, verifier_of
from tests.support import STRESS
from tests.wire.tally import how_it_failed, show

pytestmark = pytest.mark.unmeasured

ROUNDS = 5
CONCURRENCY = 20
RETRY = RetryPolicy(initial_interval=0.2)


async def exchange_all(
    client: OpenRouter, issued: dict[str, str], numbers: Iterable[int], concurrency: int = CONCURRENCY
) -> Counter[str]:
    """Exchange codes with a given concurrency, and check the result of each."""
    tally: Counter[str] = Counter()
    queue = iter(numbers)

    async def worker() -> None:
        for number in queue:
            code = code_of(number)
            try:
                response = await client.oauth.exchange_auth_code_for_api_key(
                    code=code, code_verifier=verifier_of(number)
                )
            except errors.OpenRouterError as error:
                tally[how_it_failed(error, issued.get(code))] += 1
                tally[f"  raised {type(error).__name__} ({error.outcome.name})"] += 1
            else:
                assert response.key == issued[code]
                tally["issued, returned"] += 1
                tally[f"  in {response.http_meta.attempts} attempt(s)"] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(worker())
    return tally


async def exchange_during(
    client: OpenRouter, server: WireServer, disturb: Callable[[], Awaitable[None] | None], every: float
) -> Counter[str]:
    """Exchange codes while something happens a number of times."""
    is_over = False

    async def disturb_often() -> None:
        nonlocal is_over
        try:
            for _ in range(ROUNDS):
                await asyncio.sleep(every)
                if (result := disturb()) is not None:
                    await result
        finally:
            is_over = True

    disturbing = asyncio.create_task(disturb_often())
    numbers = itertools.takewhile(lambda _: not is_over, itertools.count())
    tally = await exchange_all(client, server.authority.issued, numbers)
    await disturbing
    return tally


def check(tally: Counter[str], issued: dict[str, str], *, lost: float) -> None:
    """Check that each issued key is accounted for, and that at most a given share has an unknown outcome."""
    assert sum(count for name, count in tally.items() if name.startswith("issued")) == len(issued)
    assert len(issued) >= 20
    assert tally["issued, returned"] >= len(issued) * (1 - lost)


@pytest.mark.parametrize("make", [nginx, haproxy])
async def test_proxy_reloaded_under_load_loses_no_key(
    make: Callable[[Path, str], Daemon] | Callable[[Path, int], Daemon], tmp_path: Path
) -> None:
    async with WireServer() as origin:
        upstream = f"server 127.0.0.1:{origin.port};" if make is nginx else origin.port
        async with make(tmp_path, upstream) as proxy:  # type: ignore[arg-type]
            async with OpenRouter(BEARER, base_url=proxy.base_url, retry=RETRY) as client:
                tally = await exchange_during(client, origin, proxy.reload, every=0.3)
    show(f"{make.__name__} reloaded {ROUNDS} times", tally)
    # A reload lets its old workers answer, but haproxy may close a connection that a request is on its way to.
    check(tally, origin.authority.issued, lost=0.05)


async def test_forward_proxy_reconfigured_under_load_loses_no_key(tmp_path: Path) -> None:
    async with WireServer() as origin:
        async with squid(tmp_path) as proxy:
            through = f"http://127.0.0.1:{proxy.port}"
            async with OpenRouter(BEARER, base_url=origin.base_url, proxy=through, retry=RETRY) as client:
                tally = await exchange_during(client, origin, proxy.reload, every=0.3)
    show(f"squid reconfigured {ROUNDS} times", tally)
    check(tally, origin.authority.issued, lost=0.05)


async def test_proxy_whose_workers_are_killed_leaves_no_wrong_outcome(tmp_path: Path) -> None:
    async with WireServer() as origin:
        async with nginx(tmp_path, f"server 127.0.0.1:{origin.port};") as proxy:
            async with OpenRouter(BEARER, base_url=proxy.base_url, retry=RETRY) as client:
                tally = await exchange_during(client, origin, proxy.kill_workers, every=0.3)
    show(f"nginx's workers killed {ROUNDS} times", tally)
    check(tally, origin.authority.issued, lost=0.8)


async def test_connections_that_time_out_while_idle_cost_nothing(tmp_path: Path) -> None:
    tally: Counter[str] = Counter()
    async with WireServer() as origin:
        async with nginx(tmp_path, f"server 127.0.0.1:{origin.port};", settings="keepalive_timeout 1s;") as proxy:
            async with OpenRouter(BEARER, base_url=proxy.base_url, retry=RetryPolicy(max_attempts=1)) as client:
                for part, idle in enumerate((0.98, 0.99, 1.0, 1.01)):
                    numbers = range(part * CONCURRENCY, (part + 1) * CONCURRENCY)
                    tally += await exchange_all(client, origin.authority.issued, numbers)
                    await asyncio.sleep(idle)
    show("nginx with keepalive_timeout 1s", tally)
    assert tally["issued, returned"] == 4 * CONCURRENCY


@pytest.mark.stress
async def test_batch_keeps_to_the_rate_of_limit_req(tmp_path: Path) -> None:
    count = 400 if STRESS else 40
    settings = "limit_req_zone $binary_remote_addr zone=all:1m rate=20r/s;"
    async with WireServer() as origin:
        async with nginx(
            tmp_path, f"server 127.0.0.1:{origin.port};", settings=settings, location="limit_req zone=all;"
        ) as proxy:
            async with OpenRouter(BEARER, base_url=proxy.base_url) as client:
                started = time.monotonic()
                results = await client.oauth.exchange_all(map(code_of, range(count)))
                seconds = time.monotonic() - started
                attempts = client.stats().attempts
    keys = sum(result.key is not None for result in results)
    print(
        f"\nlimit_req 20r/s: {keys} keys of {count} in {seconds:.1f} s, {keys / seconds:.1f} a second, {attempts} sent"
    )
    assert keys == count
    # The first ones are refused together; then few are.
    assert attempts <= count * 1.25 + 30


@pytest.mark.stress
async def test_sick_node_behind_a_proxy_does_not_stop_a_client(tmp_path: Path) -> None:
    count = 2000 if STRESS else 200
    sick = f"{tmp_path}/sick.sock"
    async with WireServer() as origin:
        async with nginx(
            tmp_path,
            f"server 127.0.0.1:{origin.port} weight=49; server unix:{sick};",
            location="proxy_next_upstream off;",
            servers=f"server {{ listen unix:{sick}; add_header Retry-After 120 always; return 503; }}",
        ) as proxy:
            async with OpenRouter(BEARER, base_url=proxy.base_url, retry=RETRY) as client:
                tally = await exchange_all(client, origin.authority.issued, range(count))
    show("a node of fifty answers 503 with Retry-After: 120", tally)
    check(tally, origin.authority.issued, lost=0)
    assert tally["issued, returned"] >= count * 0.95


@pytest.mark.stress
async def test_proxy_reloaded_and_upstreams_killed_account_for_every_code(tmp_path: Path) -> None:
    count, every = (20_000, 1.0) if STRESS else (300, 0.2)
    folders = [tmp_path / name for name in ("front", "first", "second", "third")]
    for folder in folders:
        folder.mkdir()
    events: Counter[str] = Counter()
    async with WireServer() as origin, AsyncExitStack() as stack:
        upstreams = [nginx(folder, f"server 127.0.0.1:{origin.port};") for folder in folders[1:]]
        for upstream in upstreams:
            await upstream.__aenter__()
            stack.callback(upstream.kill)
        servers = " ".join(f"server 127.0.0.1:{upstream.port} max_fails=0;" for upstream in upstreams)
        front = await stack.enter_async_context(nginx(folders[0], servers))

        async def disturb() -> None:
            for upstream in itertools.cycle(upstreams):
                await asyncio.sleep(every)
                front.reload()
                upstream.kill()
                events["kills and reloads"] += 1
                await asyncio.sleep(every / 10)
                await upstream.__aenter__()

        async with OpenRouter(BEARER, base_url=front.base_url, retry=RETRY) as client:
            disturbing = asyncio.create_task(disturb())
            started = time.monotonic()
            tally = await exchange_all(client, origin.authority.issued, range(count), 50)
            seconds = time.monotonic() - started
            disturbing.cancel()
            await asyncio.wait([disturbing])
            assert client.stats().exchanges_in_flight == 0
    show(f"{count} exchanges in {seconds:.1f} s, {dict(events)}, {len(origin.authority.issued)} keys issued", tally)
    assert sum(number for name, number in tally.items() if not name.startswith(" ")) == count
    check(tally, origin.authority.issued, lost=0.2)
