"""Measure the time and memory of imports, each in a fresh interpreter."""

from __future__ import annotations

import compileall
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
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
FRAMEWORKS: Final = (
    "aiohttp.web",
    "aiogram",
    "discord",
    "fastapi",
    "opentelemetry.trace",
    "starlette.applications",
    "taskiq",
)
"""What an app imports anyway; the integration has the name of the package."""
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
    setup.say("imports")
    # As they are when they are installed.
    compileall.compile_dir(ROOT / "openrouter_async", quiet=2)
    pairs = {
        f"import {framework}": f"import {framework}, openrouter_async.integrations.{package}"
        for framework in FRAMEWORKS
        if find_spec(package := framework.partition(".")[0]) is not None
    }
    return _section(
        Imports(STATEMENTS, rounds=2 if setup.quick else 25),
        pairs,
        Imports([*pairs, *pairs.values()], rounds=1 if setup.quick else 9),
    )


class Imports:
    """The figures of some statements."""

    def __init__(self, statements: Sequence[str], *, rounds: int) -> None:
        self.times: dict[str, list[float]] = {statement: [] for statement in statements}
        self._peaks: dict[str, list[float]] = {statement: [] for statement in statements}
        for _ in range(rounds):
            for statement in random.sample(statements, len(statements)):
                took, peak = import_once(statement)
                self.times[statement].append(took)
                self._peaks[statement].append(peak)

    def took(self, statement: str) -> float:
        """Milliseconds of CPU."""
        return statistics.median(self.times[statement]) * 1e3

    def peak(self, statement: str) -> float:
        """MiB of memory."""
        return statistics.median(self._peaks[statement])


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


def _section(imports: Imports, pairs: Mapping[str, str], integrations: Imports) -> Section:
    rows = [
        (f"`{statement}`", f"{imports.took(statement):.0f}", f"{imports.peak(statement):.1f}")
        for statement in STATEMENTS
    ]
    more = [
        (
            f"`{ours.partition(', ')[2]}`",
            *(f"{integrations.took(statement):.0f}" for statement in (theirs, ours)),
            *(f"{integrations.peak(statement):.1f}" for statement in (theirs, ours)),
        )
        for theirs, ours in pairs.items()
    ]
    ratios = [ours / theirs for ours, theirs in zip(imports.times[OURS], imports.times[BASELINE], strict=True)]
    quartiles = statistics.quantiles(ratios, n=4)
    return Section(
        "Import",
        table(["statement", "CPU, ms", "peak memory, MiB"], rows)
        + "\n\nIntegrations, on top of the framework's own import:\n\n"
        + table(
            ["module", "CPU, ms: framework", "and integration", "peak memory, MiB: framework", "and integration"], more
        ),
        (
            Target(f"`{OURS}` / `{BASELINE}`", statistics.median(ratios), 1.15, spread=(quartiles[0], quartiles[-1])),
            Target(
                "import beyond that of the libraries underneath",
                imports.took(OURS) - imports.took(BASELINE),
                20.0,
                unit=" ms",
            ),
        ),
    )
