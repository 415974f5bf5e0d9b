"""Many codes: `exchange_many` beside a pool written by hand, and the memory that a million of them take."""

from __future__ import annotations

import asyncio
import json
import sys

import attrs

from benchmarks import batch
from benchmarks.measure import peak_memory
from benchmarks.report import Section, Setup, Target, run_child, table
from benchmarks.stub import pin
from openrouter_async import OpenRouter

FEW, MANY = 1_000, 1_000_000


@attrs.frozen(kw_only=True)
class Plan:
    """The measurement that a process carries out.

    Attributes:
        url: The base URL.
        count: Codes.
        pairs: Blocks of the pool and of the batch; 0 streams the codes once, for the memory that this takes.
    """

    url: str
    count: int
    pairs: int = 0


def measure(setup: Setup) -> Section:
    """Compare a batch to the pool, and a long one to a short one."""
    url = setup.stub.urls["http"]
    setup.say("batches: beside a pool by hand")
    plan = Plan(url=url, count=100, pairs=2) if setup.quick else Plan(url=url, count=1000, pairs=60)
    made = run_child("benchmarks.bulk", plan)
    many = 2 * FEW if setup.quick else MANY
    setup.say(f"batches: the memory for {many:,} codes")
    peaks = {count: run_child("benchmarks.bulk", Plan(url=url, count=count)) for count in (FEW, many)}
    rows = [
        ("a pool of workers by hand: CPU for one exchange, µs", f"{made['pool'] * 1e6:.0f}"),
        ("`exchange_many`: CPU for one exchange, µs", f"{made['batch'] * 1e6:.0f}"),
        ("its throughput on the clock, of the pool's", f"{made['throughput']['median']:.3f}"),
        *((f"peak memory after a stream of {count:,} codes, MiB", f"{peak:.1f}") for count, peak in peaks.items()),
    ]
    cpu = made["cpu"]
    return Section(
        "Batches, http, 64 at a time",
        table(["what", "measured"], rows),
        (
            Target(
                "throughput by CPU, `exchange_many` / a pool by hand",
                cpu["median"],
                batch.MIN_SHARE,
                at_least=True,
                spread=(cpu["low"], cpu["high"]),
            ),
            Target(f"memory that {many:,} codes take more than {FEW:,}", peaks[many] - peaks[FEW], 40.0, unit=" MiB"),
        ),
    )


async def _stream(plan: Plan) -> float:
    async with OpenRouter(None, base_url=plan.url) as client:
        done = await batch.by_batch(client, (f"code-{index}" for index in range(plan.count)))
    if done != plan.count:
        raise RuntimeError(f"{done} of {plan.count} codes were exchanged")
    return peak_memory()


def main() -> None:
    pin(to_server=False)
    plan = Plan(**json.loads(sys.argv[1]))
    made = attrs.asdict(batch.compare(codes=plan.count, pairs=plan.pairs)) if plan.pairs else asyncio.run(_stream(plan))
    print(json.dumps(made))


if __name__ == "__main__":
    main()
