"""Runs the code blocks of Markdown documents, as a reader would.

Every block is of a kind that can be run, or a comment right above it says why it is not::

    <!-- not run: it serves until Ctrl-C -->

- ``python``: the blocks of a document share their names, as the cells of a notebook do.
- ``console``: each line that starts with ``$`` is a command; what stands below it has to be in its output, in this
  order. An ``…`` stands for anything.

A check that readers do not see is a comment of its own::

    <!-- check
    assert grant.key
    -->
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from sybil import Document, Example, Region, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.region import Lexeme

_BLOCK: Final = re.compile(
    r"(?:^ *<!-- not run: (?P<reason>\S[^\n]*?) -->\n\s*)?"
    r"^(?P<indent> *)(?P<fence>```+)(?P<language>[^\n`]*)\n(?P<code>.*?)^(?P=indent)(?P=fence) *$"
    r"|^<!-- check\n(?P<check>.*?)^-->$",
    re.MULTILINE | re.DOTALL,
)
# These are read by people or by tools, and there is nothing in them to run.
_PROSE: Final = frozenset({"text", "mermaid", "{toctree}", "{include}", "{eval-rst}", "{note}", "{warning}", "{tip}"})
_SECONDS: Final = 60

_run_python: Final = PythonEvaluator()


def _find_blocks(document: Document) -> Iterator[Region]:
    for found in _BLOCK.finditer(document.text):
        name = "check" if found["check"] is not None else "code"
        line_offset = document.text.count("\n", found.start(), found.start(name)) - 1
        code = Lexeme(textwrap.dedent(found[name]), found.start(name), line_offset)
        language = "python" if name == "check" else found["language"].partition(" ")[0].strip()
        if language in _PROSE or (name == "code" and found["reason"] is not None):
            continue
        yield Region(found.start(), found.end(), code, _EVALUATORS.get(language, _refuse))


def _refuse(example: Example) -> None:
    raise AssertionError(f"{example.path}:{example.line}: this block can be neither run nor says why it is not")


def _run_console(example: Example) -> None:
    commands = re.split(r"^\$ ", str(example.parsed), flags=re.MULTILINE)[1:]
    assert commands, f"{example.path}:{example.line}: no line starts with $"
    for text in commands:
        command, _, expected = text.partition("\n")
        while command.endswith("\\"):
            more, _, expected = expected.partition("\n")
            command = f"{command}\n{more.removeprefix('> ')}"
        result = subprocess.run(
            [shutil.which("bash") or "sh", "-c", command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SECONDS,
            check=False,
            env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "80"},
        )
        assert result.returncode == 0, f"{command}: status {result.returncode}\n{result.stdout}"
        _compare(command, expected, result.stdout)


def _compare(command: str, expected: str, output: str) -> None:
    rest = output
    for line in expected.splitlines():
        # Keys, codes and hashes differ from run to run, and an ellipsis stands for them.
        pattern = ".*".join(map(re.escape, line.strip().split("…")))
        found = re.search(pattern, rest)
        assert found is not None, f"{command}: {line!r} is not in the output\n{output}"
        rest = rest[found.end() :]


_EVALUATORS: Final[Mapping[str, Callable[[Example], None]]] = {"python": _run_python, "console": _run_console}
_sybil: Final = Sybil(parsers=[_find_blocks])


def run_document(path: Path, names: dict[str, object]) -> int:
    """Run the blocks of a document in their order; how many there are.

    Args:
        path: Where it is.
        names: What its Python blocks know from the start.
    """
    document = _sybil.parse(path)
    document.namespace.update(names)
    examples = list(document.examples())
    for example in examples:
        example.evaluate()
    return len(examples)
