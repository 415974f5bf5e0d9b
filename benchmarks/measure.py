"""Run blocks of exchanges, and measure their cost."""

from __future__ import annotations

import asyncio
import gc
import itertools
import resource
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import attrs

from benchmarks.client import Client

_LATENCIES: Final = 10_000
"""The maximum number of latencies that a block keeps."""

CODES: Final[Iterator[str]] = (f"auth_code_{number:012}" for number in itertools.count())
"""Codes without end, no two of them equal."""


@attrs.frozen
class Block:
    """The cost of a block of exchanges.

    Attributes:
        cpu: Seconds of CPU that this process took for one exchange.
        elapsed: Seconds for one exchange, as the throughput has it.
        p50: The median latency, in seconds.
        p99: The 99th percentile of the latency, in seconds.
    """

    cpu: float
    elapsed: float
    p50: float
    p99: float


async def run_block(client: Client, *, count: int, concurrency: int) -> Block:
    """Exchange a number of codes with a given concurrency."""
    latencies: list[float] = []
    remaining = iter(range(count))
    # A list of a million latencies would dominate the memory that is measured.
    step = -(-count // _LATENCIES)
    clock = time.perf_counter

    async def work() -> None:
        for number in remaining:
            code = next(CODES)
            started = clock()
            await client.exchange(code)
            if number % step == 0:
                latencies.append(clock() - started)

    started, cpu = clock(), time.process_time()
    if concurrency == 1:
        await work()
    else:
        await asyncio.gather(*(work() for _ in range(concurrency)))
    cpu, elapsed = time.process_time() - cpu, clock() - started
    latencies.sort()
    return Block(cpu / count, elapsed / count, quantile(latencies, 0.5), quantile(latencies, 0.99))


async def warm_up(client: Client, *, concurrency: int) -> None:
    """Open the connections, and warm up caches and lazy imports."""
    await run_block(client, count=max(20, 2 * concurrency), concurrency=concurrency)
    gc.collect()


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return a quantile of ordered values: the smallest one that at least this share of them does not exceed."""
    return ordered[max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1)]


def peak_memory() -> float:
    """Return the peak resident memory of this process, in MiB."""
    # For a process that was just started, getrusage may return the value of its parent.
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
