"""Run the code blocks of Markdown documents, as a reader would.

Every block is of a kind that can be run, or a comment right above it says why it is not::

    <!-- not run: it serves until Ctrl-C -->

- ``python``: the blocks of a document share their names, as the cells of a notebook do.
- ``console``: each line that starts with ``$`` is a command; what stands below it has to be in its output, in this
  order. An ``…`` stands for anything. What is exported is known to the commands after it.
- a file, of any language, that the reader saves: it is written, and commands after it use it::

    <!-- file: app.py -->

- ``console`` with a server, which goes on in a terminal of its own until the document ends::

    <!-- leave running -->

A check that readers do not see is a comment of its own::

    <!-- check
    assert grant.key
    -->
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from sybil import Document, Example, Region
from sybil.evaluators.python import PythonEvaluator
from sybil.region import Lexeme

_BLOCK: Final = re.compile(
    r"(?:^ *<!-- (?:not run: (?P<reason>\S[^\n]*?)|file: (?P<file>\S+)|(?P<running>leave running)) -->\n\s*)?"
    r"^(?P<indent> *)(?P<fence>```+)(?P<language>[^\n`]*)\n(?P<code>.*?)^(?P=indent)(?P=fence) *$"
    r"|^<!-- check\n(?P<check>.*?)^-->$",
    re.MULTILINE | re.DOTALL,
)
# These are read by people or by tools, and there is nothing in them to run.
_PROSE: Final = frozenset(
    {
        "text",
        "mermaid",
        "{command-help}",
        "{eval-rst}",
        "{include}",
        "{note}",
        "{raw}",
        "{tip}",
        "{toctree}",
        "{warning}",
    }
)
_SECONDS: Final = 60
_SECONDS_TO_END: Final = 20
_CLEANUP: Final = "_cleanup"
_ENVIRONMENT: Final = "_environment"

_run_python: Final = PythonEvaluator()


def _find_blocks(document: Document) -> Iterator[Region]:
    for found in _BLOCK.finditer(document.text):
        name = "check" if found["check"] is not None else "code"
        line_offset = document.text.count("\n", found.start(), found.start(name)) - 1
        code = Lexeme(textwrap.dedent(found[name]), found.start(name), line_offset)
        language = "python" if name == "check" else found["language"].partition(" ")[0].strip()
        if language in _PROSE or (name == "code" and found["reason"] is not None):
            continue
        evaluator = _EVALUATORS.get(language, _refuse)
        if found["file"] is not None:
            evaluator = functools.partial(_write, Path(found["file"]))
        elif found["running"] is not None:
            evaluator = _start
        yield Region(found.start(), found.end(), code, evaluator)


def _write(path: Path, example: Example) -> None:
    path.write_text(str(example.parsed))


def _refuse(example: Example) -> None:
    raise AssertionError(f"{example.path}:{example.line}: this block can be neither run nor says why it is not")


def _commands(example: Example) -> Iterator[tuple[str, str]]:
    """The commands of a block, each with the output that it shows."""
    texts = re.split(r"^\$ ", str(example.parsed), flags=re.MULTILINE)[1:]
    assert texts, f"{example.path}:{example.line}: no line starts with $"
    for text in texts:
        command, _, expected = text.partition("\n")
        while command.endswith("\\") or expected.startswith("> "):
            more, _, expected = expected.partition("\n")
            command = f"{command}\n{more.removeprefix('> ')}"
        yield command, expected


def _shell(command: str) -> list[str]:
    return [shutil.which("bash") or "sh", "-c", command]


def _environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return os.environ | {"PATH": path, "COLUMNS": "80", "PYTHONUNBUFFERED": "1"}


def _run_console(example: Example) -> None:
    environment = example.namespace[_ENVIRONMENT]
    for command, expected in _commands(example):
        if command.startswith(("export ", "unset ")):
            said = subprocess.run(
                _shell(f"{command} && env -0"), stdout=subprocess.PIPE, text=True, check=True, env=environment
            )
            environment.clear()
            environment |= dict(line.split("=", 1) for line in said.stdout.split("\0") if line)
            continue
        result = subprocess.run(
            _shell(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SECONDS,
            check=False,
            env=environment,
        )
        assert result.returncode == 0, f"{command}: status {result.returncode}\n{result.stdout}"
        _compare(command, expected, result.stdout)


def _start(example: Example) -> None:
    for command, expected in _commands(example):
        example.namespace[_CLEANUP].enter_context(_running(command, expected, example.namespace[_ENVIRONMENT]))


@contextmanager
def _running(command: str, expected: str, environment: Mapping[str, str]) -> Iterator[None]:
    """A command that serves, once it has said what is expected of it."""
    # What is appended is written at the end, wherever reading is.
    with tempfile.TemporaryFile("a+") as output:
        process = subprocess.Popen(
            _shell(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )
        try:
            give_up_at = time.monotonic() + _SECONDS
            while True:
                # Its end decides, so it is looked at before what it said by then.
                is_over = process.poll() is not None or time.monotonic() > give_up_at
                output.seek(0)
                said = output.read()
                if is_over or _missing(expected, said) is None:
                    break
                time.sleep(0.02)
            _compare(command, expected, said)
            assert process.poll() is None, f"{command}: it ended\n{said}"
            yield
            assert process.poll() is None, f"{command}: it ended before its document did\n{said}"
        finally:
            # Whoever has workers ends them; they are not to be told twice.
            process.terminate()
            try:
                process.wait(_SECONDS_TO_END)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _compare(command: str, expected: str, output: str) -> None:
    missing = _missing(expected, output)
    assert missing is None, f"{command}: {missing!r} is not in the output\n{output}"


def _missing(expected: str, output: str) -> str | None:
    """The first line that the output does not have; None when it has all, in their order."""
    for line in expected.splitlines():
        # Keys, codes and hashes differ from run to run, and an ellipsis stands for them.
        pattern = ".*".join(map(re.escape, line.strip().split("…")))
        found = re.search(pattern, output)
        if found is None:
            return line
        output = output[found.end() :]
    return None


_EVALUATORS: Final[Mapping[str, Callable[[Example], None]]] = {"python": _run_python, "console": _run_console}


def run_document(path: Path, names: Mapping[str, object], *, places: Mapping[str, str] | None = None) -> int:
    """Run the blocks of a document in their order; how many there are.

    Files are written to the current folder.

    Args:
        path: Where it is.
        names: What its Python blocks know from the start.
        places: What is elsewhere than the document says, such as ports that are in use here.
    """
    text = path.read_text()
    for said, actual in (places or {}).items():
        text = text.replace(said, actual)
    document = Document(text, str(path))
    for region in _find_blocks(document):
        document.add(region)
    examples = list(document.examples())
    with ExitStack() as cleanup:
        document.namespace.update(names)
        document.namespace |= {_CLEANUP: cleanup, _ENVIRONMENT: _environment()}
        for example in examples:
            example.evaluate()
    return len(examples)
