from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import attrs
import pytest

from tests.soak import LIMITS, Sample, growth
from tests.support import ROOT, missing

FLAT = [Sample(seconds=n, calls=n, rss=40, blocks=180, tasks=201, files=90 + n % 9, sockets=80) for n in range(9)]
# Before each sample, the soak waits for requests that hang.
SMALL = ("--seconds", "1", "--least-calls", "900", "--concurrency", "40", "--samples", "6", "--timeout", "0.4")
LEAK = """
import sys
from tests import soak

class Leaking(soak.Soak):
    held = []

    async def _call(self):
        self.held.append([object() for _ in range(100)])
        return await super()._call()

soak.Soak = Leaking
sys.exit(soak.main())
"""


async def run(*arguments: str) -> tuple[int | None, str]:
    if not Path("/proc/self/statm").exists():
        missing("/proc")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        *SMALL,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 240)
    print(output.decode())
    return process.returncode, output.decode()


@pytest.mark.unmeasured
async def test_soak_among_faults_keeps_nothing() -> None:
    status, output = await run("-m", "tests.soak")
    assert output.splitlines()[-1] == "flat"
    assert status == 0
    keys = re.search(r"(\d[\d,]*) a key", output)
    assert keys is not None
    assert int(keys[1].replace(",", "")) > 100
    assert "unknown" in output


@pytest.mark.unmeasured
async def test_soak_of_a_leaking_client_fails() -> None:
    status, output = await run("-c", LEAK)
    assert re.search(r"^not flat: .*blocks grew from", output, re.MULTILINE)
    assert status == 1


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.name)
def test_growth_is_named(limit: object) -> None:
    name = limit.name  # type: ignore[attr-defined]
    grown = [attrs.evolve(sample, **{name: getattr(sample, name) + 15 * number}) for number, sample in enumerate(FLAT)]
    assert [text.partition(" ")[0] for text in growth(grown)] == [name]


def test_growth_of_fluctuating_samples_is_flat() -> None:
    assert growth(FLAT) == []


def test_growth_during_warm_up_is_flat() -> None:
    assert growth([attrs.evolve(FLAT[0], rss=20, blocks=90, files=10), *FLAT]) == []


def test_growth_of_two_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="three samples"):
        growth(FLAT[:2])
