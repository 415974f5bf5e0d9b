"""Measure the cost of an exchange, compare it with other clients, and report which targets are met.

    make bench                      # all of it, about half an hour
    make bench BENCH_ARGS=--docs    # the same, and the tables and plots go into the docs
    make bench BENCH_ARGS=--quick   # a glance, some minutes
    make bench BENCH_ARGS='--only imports'
    make bench BENCH_ARGS='--only side-by-side --into page.md'   # a page with the marks of the docs

It exits with 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

from benchmarks import bulk, comparison, growth, imports, instructions, sign_in
from benchmarks.report import ROOT, Measurement, Section, Setup, table
from benchmarks.stub import Stub

MEASUREMENTS: Final[Mapping[str, Measurement]] = {
    "side-by-side": comparison.side_by_side_measurement,
    "alone": comparison.alone_measurement,
    "instructions": instructions.measure,
    "batches": bulk.measure,
    "sign-in": sign_in.measure,
    "imports": imports.measure,
    "growth": growth.measure,
}
"""What is measured, in this order. Each gives a section of the page, and its targets."""

CHARTS: Final = ROOT / "docs" / "_static" / "benchmarks"
SCRATCH: Final = ROOT / ".cache" / "benchmarks"
PAGE: Final = ROOT / "docs" / "explanation" / "performance.md"
BEGIN, END = "<!-- figures: written by `make bench` -->", "<!-- end of the figures -->"


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a glance: fewer rounds, and figures to match")
    parser.add_argument("--docs", action="store_true", help="write the tables and plots into the docs")
    parser.add_argument("--only", nargs="+", choices=MEASUREMENTS, default=list(MEASUREMENTS), help="what to measure")
    parser.add_argument("--into", type=Path, help="the page to write the tables into, between its marks")
    options = parser.parse_args()
    page: Path | None = PAGE if options.docs else options.into
    if options.docs and (options.quick or options.only != list(MEASUREMENTS)):
        parser.error("the docs have all figures, and none that were taken quickly")
    started = time.monotonic()
    with Stub() as stub:
        setup = Setup(stub, options.quick, charts=CHARTS if options.docs else SCRATCH, say=_say)
        sections = [MEASUREMENTS[name](setup) for name in options.only]
        stub_cpu = stub.cpu()
    elapsed = time.monotonic() - started
    text = _page(sections, f"It took {elapsed / 60:.0f} minutes, of which the server had its CPU for {stub_cpu:.0f} s.")
    print(text)
    if page is not None:
        before, _, rest = page.read_text().partition(BEGIN)
        page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}")
        _say(f"written to {page}")
    sys.exit(not all(target.is_met for section in sections for target in section.targets))


def _page(sections: Sequence[Section], remark: str) -> str:
    targets = [target.cells() for section in sections for target in section.targets]
    parts = [
        "## Targets",
        table(["what", "measured", "spread", "target", ""], targets),
        *(f"## {section.title}\n\n{section.text}" for section in sections),
        f"Measured with {_versions()}. {remark}",
    ]
    return "\n\n".join(parts)


def _versions() -> str:
    names = ("openrouter-async", "aiohttp", "openrouter", "httpx", "pyreqwest", "orjson", "uvloop")
    found = {distribution.name: distribution.version for distribution in metadata.distributions()}
    libraries = ", ".join(f"{name} {found[name]}" for name in names if name in found)
    if missing := [name for name in names if name not in found]:
        libraries += f" (not installed: {', '.join(missing)})"
    return f"Python {platform.python_version()} on {platform.system()} ({platform.machine()}), {libraries}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
