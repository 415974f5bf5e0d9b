"""Tests of the measurements of the benchmarks, whatever the times on this machine."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import attrs
import pytest

from benchmarks import __main__ as runner
from benchmarks import alone, instructions, side_by_side
from benchmarks.client import Contender, Tls
from benchmarks.contenders import CONTENDERS, installed
from benchmarks.measure import quantile
from benchmarks.report import Section, Setup, Target, run_child, table
from benchmarks.stub import BODY, Stub
from tests.support import ROOT, STRESS, missing

pytestmark = pytest.mark.unmeasured

KEY = json.loads(BODY)["key"]
CLIENTS = ("openrouter", "orjson", "pyreqwest", "uvloop")
"""What the benchmark compares with; not every Python has all of it."""


def needs(*libraries: str) -> None:
    for library in libraries:
        if find_spec(library) is None:
            missing(library)


@pytest.fixture(scope="module")
def stub() -> Iterator[Stub]:
    with Stub() as running:
        yield running


# The official SDK sometimes leaves a transport to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("scheme", ["http", "tls"])
@pytest.mark.parametrize("name", CONTENDERS)
def test_contenders_each_get_the_key(stub: Stub, name: str, scheme: str) -> None:
    needs(*CLIENTS)
    contender = CONTENDERS[name]()

    async def exchange() -> list[str]:
        client = contender.make(stub.urls[scheme], Tls(str(stub.authority)) if scheme == "tls" else None)
        keys = [await client.exchange(f"code-{number}") for number in range(3)]
        await client.close()
        # Transports close in a pass of the loop after this one.
        await asyncio.sleep(0)
        return keys

    with asyncio.Runner(loop_factory=alone.uvloop_loop if contender.uvloop else None) as loop:
        assert loop.run(exchange()) == [KEY] * 3


def test_stub_server_reports_its_cpu_time(stub: Stub) -> None:
    before = stub.cpu()
    plan = alone.Plan(name="hand-written", url=stub.urls["http"], authority=None, concurrency=4, count=2000, blocks=1)
    figures = run_child("benchmarks.alone", plan)
    assert stub.cpu() > before
    assert set(figures) == {"cpu", "elapsed", "p50", "p99", "memory"}
    assert all(figure > 0 for figure in figures.values())


@pytest.mark.parametrize(("tolerance", "rounds", "discarded"), [(1e9, 2, 0), (-1, 0, 3)])
def test_round_with_an_unequal_control_is_discarded(stub: Stub, tolerance: float, rounds: int, discarded: int) -> None:
    plan = side_by_side.Plan(
        url=stub.urls["http"],
        authority=None,
        concurrency=2,
        count=4,
        cycles=2,
        rounds=2,
        tolerance=tolerance,
        spare=2,
        names=["hand-written", "hand-written again", "ours"],
    )
    made = side_by_side.compare(plan)
    assert (len(made.rounds), len(made.discarded)) == (rounds, discarded)


@pytest.mark.parametrize(
    ("target", "verdict"),
    [
        (Target("x", 0.95, 0.95), "PASS"),
        (Target("x", 0.951, 0.95), "FAIL"),
        (Target("x", 0.95, 0.95, at_least=True), "PASS"),
        (Target("x", 0.949, 0.95, at_least=True), "FAIL"),
        (Target("x", float("nan"), 0.95), "FAIL"),
    ],
)
def test_target_judges_its_figure(target: Target, verdict: str) -> None:
    assert target.cells()[-1] == verdict
    assert target.is_met is (verdict == "PASS")


@pytest.mark.parametrize(("value", "status"), [(1.0, 0), (1.1, 1)])
def test_target_missed_sets_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: float, status: int
) -> None:
    def measure(_: Setup) -> Section:
        return Section("Title", table(["a", "b"], [("1", "2")]), [Target("bound", value, 1.05)])

    monkeypatch.setattr(runner, "MEASUREMENTS", {"only this": measure})
    monkeypatch.setattr(sys, "argv", ["make bench", "--quick"])
    needs(*CLIENTS)
    with pytest.raises(SystemExit) as exit_:
        runner.main()
    assert exit_.value.code == status
    assert "## Title\n\n| a | b |\n| --- | ---: |\n| 1 | 2 |" in capsys.readouterr().out


def test_report_puts_the_figures_between_the_marks_of_the_docs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    needs(*CLIENTS)
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{runner.BEGIN}\nold\n{runner.END}\n\nafter\n")
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    monkeypatch.setattr(runner, "PAGE", page)
    monkeypatch.setattr(runner, "MEASUREMENTS", {"one": lambda _: Section("Title", "new")})
    monkeypatch.setattr(sys, "argv", ["make bench", "--docs"])
    with pytest.raises(SystemExit):
        runner.main()
    text = page.read_text()
    assert text.startswith(f"before\n\n{runner.BEGIN}\n\n## Targets")
    assert "\n## Title\n\nnew\n" in text
    assert text.endswith(f"\n\n{runner.END}\n\nafter\n")
    assert "old" not in text
    assert str(ROOT) not in text


def test_report_refuses_quick_figures_for_the_docs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["make bench", "--docs", "--quick"])
    with pytest.raises(SystemExit) as exit_:
        runner.main()
    assert exit_.value.code == 2


def test_instructions_are_the_total_of_callgrind() -> None:
    assert instructions.total_of("==7== \n==7== Collected : 2035614841\n") == 2_035_614_841
    with pytest.raises(ValueError, match="no total"):
        instructions.total_of("valgrind: failed to start")


def test_instructions_without_valgrind_are_reported_as_missing(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    section = instructions.measure(Setup(stub, quick=True, charts=Path()))
    assert section == Section("Instructions", "Not counted: valgrind is not installed.")


def test_report_into_another_page_takes_any_choice_of_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    needs(*CLIENTS)
    page = tmp_path / "page.md"
    page.write_text(f"{runner.BEGIN}\nold\n{runner.END}\n")
    monkeypatch.setattr(runner, "MEASUREMENTS", {name: lambda _: Section("Title", "new") for name in ("one", "two")})
    monkeypatch.setattr(sys, "argv", ["make bench", "--quick", "--only", "two", "--into", str(page)])
    with pytest.raises(SystemExit):
        runner.main()
    assert page.read_text().count("\n## Title\n\nnew\n") == 1
    assert "old" not in page.read_text()


def test_report_says_which_libraries_are_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{runner.BEGIN}{runner.END}")
    monkeypatch.setattr(metadata, "distributions", lambda: [SimpleNamespace(name="aiohttp", version="3.14.5")])
    monkeypatch.setattr(runner, "MEASUREMENTS", {"one": lambda _: Section("Title", "new")})
    monkeypatch.setattr(sys, "argv", ["make bench", "--into", str(page)])
    with pytest.raises(SystemExit):
        runner.main()
    assert "aiohttp 3.14.5 (not installed: openrouter-async, openrouter, httpx," in page.read_text()


def test_only_the_client_that_needs_orjson_is_left_out() -> None:
    def fail(library: str) -> Contender:
        raise ModuleNotFoundError(name=library)

    tuned = CONTENDERS["hand-tuned"]
    assert list(installed({"tuned": tuned, "missing": lambda: fail("orjson")})) == ["tuned"]
    with pytest.raises(ModuleNotFoundError):
        installed({"tuned": tuned, "broken": lambda: fail("aiohttp")})


SECTIONS = {
    "side-by-side": ("Side by side, in one process", 6),
    "batches": ("Batches, http, 64 at a time", 2),
    "sign-in": ("Sign-ins, 20 at once", 1),
    "imports": ("Import", 2),
    "alone": ("Alone, each in a process of its own", 1),
    "instructions": ("Instructions", 1 if shutil.which("valgrind") else 0),
    "growth": ("Growth", 0),
}


@pytest.mark.stress
def test_report_summary_has_all_tables_and_judges_each_target() -> None:
    needs("matplotlib", "openai", *CLIENTS)
    assert SECTIONS.keys() == runner.MEASUREMENTS.keys()
    names = list(SECTIONS) if STRESS else ["batches", "sign-in"]
    made = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--only", *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert made.returncode in (0, 1), made.stderr
    for heading in ("Targets", *(SECTIONS[name][0] for name in names)):
        assert f"\n## {heading}\n\n" in f"\n{made.stdout}"
    targets = made.stdout.partition("## Targets\n\n")[2].partition("\n\n")[0].splitlines()[2:]
    verdicts = [line.split("|")[-2].strip() for line in targets]
    assert len(verdicts) == sum(SECTIONS[name][1] for name in names)
    assert set(verdicts) <= {"PASS", "FAIL"}
    assert ("FAIL" in verdicts) is (made.returncode == 1)


def test_chart_of_equal_figures_is_identical_and_names_no_machine() -> None:
    needs("matplotlib")
    from benchmarks.plots import Chart

    chart = Chart(title="Title", x="across", y="up", lines={"a": [(1, 2), (10, 3)], "b": [(1, 3), (10, 1)]})
    logarithmic = attrs.evolve(chart, logarithmic=True)
    svg = chart.svg()
    assert svg == chart.svg()
    assert svg != logarithmic.svg()
    assert all(f">{text}</text>" in svg for text in ("Title", "across", "up", "a", "b"))
    assert str(ROOT) not in svg
    assert "<dc:date>" not in svg


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.001, 1)])
def test_quantile_is_a_measured_value(share: float, value: int) -> None:
    assert quantile(range(1, 101), share) == value
