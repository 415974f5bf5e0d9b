"""The links and anchors of the pages that were built."""

from __future__ import annotations

import functools
import zlib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import attrs


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if value is None:
                continue
            if name == "id":
                self.ids.add(value)
            elif name in ("href", "src"):
                self.links.append(value)


@attrs.frozen
class Page:
    """A page, with its anchors and its links."""

    path: Path
    ids: frozenset[str]
    links: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> Page:
        reader = _Reader()
        reader.feed(path.read_text(encoding="utf-8"))
        return cls(path, frozenset(reader.ids), tuple(reader.links))

    def broken_links(self, pages: dict[Path, Page]) -> list[str]:
        """The links that lead nowhere in the site."""
        return [link for link in self.links if not self._leads_somewhere(link, pages)]

    def _leads_somewhere(self, link: str, pages: dict[Path, Page]) -> bool:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            return True
        target = (self.path.parent / unquote(parts.path)).resolve() if parts.path else self.path
        if not target.is_file():
            return False
        page = pages.get(target)
        return not parts.fragment or page is None or unquote(parts.fragment) in page.ids


@attrs.frozen
class Site:
    """The documentation as it was built."""

    folder: Path

    @functools.cached_property
    def pages(self) -> dict[Path, Page]:
        """All pages but those of source code."""
        paths = (path.resolve() for path in sorted(self.folder.rglob("*.html")))
        return {path: Page.read(path) for path in paths if "_modules" not in path.parts and "_static" not in path.parts}

    @functools.cached_property
    def objects(self) -> frozenset[str]:
        """The full names of everything in the reference."""
        data = (self.folder / "objects.inv").read_bytes()
        # Four lines of text, then one object a line.
        body = zlib.decompress(data.split(b"\n", 4)[4]).decode()
        return frozenset(line.split(" ", 1)[0] for line in body.splitlines() if " py:" in line)
