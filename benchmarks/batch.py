"""Compare the cost of `exchange_many` with single calls by a hand-written pool of workers.

    python -m benchmarks.batch [--codes N] [--pairs N]

Both exchange codes at a concurrency of 64 by the same client, in one process, in short blocks by turns, so that
whatever else the machine does meets both. Each pair of blocks gives a share: the pool's cost of an exchange by the
batch's. By CPU time, which other processes disturb least, that is the share of the pool's throughput that a batch has
where the client is the bottleneck. It exits with 1 when the median of these shares is below 95 %.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from itertools import islice
from typing import Any, Final, TypeAlias

import attrs

from benchmarks.measure import CODES
from benchmarks.stub import Stub, pin
from openrouter_async import OpenRouter

CONCURRENCY: Final = 64
MIN_SHARE: Final = 0.95

Contender: TypeAlias = Callable[[OpenRouter, Iterator[str]], Coroutine[Any, Any, int]]


@attrs.frozen
class Spread:
    """The results of many pairs of blocks.

    Attributes:
        low: A quarter of the values are at most this.
        median: Half of the values are at most this.
        high: Three quarters of the values are at most this.
    """

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """The spread of some values, two at the least."""
        return cls(*statistics.quantiles(values, n=4, method="inclusive"))

    def __str__(self) -> str:
        return f"{self.median:.1%} (middle half {self.low:.1%} to {self.high:.1%})"


@attrs.frozen
class Comparison:
    """A batch beside a pool of workers written by hand.

    Attributes:
        cpu: The pool's CPU time for an exchange by that of the batch.
        throughput: The batch's exchanges per second by those of the pool, on the clock.
        pool: Seconds of CPU time for one exchange by the pool, the median.
        batch: Seconds of CPU time for one exchange by the batch, the median.
    """

    cpu: Spread
    throughput: Spread
    pool: float
    batch: float

    @property
    def is_met(self) -> bool:
        """Return whether a batch meets its targets."""
        return self.cpu.median >= MIN_SHARE


async def by_hand(client: OpenRouter, codes: Iterator[str]) -> int:
    """Exchange codes by hand-written workers that share an iterator."""
    done = 0
    exchange = client.oauth.exchange_auth_code_for_api_key

    async def work() -> None:
        nonlocal done
        for code in codes:
            result = await exchange(code=code)
            done += bool(result.key)

    async with asyncio.TaskGroup() as workers:
        for _ in range(CONCURRENCY):
            workers.create_task(work())
    return done


async def by_batch(client: OpenRouter, codes: Iterator[str]) -> int:
    """Exchange codes by `exchange_many`."""
    done = 0
    async for result in client.oauth.exchange_many(codes, concurrency=CONCURRENCY):
        done += bool(result.unwrap().key)
    return done


async def _run(contender: Contender, client: OpenRouter, count: int) -> tuple[float, float]:
    """Return the CPU time and the elapsed time of one exchange, in seconds."""
    gc.collect()
    started, cpu = time.perf_counter(), time.process_time()
    done = await contender(client, islice(CODES, count))
    cpu, elapsed = time.process_time() - cpu, time.perf_counter() - started
    assert done == count
    return cpu / count, elapsed / count


async def _compare(base_url: str, count: int, pairs: int) -> Comparison:
    costs: dict[Contender, list[tuple[float, float]]] = {by_hand: [], by_batch: []}
    async with OpenRouter(None, base_url=base_url) as client:
        for contender in costs:
            # Open the connections, and fill the caches.
            await _run(contender, client, 2 * count)
        for number in range(pairs):
            # Each goes first in every other pair.
            for contender in (by_hand, by_batch) if number % 2 else (by_batch, by_hand):
                costs[contender].append(await _run(contender, client, count))
    pool, batch = costs[by_hand], costs[by_batch]
    return Comparison(
        cpu=Spread.of([one[0] / other[0] for one, other in zip(pool, batch, strict=True)]),
        throughput=Spread.of([one[1] / other[1] for one, other in zip(pool, batch, strict=True)]),
        pool=statistics.median(cost for cost, _ in pool),
        batch=statistics.median(cost for cost, _ in batch),
    )


def compare(*, codes: int = 400, pairs: int = 240) -> Comparison:
    """Run both, by turns.

    Args:
        codes: How many codes a block has.
        pairs: How many blocks each of the two has.
    """
    with Stub() as stub:
        return asyncio.run(_compare(stub.urls["http"], codes, pairs))


def report(comparison: Comparison) -> str:
    """Return the results of the comparison as text."""
    return (
        f"worker pool by hand {comparison.pool * 1e6:7.1f} µs of CPU an exchange\n"
        f"exchange_many       {comparison.batch * 1e6:7.1f} µs of CPU an exchange\n"
        f"exchange_many has {comparison.cpu} of the pool's throughput by CPU time, at least {MIN_SHARE:.0%} wanted;\n"
        f"on the clock {comparison.throughput}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--codes", type=int, default=400, help="codes in a block")
    parser.add_argument("--pairs", type=int, default=240, help="blocks of each of the two")
    options = parser.parse_args()
    pin(to_server=False)
    comparison = compare(codes=options.codes, pairs=options.pairs)
    print(report(comparison))
    sys.exit(not comparison.is_met)


if __name__ == "__main__":
    main()
