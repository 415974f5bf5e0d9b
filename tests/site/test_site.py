"""The documentation as it is built: complete, linked, and up to date."""

from __future__ import annotations

import re
from pathlib import Path

from openrouter_async.cli._app import COMMANDS
from tests.public import public_names
from tests.site.pages import Page, Site


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


def test_reference_shows_the_help_of_every_command(site: Site) -> None:
    text = (site.folder / "reference" / "command-line.html").read_text()
    shown = re.findall(r"Usage: openrouter-async ([a-z-]+)", text)
    assert shown == list(COMMANDS)
