"""The reference and the public names: each has the other."""

from __future__ import annotations

import re

import pytest

from openrouter_async.events import Event
from openrouter_async.testing import demo
from tests.public import defined_in, errors, undocumented
from tests.support import ROOT

pytestmark = pytest.mark.unmeasured

REFERENCE = ROOT / "docs" / "reference"


def test_reference_explains_every_error() -> None:
    entries = (REFERENCE / "errors.md").read_text().split(".. autoexception:: ")[1:]
    told = {entry.split("\n")[0].rpartition(".")[2] for entry in entries if "**What to do:** " in entry}
    known = {error.__name__ for error in errors()}
    assert told == known
    assert len(known) > 25


def test_telemetry_table_has_every_event() -> None:
    text = (ROOT / "docs" / "how-to" / "telemetry.md").read_text()
    table = text.partition("| level | event | meaning |\n")[2].partition("\n\n")[0]
    cells = [row.split("|")[2] for row in table.splitlines()]
    assert sorted(re.findall(r"`(\w+)`", " ".join(cells))) == sorted(Event)


def test_public_names_are_the_documented_ones() -> None:
    assert undocumented() == set()


def test_public_name_check_finds_names_outside_of_all() -> None:
    assert not hasattr(demo, "__all__")
    assert set(defined_in(demo)) == {"demonstrate"}
