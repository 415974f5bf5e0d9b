"""Measure a client in a process of its own: its CPU time, its latency and its memory."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys

import attrs

from benchmarks.client import Client, Tls
from benchmarks.contenders import CONTENDERS
from benchmarks.measure import Block, peak_memory, run_block, warm_up
from benchmarks.stub import pin


@attrs.frozen(kw_only=True)
class Plan:
    """The measurement that a process carries out.

    Attributes:
        name: The client.
        url: The base URL.
        authority: The file with the authority's certificate; None for plain http.
        concurrency: Exchanges at a time.
        count: Exchanges in a block.
        blocks: Blocks.
    """

    name: str
    url: str
    authority: str | None
    concurrency: int
    count: int
    blocks: int


@attrs.frozen
class Figures:
    """The medians of the blocks, in seconds; the peak of the memory, in MiB."""

    cpu: float
    elapsed: float
    p50: float
    p99: float
    memory: float


async def measure(client: Client, plan: Plan) -> Figures:
    """Run the blocks."""
    await warm_up(client, concurrency=plan.concurrency)
    made = [await run_block(client, count=plan.count, concurrency=plan.concurrency) for _ in range(plan.blocks)]
    await client.close()
    medians = {
        field.name: statistics.median(getattr(block, field.name) for block in made) for field in attrs.fields(Block)
    }
    return Figures(**medians, memory=peak_memory())


def main() -> None:
    pin(to_server=False)
    plan = Plan(**json.loads(sys.argv[1]))
    chosen = CONTENDERS[plan.name]()

    async def run() -> Figures:
        return await measure(chosen.make(plan.url, None if plan.authority is None else Tls(plan.authority)), plan)

    with asyncio.Runner(loop_factory=uvloop_loop if chosen.uvloop else None) as runner:
        print(json.dumps(attrs.asdict(runner.run(run()))), flush=True)
    # A client with threads of its own may not survive the end of the interpreter.
    os._exit(0)


def uvloop_loop() -> asyncio.AbstractEventLoop:
    import uvloop

    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


if __name__ == "__main__":
    main()
