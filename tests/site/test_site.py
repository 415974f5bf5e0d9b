"""The documentation as it is built: complete, linked, and up to date."""

from __future__ import annotations

import re
from pathlib import Path

from openrouter_async.cli._app import COMMANDS
from openrouter_async.events import Event
from openrouter_async.testing import demo
from tests.site.pages import Page, Site
from tests.site.public import defined_in, errors, public_names, undocumented
from tests.support import ROOT

STATIC = ROOT / "docs" / "_static"
REFERENCE = ROOT / "docs" / "reference"


def test_site_links_have_targets(site: Site) -> None:
    broken = {
        str(page.path.relative_to(site.folder.resolve())): links
        for page in site.pages.values()
        if (links := page.broken_links(site.pages))
    }
    assert broken == {}
    assert sum(len(page.links) for page in site.pages.values()) > 1000


def test_site_check_finds_a_broken_link(tmp_path: Path) -> None:
    page, other = tmp_path / "page.html", tmp_path / "other.html"
    page.write_text(
        '<p id="here"><a href="#here"><a href="#nowhere"><a href="other.html#there"><a href="missing.html">'
    )
    other.write_text('<p id="elsewhere"><a href="page.html#here"><a href="https://openrouter.ai/">')
    pages = {path: Page.read(path) for path in (page, other)}
    assert pages[page].broken_links(pages) == ["#nowhere", "other.html#there", "missing.html"]
    assert pages[other].broken_links(pages) == []


def test_reference_has_every_public_name(site: Site) -> None:
    public = public_names()
    assert [name for name, found in public.items() if not (found.names | {name}) & site.objects] == []
    assert len(public) > 100


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


def test_reference_shows_the_help_of_every_command(site: Site) -> None:
    text = (site.folder / "reference" / "command-line.html").read_text()
    shown = re.findall(r"Usage: openrouter-async ([a-z-]+)", text)
    assert shown == list(COMMANDS)


def test_public_names_are_the_documented_ones() -> None:
    assert undocumented() == set()


def test_public_name_check_finds_names_outside_of_all() -> None:
    assert not hasattr(demo, "__all__")
    assert set(defined_in(demo)) == {"demonstrate"}
