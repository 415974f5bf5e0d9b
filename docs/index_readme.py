"""A build hook: the README for a package index, which has neither the pictures nor the files that it links to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from hatchling.metadata.plugin.interface import MetadataHookInterface

_COMMENT: Final = re.compile(r"<!--.*?-->\n*", re.DOTALL)
_PICTURE: Final = re.compile(r"<picture>.*?</picture>\n*|<img [^>]*>\n*", re.DOTALL)
_PICTURES: Final = re.compile(r"^## What users see\n.*?(?=^## )", re.MULTILINE | re.DOTALL)
_LINK: Final = re.compile(r"\[([^\]]+)\]\((?!https?://)[^)]+\)")


def render(text: str) -> str:
    """Return the text without comments and pictures, and with the texts of links to files in place of the links."""
    for dropped in (_COMMENT, _PICTURES, _PICTURE):
        text = dropped.sub("", text)
    return _LINK.sub(r"\1", text)


class IndexReadme(MetadataHookInterface):
    """Sets the README of the package's metadata."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the field ``readme``."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": render(text)}
