"""How cost grows: with the number of exchanges, with those at a time, and with the middlewares."""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import sys
from typing import TYPE_CHECKING, Final

import attrs

from benchmarks.client import Client
from benchmarks.contenders import CONTENDERS, ours
from benchmarks.measure import peak_memory, run_block, warm_up
from benchmarks.report import Section, Setup, run_child, table
from benchmarks.stub import pin

if TYPE_CHECKING:
    from benchmarks.plots import Chart

CLIENTS: Final = ("ours", "hand-written")


@attrs.frozen(kw_only=True)
class Plan:
    """The measurement that a process carries out.

    Attributes:
        name: The client.
        url: The base URL.
        steps: For each figure, exchanges, how many of them at a time, and middlewares.
    """

    name: str
    url: str
    steps: list[tuple[int, int, int]]


def measure(setup: Setup) -> Section:
    """Measure the curves, and draw them."""
    counts = [10**power for power in range(2, 4 if setup.quick else 7)]
    # By hand, a million exchanges cost as much each as a hundred thousand do.
    most = {"ours": counts, "hand-written": counts[:4]}
    concurrencies = [1, 64, 2000] if setup.quick else [1, 4, 16, 64, 256, 512, 1000, 2000]
    by_count: dict[str, list[dict[str, float]]] = {}
    by_concurrency: dict[str, list[dict[str, float]]] = {}
    for name in CLIENTS:
        setup.say(f"growth, {name}")
        by_count[name] = _run(setup, name, [(count, 64, 0) for count in most[name]])
        # Three times over, as the first of anything is slow.
        steps = [(many if setup.quick else max(2000, 4 * many), many, 0) for many in concurrencies]
        by_concurrency[name] = _medians(_run(setup, name, steps * (1 if setup.quick else 3)), len(steps))
    setup.say("growth, middlewares")
    numbers = list(range(9))
    steps = [(64 if setup.quick else 2000, 64, number) for number in numbers]
    by_middlewares = _medians(_run(setup, "ours", steps * (1 if setup.quick else 9)), len(steps))
    charts = {
        "exchanges": _chart("CPU for one exchange, 64 at a time", "exchanges", counts, by_count, "cpu"),
        "memory": _chart("Peak memory, 64 at a time", "exchanges", counts, by_count, "memory"),
        "concurrency": _chart("CPU for one exchange", "at a time", concurrencies, by_concurrency, "cpu"),
        "middlewares": _chart(
            "CPU for one exchange, 64 at a time", "middlewares", numbers, {"ours": by_middlewares}, "cpu", log=False
        ),
    }
    setup.charts.mkdir(parents=True, exist_ok=True)
    for name, chart in charts.items():
        (setup.charts / f"{name}.svg").write_text(chart.svg())
    return Section("Growth", "\n\n".join(_show(name, chart) for name, chart in charts.items()))


def _show(name: str, chart: Chart) -> str:
    columns = [[f"{y:.1f}" for _, y in points] for points in chart.lines.values()]
    xs = [f"{x:,}" for x, _ in max(chart.lines.values(), key=len)]
    rows = itertools.zip_longest(xs, *columns, fillvalue="")
    figures = table([chart.x, *(f"{line}, {chart.y}" for line in chart.lines)], rows)
    return f"### {chart.title}\n\n![{chart.title}](../_static/benchmarks/{name}.svg)\n\n{figures}"


def _run(setup: Setup, name: str, steps: list[tuple[int, int, int]]) -> list[dict[str, float]]:
    made: list[dict[str, float]] = run_child(
        "benchmarks.growth", Plan(name=name, url=setup.stub.urls["http"], steps=steps)
    )
    return made


def _medians(made: list[dict[str, float]], steps: int) -> list[dict[str, float]]:
    return [
        {figure: statistics.median(one[figure] for one in made[number::steps]) for figure in made[0]}
        for number in range(steps)
    ]


def _chart(
    title: str, x: str, xs: list[int], made: dict[str, list[dict[str, float]]], figure: str, *, log: bool = True
) -> Chart:
    # Not for the processes that are measured: its memory would be part of the figures.
    from benchmarks.plots import Chart

    scale, y = (1e6, "µs") if figure == "cpu" else (1, "MiB")
    lines = {
        name: [(count, one[figure] * scale) for count, one in zip(xs, figures, strict=False)]
        for name, figures in made.items()
    }
    return Chart(title=title, x=x, y=y, lines=lines, logarithmic=log)


async def _climb(plan: Plan) -> list[dict[str, float]]:
    clients: dict[int, Client] = {}
    made: list[dict[str, float]] = []
    for count, concurrency, middlewares in plan.steps:
        if middlewares not in clients:
            contender = ours(middlewares=middlewares) if middlewares else CONTENDERS[plan.name]()
            clients[middlewares] = contender.make(plan.url, None)
        client = clients[middlewares]
        await warm_up(client, concurrency=concurrency)
        block = await run_block(client, count=count, concurrency=concurrency)
        made.append({"cpu": block.cpu, "memory": peak_memory()})
    for client in clients.values():
        await client.close()
    return made


def main() -> None:
    pin(to_server=False)
    print(json.dumps(asyncio.run(_climb(Plan(**json.loads(sys.argv[1]))))))


if __name__ == "__main__":
    main()
