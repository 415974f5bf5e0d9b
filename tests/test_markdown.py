"""The links of Markdown files, as they are followed where the project is hosted."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.support import ROOT

FILES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_FENCE = re.compile(r"^ *(```+|:::+).*?^ *\1 *$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`]*`")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]*)\)|(?:src|srcset|href)=\"([^\"]*)\"")
_HEADING = re.compile(r"^#+ +(.*?) *#*$", re.MULTILINE)


def _prose_of(text: str) -> str:
    for code in (_COMMENT, _FENCE, _CODE):
        text = code.sub("", text)
    return text


def anchors_of(text: str) -> set[str]:
    """Return the anchors of the headings of a document."""
    headings = _HEADING.findall(_FENCE.sub("", text))
    return {re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-") for heading in headings}


def broken_links(path: Path) -> list[str]:
    """The links of a document that lead nowhere in the project."""
    broken = []
    text = path.read_text(encoding="utf-8")
    for found in _LINK.finditer(_prose_of(text)):
        link = found[1] if found[1] is not None else found[2]
        if re.match(r"[a-z]+:", link):
            continue
        name, _, fragment = unquote(link).partition("#")
        target = path.parent / name if name else path
        is_there = target.exists() and ROOT in [target.resolve(), *target.resolve().parents]
        if not is_there or (fragment and fragment not in anchors_of(target.read_text(encoding="utf-8"))):
            broken.append(link)
    return broken


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_markdown_relative_links_have_targets(path: Path) -> None:
    assert broken_links(path) == []


def test_markdown_check_finds_a_broken_link(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tests.test_markdown.ROOT", tmp_path.resolve())
    (tmp_path / "other.md").write_text("# A `heading`, *here*\n\n```python\n# No heading\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md) [b](other.md#a-heading-here) [c](other.md#no-heading) [d](missing.md) [e](#nowhere)"
        ' [f](https://openrouter.ai/) <img src="missing.png">'
    )
    assert broken_links(page) == ["other.md#no-heading", "missing.md", "#nowhere", "missing.png"]
