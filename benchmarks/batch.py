"""What a batch costs: `exchange_many` beside single calls by a pool of workers that is written by hand.

    python -m benchmarks.batch [--codes N] [--rounds N]

Both exchange as many codes at a concurrency of 64, in turns, with one client each, against a stub in a process of its
own. The share is the median over the rounds. It exits with 1 when `exchange_many` has less than 95 % of the throughput.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeAlias

from openrouter_async import OpenRouter, errors
from tests.batch.stub import running

CONCURRENCY = 64
LEAST_SHARE = 0.95

Contender: TypeAlias = Callable[[OpenRouter, Iterator[str]], Awaitable[int]]


async def by_hand(client: OpenRouter, codes: Iterator[str]) -> int:
    """What one would write: workers that share an iterator, and keep going when one exchange fails."""
    done = 0
    exchange = client.oauth.exchange_auth_code_for_api_key

    async def work() -> None:
        nonlocal done
        for code in codes:
            try:
                result = await exchange(code=code)
            except errors.OpenRouterError as error:
                print(error)
            else:
                done += bool(result.key)

    async with asyncio.TaskGroup() as workers:
        for _ in range(CONCURRENCY):
            workers.create_task(work())
    return done


async def by_batch(client: OpenRouter, codes: Iterator[str]) -> int:
    done = 0
    async for result in client.oauth.exchange_many(codes, concurrency=CONCURRENCY):
        if result.error is None:
            done += bool(result.key)
        else:
            print(result.error)
    return done


async def measure(base_url: str, contender: Contender, codes: Iterator[str], count: int) -> tuple[float, float]:
    """Exchanges per second, and microseconds of CPU time for each."""
    async with OpenRouter(None, base_url=base_url) as client:
        # Connections are made before.
        await by_hand(client, (f"warm-up-{number}" for number in range(CONCURRENCY)))
        gc.collect()
        started, cpu = time.perf_counter(), time.process_time()
        done = await contender(client, codes)
        elapsed, cpu = time.perf_counter() - started, time.process_time() - cpu
    assert done == count
    return count / elapsed, cpu / count * 1e6


async def compare(base_url: str, count: int, rounds: int) -> float:
    """Print what both came to; the share of the throughput that a batch has."""
    figures: dict[Contender, list[tuple[float, float]]] = {by_hand: [], by_batch: []}
    for number in range(rounds):
        # Each goes first in every other round.
        for contender in sorted(figures, key=lambda contender: (contender is by_batch) ^ (number % 2 == 1)):
            codes = (f"code-{index}" for index in range(count))
            figures[contender].append(await measure(base_url, contender, codes, count))
    for name, contender in (("worker pool, by hand", by_hand), ("exchange_many", by_batch)):
        per_second, cpu = (statistics.median(column) for column in zip(*figures[contender], strict=True))
        print(f"{name:22} {per_second:8,.0f} exchanges/s {cpu:8.1f} µs CPU each")
    shares = [batch[0] / pool[0] for batch, pool in zip(figures[by_batch], figures[by_hand], strict=True)]
    cpu_shares = [pool[1] / batch[1] for batch, pool in zip(figures[by_batch], figures[by_hand], strict=True)]
    share = statistics.median(shares)
    print(f"throughput of exchange_many: {share:.1%} of the pool's (by CPU time {statistics.median(cpu_shares):.1%})")
    return share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--codes", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    with running("--forgetful") as stub:
        share = asyncio.run(compare(stub.base_url, options.codes, options.rounds))
    sys.exit(share < LEAST_SHARE)


if __name__ == "__main__":
    main()
