"""Count the instructions of an exchange in user space, by valgrind: a busy machine does not change them.

The clock also sees what the system does, and how well the caches work; a count does not.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from typing import Final

import attrs

from benchmarks.alone import Plan
from benchmarks.report import ROOT, Section, Setup, Target, table
from benchmarks.side_by_side import BASELINE

CASES: Final = (("http", 64, 1.10), ("tls", 512, None))
"""The scheme, the exchanges at a time, and the most that this library may take of the hand-written client."""

NAMES: Final = (BASELINE, "ours", "hand-tuned", "bare protocol")


def measure(setup: Setup) -> Section:
    """Count what an exchange takes in each case, where valgrind is installed."""
    if shutil.which("valgrind") is None:
        return Section("Instructions", "Not counted: valgrind is not installed.")
    rows: list[tuple[str, ...]] = []
    targets: list[Target] = []
    for scheme, concurrency, bound in CASES[:1] if setup.quick else CASES:
        setup.say(f"instructions, {scheme}, {concurrency} at a time")
        counts = {name: count_instructions(setup, name, scheme, concurrency) for name in NAMES}
        case = f"{scheme}, {concurrency}"
        rows += [
            (f"{case}: {name}", f"{count:,.0f}", f"{count / counts[BASELINE]:.3f}") for name, count in counts.items()
        ]
        if bound is not None:
            targets.append(Target(f"{case}: instructions, ours / {BASELINE}", counts["ours"] / counts[BASELINE], bound))
    return Section("Instructions", table(["client", "instructions", "/ hand-written"], rows), targets)


def count_instructions(setup: Setup, name: str, scheme: str, concurrency: int) -> float:
    """Return the instructions of one exchange: the difference between a long and a short run, for each exchange."""
    few = concurrency if setup.quick else max(512, 2 * concurrency)
    many = 3 * few
    url, authority = setup.stub.urls[scheme], str(setup.stub.authority) if scheme == "tls" else None
    runs = [
        _run(Plan(name=name, url=url, authority=authority, concurrency=concurrency, count=count, blocks=1))
        for count in (few, many)
    ]
    return (runs[1] - runs[0]) / (many - few)


def _run(plan: Plan) -> int:
    made = subprocess.run(
        [
            *("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"),
            *(sys.executable, "-m", "benchmarks.alone", json.dumps(attrs.asdict(plan))),
        ],
        cwd=ROOT,
        # The order of sets and dicts is part of the count.
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    return total_of(made.stderr)


def total_of(output: str) -> int:
    """Read the total that callgrind prints.

    Raises:
        ValueError: There is none.
    """
    found = re.search(r"Collected : (\d+)", output)
    if found is None:
        raise ValueError(f"callgrind printed no total: {output[-500:]}")
    return int(found[1])
