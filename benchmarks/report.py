"""The report of a benchmark: tables, and the targets that are met or missed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import attrs

from benchmarks.stub import Stub

ROOT: Final = Path(__file__).resolve().parent.parent
"""The folder of the project."""


@attrs.frozen
class Setup:
    """The resources of a measurement.

    Attributes:
        stub: The server.
        quick: Whether a glance is enough.
        charts: The folder for pictures.
        say: Prints a line about the progress.
    """

    stub: Stub
    quick: bool
    charts: Path
    say: Callable[[str], None] = print


@attrs.frozen
class Target:
    """A bound for a figure.

    Attributes:
        what: The name of the figure.
        value: The measured value.
        bound: The upper bound; the lower bound if `at_least`.
        at_least: Whether the bound is a lower one.
        spread: The minimum and maximum of the rounds, if there were any.
        unit: Of the value.
    """

    what: str
    value: float
    bound: float
    at_least: bool = False
    spread: tuple[float, float] | None = None
    unit: str = ""

    @property
    def is_met(self) -> bool:
        """Whether the value keeps to the bound."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def cells(self) -> tuple[str, str, str, str, str]:
        """The target as a row of a table."""
        spread = "" if self.spread is None else f"{self.spread[0]:.3f} to {self.spread[1]:.3f}"
        bound = f"{'at least' if self.at_least else 'at most'} {self.bound:g}{self.unit}"
        return self.what, f"{self.value:.3f}{self.unit}", spread, bound, "PASS" if self.is_met else "FAIL"


@attrs.frozen
class Section:
    """The result of one measurement.

    Attributes:
        title: Its heading.
        text: Its paragraphs, tables and pictures, in Markdown.
        targets: Its bounds.
    """

    title: str
    text: str
    targets: Sequence[Target] = ()


Measurement: TypeAlias = Callable[[Setup], Section]
"""Measures something, and returns the result. `benchmarks.__main__` runs those that it lists."""


def run_child(module: str, plan: Any) -> Any:
    """Run a module in a process of its own, with a plan as its argument, and return the JSON that it prints."""
    process = subprocess.run(
        [sys.executable, "-m", module, json.dumps(attrs.asdict(plan))],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(process.stdout.splitlines()[-1])


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; its first column is text, the others are figures."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
