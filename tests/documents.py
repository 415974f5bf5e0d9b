"""Run the visible code of Markdown documents, as a reader would.

Each block can be run, or a comment right above it says why it is not::

    <!-- not run: it serves until Ctrl-C -->

- ``python``: the blocks of a document share their names, as the cells of a notebook do, in a process of their own.
- ``console``: each line that starts with ``$`` is a command; the lines below it must be in its output, in this order.
  An ``…`` stands for anything. Variables that are exported reach the commands and blocks after it.
- a file of any language, which the commands after it use::

    <!-- file: app.py -->

- ``console`` with a server, which runs until the document ends, or stops the server that was started last::

    <!-- leave running -->

    <!-- stop -->

- ``console`` that installs something. It runs only for a newcomer, whose environment is empty::

    <!-- install -->

A check is a comment, which readers do not see. It knows the names of the document, and cannot add to them::

    <!-- check
    assert grant.key
    -->
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import attrs

from tests import cells
from tests.support import PATIENCE

_BLOCK: Final = re.compile(
    r"(?:^ *<!-- (?:not run: (?P<reason>\S[^\n]*?)|file: (?P<file>\S+)|(?P<note>leave running|install)) -->\n\s*)?"
    r"^(?P<indent> *)(?P<fence>```+)(?P<language>[^\n`]*)\n(?P<code>.*?)^(?P=indent)(?P=fence) *$"
    r"|^<!-- check\n(?P<check>.*?)^-->$|^<!-- (?P<stop>stop) -->$",
    re.MULTILINE | re.DOTALL,
)
# Blocks for people or for tools, with nothing to run.
_PROSE: Final = frozenset(
    {
        "text",
        "mermaid",
        "{command-help}",
        "{eval-rst}",
        "{include}",
        "{literalinclude}",
        "{note}",
        "{raw}",
        "{tip}",
        "{toctree}",
        "{warning}",
    }
)
# These commands change the environment of the terminal.
_SHELL_BUILTINS: Final = ("export ", "unset ", ". ")
_SECONDS_TO_INSTALL: Final = 600


@attrs.frozen(kw_only=True)
class Block:
    """A block of a document.

    Attributes:
        kind: ``python``, ``check``, ``console``, ``file``, ``leave running``, ``stop``, ``install``, or a language
            that cannot be run.
        code: The content of the block.
        place: The document and the line, for messages.
        line: The number of lines before it.
        file: The name of a file.
    """

    kind: str
    code: str
    place: str
    line: int
    file: str | None = None

    @property
    def commands(self) -> Iterator[tuple[str, str]]:
        """The commands of a console, each with the output that it shows."""
        texts = re.split(r"^\$ ", self.code, flags=re.MULTILINE)[1:]
        assert texts, f"{self.place}: no line starts with $"
        for text in texts:
            command, _, expected = text.partition("\n")
            while command.endswith("\\") or expected.startswith("> "):
                more, _, expected = expected.partition("\n")
                command = f"{command}\n{more.removeprefix('> ')}"
            yield command, expected


def read_blocks(path: Path, places: Mapping[str, str] | None = None) -> list[Block]:
    """Return the blocks of a document that are to be run.

    Args:
        path: The document.
        places: Replacements for its text, such as ports that are in use here.
    """
    text = path.read_text()
    for said, actual in (places or {}).items():
        text = text.replace(said, actual)
    blocks = []
    for found in _BLOCK.finditer(text):
        name = next(name for name in ("check", "stop", "code") if found[name] is not None)
        language = found["language"].partition(" ")[0].strip() if name == "code" else name
        if language in _PROSE or found["reason"] is not None:
            continue
        line = text.count("\n", 0, found.start(name))
        kind = "file" if found["file"] is not None else found["note"] or language
        blocks.append(
            Block(
                kind=kind,
                code=textwrap.dedent(found[name]),
                place=f"{path}:{line}",
                line=line,
                file=found["file"],
            )
        )
    return blocks


def run_document(
    path: Path,
    *,
    places: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    is_newcomer: bool = False,
) -> int:
    """Run the blocks of a document in their order, in the current folder.

    Args:
        path: The document.
        places: See `read_blocks`.
        environment: Environment variables; by default those of this process, with this Python first in the path.
        is_newcomer: Whether blocks that install something run, and no checks.

    Returns:
        The number of blocks that ran.
    """
    skipped = "check" if is_newcomer else "install"
    blocks = [block for block in read_blocks(path, places) if block.kind != skipped]
    run_blocks(blocks, own_environment() if environment is None else environment)
    return len(blocks)


def run_blocks(blocks: Sequence[Block], environment: Mapping[str, str]) -> None:
    """Run blocks in the current folder, in a terminal and a notebook of their own."""
    with ExitStack() as cleanup:
        reader = _Reader(environment, cleanup)
        for block in blocks:
            reader.run(block)


def own_environment() -> dict[str, str]:
    """Return the variables of this process, with its Python first in the path."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return os.environ | {"PATH": path, "COLUMNS": "80", "PYTHONUNBUFFERED": "1"}


class _Reader:
    """A reader who types in the commands and code of a document."""

    def __init__(self, environment: Mapping[str, str], cleanup: ExitStack) -> None:
        self._environment = dict(environment)
        self._cleanup = cleanup
        self._notebook: _Notebook | None = None
        self._servers: list[ExitStack] = []

    def run(self, block: Block) -> None:
        if block.kind in ("python", "check"):
            if self._notebook is None:
                self._notebook = _Notebook(self._environment, self._cleanup)
            self._notebook.run(block, self._environment)
        elif block.kind == "file":
            assert block.file is not None
            Path(block.file).write_text(block.code)
        elif block.kind == "leave running":
            for command, expected in block.commands:
                self._servers.append(self._cleanup.enter_context(ExitStack()))
                self._servers[-1].enter_context(_running(command, expected, dict(self._environment)))
        elif block.kind == "stop":
            self._servers.pop().close()
        elif block.kind in ("console", "install"):
            for command, expected in block.commands:
                self._type(command, expected, PATIENCE if block.kind == "console" else _SECONDS_TO_INSTALL)
        else:
            raise AssertionError(f"{block.place}: this block cannot be run, and does not say why")

    def _type(self, command: str, expected: str, timeout: float) -> None:
        is_builtin = command.startswith(_SHELL_BUILTINS)
        result = subprocess.run(
            _shell(f"{command} && env -0" if is_builtin else command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
            env=self._environment,
        )
        assert result.returncode == 0, f"{command}: status {result.returncode}\n{result.stdout}"
        if is_builtin:
            self._environment = dict(line.split("=", 1) for line in result.stdout.split("\0") if "=" in line)
        else:
            _compare(command, expected, result.stdout)


class _Notebook:
    """A process for the Python blocks of a document."""

    def __init__(self, environment: Mapping[str, str], cleanup: ExitStack) -> None:
        requests, self._requests = os.pipe()
        self._answers, answers = os.pipe()
        cleanup.callback(os.close, self._answers)
        self._output = cleanup.enter_context(tempfile.TemporaryFile("a+"))  # noqa: SIM115
        python = shutil.which("python", path=environment["PATH"])
        assert python is not None
        self._process = subprocess.Popen(
            [python, cells.__file__, str(requests), str(answers)],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            env=environment,
            pass_fds=(requests, answers),
        )
        os.close(requests)
        os.close(answers)
        cleanup.callback(self._end)

    def run(self, block: Block, environment: Mapping[str, str]) -> None:
        cell = {
            "code": block.code,
            "line": block.line,
            "path": block.place.rpartition(":")[0],
            "is_check": block.kind == "check",
            "environment": environment,
        }
        os.write(self._requests, json.dumps(cell).encode() + b"\n")
        answer = b""
        give_up_at = time.monotonic() + PATIENCE
        while not answer.endswith(b"\n"):
            readable, _, _ = select.select([self._answers], [], [], max(0, give_up_at - time.monotonic()))
            assert readable, f"{block.place}: it takes longer than {PATIENCE} s\n{self._said()}"
            part = os.read(self._answers, 65_536)
            assert part, f"{block.place}: the process ended\n{self._said()}"
            answer += part
        problem = json.loads(answer)
        assert problem is None, f"{block.place}\n{problem}\n{self._said()}"

    def _said(self) -> str:
        self._output.seek(0)
        return self._output.read()

    def _end(self) -> None:
        os.close(self._requests)
        try:
            self._process.wait(PATIENCE)
        finally:
            self._process.kill()
            self._process.wait()


def _shell(command: str) -> list[str]:
    return [shutil.which("bash") or "sh", "-c", command]


@contextmanager
def _running(command: str, expected: str, environment: Mapping[str, str]) -> Iterator[None]:
    """Run a command that serves, after waiting for the output that it shows."""
    with tempfile.NamedTemporaryFile("a") as output:
        process = subprocess.Popen(
            _shell(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )
        try:
            give_up_at = time.monotonic() + PATIENCE
            while True:
                # Looked at before the output, so that all of an ended process's output is read.
                is_over = process.poll() is not None or time.monotonic() > give_up_at
                said = Path(output.name).read_text()
                if is_over or _missing(expected, said) is None:
                    break
                time.sleep(0.02)
            _compare(command, expected, said)
            assert process.poll() is None, f"{command}: it ended\n{said}"
            yield
            assert process.poll() is None, f"{command}: it ended before its document did\n{said}"
        finally:
            # Servers with workers end them; a second signal would disturb that.
            process.terminate()
            try:
                process.wait(PATIENCE)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _compare(command: str, expected: str, output: str) -> None:
    missing = _missing(expected, output)
    assert missing is None, f"{command}: {missing!r} is not in the output\n{output}"


def _missing(expected: str, output: str) -> str | None:
    """Return the first line that the output does not have; None when it has all, in their order."""
    for line in expected.splitlines():
        # Keys, codes and hashes differ from run to run, and an ellipsis stands for them.
        pattern = ".*".join(map(re.escape, line.strip().split("…")))
        found = re.search(pattern, output)
        if found is None:
            return line
        output = output[found.end() :]
    return None
