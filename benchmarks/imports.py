"""Measure the time and memory of imports, each in a fresh interpreter."""

from __future__ import annotations

import compileall
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Mapping
from typing import Final

from benchmarks.report import ROOT, Section, Setup, Target, table

BASELINE: Final = "import aiohttp, attrs, cattrs"
OURS: Final = "from openrouter_async import OpenRouter"
STATEMENTS: Final = (
    BASELINE,
    OURS,
    "import openrouter_async",
    "import aiohttp",
    "from openai import AsyncOpenAI",
    "from openrouter import OpenRouter",
)
# All of `benchmarks.measure` would be part of the figures.
_CODE: Final = """
import time
started = time.process_time()
{statement}
took = time.process_time() - started
import resource
try:
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
except OSError:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(took, peak / 1024)
"""


def measure(setup: Setup) -> Section:
    """Import each a number of times, in an order that is drawn anew each time."""
    rounds = 2 if setup.quick else 25
    setup.say(f"imports: {rounds} rounds")
    # As they are when they are installed.
    compileall.compile_dir(ROOT / "openrouter_async", quiet=2)
    times: dict[str, list[float]] = {statement: [] for statement in STATEMENTS}
    peaks: dict[str, list[float]] = {statement: [] for statement in STATEMENTS}
    ratios: list[float] = []
    for _ in range(rounds):
        for statement in random.sample(STATEMENTS, len(STATEMENTS)):
            took, peak = import_once(statement)
            times[statement].append(took)
            peaks[statement].append(peak)
        ratios.append(times[OURS][-1] / times[BASELINE][-1])
    return _section(times, peaks, ratios)


def import_once(statement: str) -> tuple[float, float]:
    """Seconds of CPU for a statement in a fresh interpreter, and the peak of its memory in MiB."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.run(
        [sys.executable, "-c", _CODE.format(statement=statement)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    took, peak = map(float, process.stdout.split())
    return took, peak


def _section(times: Mapping[str, list[float]], peaks: Mapping[str, list[float]], ratios: list[float]) -> Section:
    rows = [
        (
            f"`{statement}`",
            f"{statistics.median(times[statement]) * 1e3:.0f}",
            f"{statistics.median(peaks[statement]):.1f}",
        )
        for statement in STATEMENTS
    ]
    beyond = (statistics.median(times[OURS]) - statistics.median(times[BASELINE])) * 1e3
    quartiles = statistics.quantiles(ratios, n=4)
    return Section(
        "Import",
        table(["statement", "CPU, ms", "peak memory, MiB"], rows),
        (
            Target(f"`{OURS}` / `{BASELINE}`", statistics.median(ratios), 1.15, spread=(quartiles[0], quartiles[-1])),
            Target("import beyond that of the libraries underneath", beyond, 20.0, unit=" ms"),
        ),
    )
