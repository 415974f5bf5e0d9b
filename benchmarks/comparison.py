"""Compare this client with others, side by side and each in a process of its own."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from benchmarks import alone, side_by_side
from benchmarks.report import Section, Setup, Target, run_child, table
from benchmarks.side_by_side import BASELINE, CONTROL, Comparison

CASES: Final = tuple((scheme, concurrency) for scheme in ("http", "tls") for concurrency in (1, 64, 512))
# The targets are for these.
QUICK_CASES: Final = (("http", 64), ("tls", 512))
ALONE: Final = (
    "ours",
    "ours, no reuse of connections",
    "ours, uvloop",
    "hand-written",
    "hand-tuned",
    "bare protocol",
    "official SDK",
    "httpx",
    "pyreqwest",
)
# The callers of a block start in step, unlike those of a real app, so a block is long enough for that not to matter.
_COUNTS: Final = {1: 150, 64: 1024, 512: 3072}
_CYCLES: Final = {1: 12, 64: 8, 512: 4}
_IN_TARGETS: Final = (BASELINE, CONTROL, "ours")
# With newer Pythons, large reads cost the hand-written client no page faults.
_MOST_CPU: Final = 0.95 if sys.version_info < (3, 12) else 1.0
_SLOW: Final = frozenset({"official SDK"})


def side_by_side_measurement(setup: Setup) -> Section:
    """All that can share a process, at each concurrency, over http and TLS."""
    texts: list[str] = []
    targets: list[Target] = []
    for scheme, concurrency in QUICK_CASES if setup.quick else CASES:
        made, share = _compare(setup, scheme, concurrency)
        texts.append(f"### {_name(scheme)}, {concurrency} at a time\n\n{_side_by_side_table(made, share)}")
        targets += _targets(made, scheme, concurrency)
    return Section("Side by side, in one process", "\n\n".join(texts), targets)


def _compare(setup: Setup, scheme: str, concurrency: int) -> tuple[Comparison, float]:
    plan = side_by_side.Plan(
        url=setup.stub.urls[scheme],
        authority=str(setup.stub.authority) if scheme == "tls" else None,
        concurrency=concurrency,
        count=concurrency if setup.quick else _COUNTS[concurrency],
        cycles=2 if setup.quick else _CYCLES[concurrency],
        rounds=1 if setup.quick else 5,
        tolerance=1 if setup.quick else 0.05,
        spare=30,
        # Opening that many connections takes long, and each client needs its own.
        names=_IN_TARGETS if setup.quick and concurrency > 64 else None,
    )
    started, cpu = time.monotonic(), setup.stub.cpu()
    made = Comparison(**run_child("benchmarks.side_by_side", plan))
    share = (setup.stub.cpu() - cpu) / (time.monotonic() - started)
    if len(made.rounds) < plan.rounds:
        raise RuntimeError(f"{scheme}, {concurrency} at a time: the control was off too often: {made.discarded}")
    control = made.ratios(CONTROL)
    setup.say(
        f"side by side, {scheme}, {concurrency} at a time: ours {made.ratio('ours'):.3f} of hand-written; "
        f"control {min(control):.3f} to {max(control):.3f}; {len(made.discarded)} round(s) discarded; "
        f"the server was busy for {share:.0%} of the time"
    )
    return made, share


def _side_by_side_table(made: Comparison, share: float) -> str:
    rows = []
    for name, block in made.blocks.items():
        ratios = made.ratios(name)
        rows.append(
            (
                f"{name} (control)" if name == CONTROL else name,
                f"{made.ratio(name):.3f}",
                f"{min(ratios):.3f} to {max(ratios):.3f}",
                f"{block['cpu'] * 1e6:.0f}",
                f"{1 / block['elapsed']:,.0f}",
                f"{block['p50'] * 1e3:.2f}",
                f"{block['p99'] * 1e3:.2f}",
            )
        )
    head = ["client", "CPU / hand-written", "in the rounds", "CPU, µs", "exchanges/s", "p50, ms", "p99, ms"]
    note = (
        f"{len(made.rounds)} rounds; {len(made.discarded)} discarded for their control. "
        f"The server was busy for {share:.0%} of the time."
    )
    return f"{table(head, rows)}\n\n{note}"


def _targets(made: Comparison, scheme: str, concurrency: int) -> list[Target]:
    def bound(name: str, most: float, to: str = BASELINE, figure: str = "cpu") -> Target:
        ratios = made.ratios(name, figure, to)
        what = f"{_name(scheme)}, {concurrency}: {figure.upper() if figure == 'cpu' else figure}, {name} / {to}"
        return Target(what, made.ratio(name, figure, to), most, spread=(min(ratios), max(ratios)))

    if (scheme, concurrency) == ("http", 64):
        return [
            bound("ours", _MOST_CPU),
            bound("ours, uvloop", 0.88),
            bound("ours", 1.10, "hand-tuned"),
            bound("ours, 6 middlewares", 1.03, "ours"),
        ]
    if (scheme, concurrency) == ("tls", 64):
        return [bound("ours", _MOST_CPU)]
    if (scheme, concurrency) == ("tls", 512):
        return [bound("ours", 1.03), bound("ours", 0.5, figure="p99")]
    return []


def alone_measurement(setup: Setup) -> Section:
    """Each in a process of its own, at each concurrency, over http and TLS."""
    texts: list[str] = []
    targets: list[Target] = []
    for scheme, concurrency in QUICK_CASES[:1] if setup.quick else CASES:
        setup.say(f"alone, {scheme}, {concurrency} at a time")
        figures = {name: _alone(setup, name, scheme, concurrency) for name in ALONE}
        texts.append(f"### {_name(scheme)}, {concurrency} at a time\n\n{_alone_table(figures)}")
        if (scheme, concurrency) == ("http", 64):
            share = figures["ours"]["cpu"] / figures["official SDK"]["cpu"]
            targets.append(Target("http, 64: CPU, ours / official SDK", share, 0.05))
    return Section("Alone, each in a process of its own", "\n\n".join(texts), targets)


def _alone(setup: Setup, name: str, scheme: str, concurrency: int) -> Mapping[str, float]:
    count = _COUNTS[concurrency]
    figures: Any = run_child(
        "benchmarks.alone",
        alone.Plan(
            name=name,
            url=setup.stub.urls[scheme],
            authority=str(setup.stub.authority) if scheme == "tls" else None,
            concurrency=concurrency,
            count=concurrency if setup.quick else max(concurrency, count // 3) if name in _SLOW else count,
            blocks=1 if setup.quick else 2 if name in _SLOW else 7,
        ),
    )
    made: Mapping[str, float] = figures
    return made


def _alone_table(figures: Mapping[str, Mapping[str, float]]) -> str:
    rows: Sequence[Sequence[str]] = [
        (
            name,
            f"{made['cpu'] * 1e6:,.0f}",
            f"{made['cpu'] / figures['hand-written']['cpu']:.2f}",
            f"{1 / made['elapsed']:,.0f}",
            f"{made['p50'] * 1e3:.2f}",
            f"{made['p99'] * 1e3:.2f}",
            f"{made['memory']:.1f}",
        )
        for name, made in figures.items()
    ]
    head = ["client", "CPU, µs", "/ hand-written", "exchanges/s", "p50, ms", "p99, ms", "peak memory, MiB"]
    return table(head, rows)


def _name(scheme: str) -> str:
    return {"http": "http", "tls": "TLS"}[scheme]
