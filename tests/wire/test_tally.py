from __future__ import annotations

import asyncio
import gc
import os
import random
import time
import tracemalloc
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable

import pytest

from openrouter_async import (
    ExchangeAuthCodeForAPIKeyRequest,
    ExchangeAuthCodeForAPIKeyResponse,
    OpenRouter,
    Outcome,
    RetryPolicy,
    errors,
)
from openrouter_async.middlewares import LoggingMiddleware
from tests.descriptors import open_files
from tests.kit.clocks import fast_clock, passes
from tests.kit.wire import (
    BEARER,
    DRIP,
    FAULTS,
    LIES,
    Act,
    Authority,
    Upstream,
    WireRequest,
    WireServer,
    by_chance,
    code_of,
    hang,
    verifier_of,
)
from tests.support import PATIENCE, STRESS
from tests.wire.audit import Audit
from tests.wire.tally import how_it_failed, show

FAULTY = 0.2
CONCURRENCY = 200
EXCHANGES = 10_000 if STRESS else 500
PARTS = 4
# Only in the large tally do requests hang until then: timeouts take real time.
TIMEOUT = 5.0 if STRESS else PATIENCE
CANCELLED = 2_000 if STRESS else 400
SEED = 20270115

# Of the server's and the policy's seconds, fifty pass in one.
CLOCK = fast_clock(50)
RETRY = RetryPolicy(max_elapsed_time=600)
# Without those that end by a timeout: they take real time, and a key that is sent after it is not received.
QUICK_FAULTS = [act for act in FAULTS if act not in (hang(after=True), hang(after=False), DRIP)]
LIBRARY = [tracemalloc.Filter(True, f"*/{name}/*") for name in ("openrouter_async", "aiohttp")]


class Safe:
    """An ``on_key`` that checks each key against the issued ones, and sometimes fails."""

    def __init__(self, authority: Authority, *, fails: Callable[[], bool] = lambda: False) -> None:
        self._authority = authority
        self._fails = fails
        self.codes: set[str] = set()

    async def __call__(
        self, request: ExchangeAuthCodeForAPIKeyRequest, response: ExchangeAuthCodeForAPIKeyResponse
    ) -> None:
        assert response.key == self._authority.issued[request.code]
        await asyncio.sleep(0)
        if self._fails():
            raise LookupError("the database is gone")
        self.codes.add(code_of(int(request.code[-6:])))


async def in_parallel(work: Callable[[int], Awaitable[None]], numbers: Iterable[int]) -> None:
    """Do the work for each number, with a given concurrency."""
    queue = iter(numbers)

    async def worker() -> None:
        for number in queue:
            await work(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(CONCURRENCY):
            group.create_task(worker())


def library_memory() -> int:
    """Bytes that the library and aiohttp hold."""
    gc.collect()
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces(LIBRARY).traces)


def count_files() -> int:
    # uvloop keeps a file in reserve, for a server that has no descriptor left.
    return sum(file != os.devnull for file in open_files())


@pytest.mark.stress
async def test_tally_through_a_faulty_proxy_accounts_for_every_key(audit: Audit) -> None:
    tally: Counter[str] = Counter()
    chance = random.Random(SEED)
    files, tasks = count_files(), asyncio.all_tasks()
    failures: list[tuple[str, errors.OpenRouterError]] = []
    memory: list[int] = []
    choose = by_chance(FAULTY, SEED, FAULTS if STRESS else QUICK_FAULTS)
    async with WireServer() as origin, Upstream(origin.port) as upstream:
        issued = origin.authority.issued
        safe = Safe(origin.authority, fails=lambda: chance.random() < 0.01)
        async with WireServer(choose, source=upstream) as proxy:
            async with OpenRouter(
                BEARER,
                base_url=proxy.base_url,
                timeout=TIMEOUT,
                retry=RETRY,
                clock=CLOCK,
                pool_size=CONCURRENCY,
                on_key=safe,
                attempt_middlewares=[LoggingMiddleware()],
            ) as client:

                async def exchange(number: int) -> None:
                    code = code_of(number)
                    try:
                        response = await client.oauth.exchange_auth_code_for_api_key(
                            code=code, code_verifier=verifier_of(number)
                        )
                    except errors.OpenRouterError as error:
                        failures.append((code, error))
                    else:
                        assert response.key == issued[code]
                        assert code in safe.codes
                        tally["issued, returned"] += 1
                        tally[f"  in {response.http_meta.attempts} attempt(s)"] += 1

                tracemalloc.start()
                started = time.perf_counter()
                try:
                    with audit.alone():
                        for part in range(PARTS):
                            numbers = range(part * EXCHANGES // PARTS, (part + 1) * EXCHANGES // PARTS)
                            await in_parallel(exchange, numbers)
                            for code, error in failures:
                                audit.read_error(error)
                                tally[how_it_failed(error, issued.get(code))] += 1
                                tally[f"  raised {type(error).__name__} ({error.outcome.name})"] += 1
                            del error
                            failures.clear()
                            memory.append(library_memory())
                finally:
                    tracemalloc.stop()
                seconds = time.perf_counter() - started
                assert client.stats().exchanges_in_flight == 0
            await proxy.until_closed()
        faults = sum(proxy.tally[name] for name in {act.name for act in FAULTS})
    await passes()
    assert asyncio.all_tasks() == tasks
    assert count_files() == files
    show(
        f"{EXCHANGES} exchanges, {CONCURRENCY} at a time, seed {SEED}, {seconds:.1f} s: "
        f"{len(proxy.requests)} requests, {faults} faults ({faults / len(proxy.requests):.1%}), {len(issued)} keys; "
        f"the library holds {', '.join(f'{size / 1024:.0f}' for size in memory)} KiB after each part; "
        f"{audit.records} log records and {audit.errors} errors read, {len(audit.leaks)} leaks",
        tally,
    )
    ends = sum(count for name, count in tally.items() if not name.startswith(" "))
    assert ends == EXCHANGES
    assert sum(count for name, count in tally.items() if name.startswith("issued")) == len(issued)
    assert faults / len(proxy.requests) == pytest.approx(FAULTY, abs=0.05)
    assert {act.name for act in (FAULTS if STRESS else QUICK_FAULTS)} <= set(proxy.tally)
    # On a busy machine, requests that do not hang may take too long as well.
    timeouts = tally["  raised RequestTimeoutError (UNKNOWN)"]
    assert tally["issued, returned"] > (EXCHANGES - timeouts) * 0.75
    # The client remembers the last 1,024 exchanged codes, which takes up to 72 KiB.
    assert memory[-1] - memory[0] < (128 + 72) * 1024


@pytest.mark.stress
async def test_tally_of_cancelled_callers_has_every_key_in_on_key() -> None:
    tally: Counter[str] = Counter()
    chance = random.Random(SEED)
    tasks = asyncio.all_tasks()
    async with WireServer(by_chance(FAULTY, SEED, QUICK_FAULTS)) as server:
        safe = Safe(server.authority)
        async with OpenRouter(
            BEARER, base_url=server.base_url, retry=RETRY, clock=CLOCK, pool_size=CONCURRENCY, on_key=safe
        ) as client:

            async def exchange(number: int) -> None:
                call = asyncio.ensure_future(
                    client.oauth.exchange_auth_code_for_api_key(code=code_of(number), code_verifier=verifier_of(number))
                )
                await passes(chance.randrange(24))
                call.cancel()
                await asyncio.wait([call])
                if call.cancelled():
                    tally["cancelled"] += 1
                elif (error := call.exception()) is None:
                    tally["returned before that"] += 1
                else:
                    assert isinstance(error, errors.OpenRouterError)
                    tally["failed before that"] += 1

            started = time.perf_counter()
            await in_parallel(exchange, range(CANCELLED))
            tally["still on their way when the client was closed"] = client.stats().exchanges_in_flight
            await client.aclose(timeout=60)
            seconds = time.perf_counter() - started
            assert client.stats().exchanges_in_flight == 0
        await server.until_closed()
    await passes()
    assert asyncio.all_tasks() == tasks
    tally["never sent"] = CANCELLED - len({request.code for request in server.requests})
    tally["keys issued"] = len(server.authority.issued)
    tally["keys sent back completely"] = len(server.delivered)
    tally["keys in their safe place"] = len(safe.codes)
    show(f"{CANCELLED} exchanges cancelled at random moments, seed {SEED}, {seconds:.1f} s", tally)
    assert set(server.delivered) <= safe.codes <= set(server.authority.issued)
    # It was early, late and between.
    assert tally["never sent"] > 0
    assert tally["returned before that"] > 0
    assert tally["cancelled"] > CANCELLED / 4
    assert len(server.delivered) > CANCELLED / 4


async def test_tally_allows_refused_redeemed_codes_only_from_a_dishonest_server() -> None:
    lied_to: set[str] = set()
    called_refused: set[str] = set()
    honest, lying = by_chance(FAULTY, SEED, QUICK_FAULTS), random.Random(SEED)

    def choose(request: WireRequest) -> Act:
        if lying.random() > 0.1:
            return honest(request)
        lied_to.add(request.code)
        return lying.choice(LIES)

    async with WireServer(choose) as server:
        async with OpenRouter(BEARER, base_url=server.base_url, retry=RETRY, clock=CLOCK) as client:

            async def exchange(number: int) -> None:
                code = code_of(number)
                try:
                    await client.oauth.exchange_auth_code_for_api_key(code=code)
                except errors.OpenRouterError as error:
                    if code in server.authority.issued and error.outcome is Outcome.REFUSED:
                        called_refused.add(code)

            await in_parallel(exchange, range(300))
        await server.until_closed()
    print(f"\n300 exchanges, {len(lied_to)} met a lie, {len(called_refused)} were called REFUSED and have a key")
    assert called_refused
    assert called_refused <= lied_to
