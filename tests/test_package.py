from __future__ import annotations

import ast
import inspect
import pickle
import re
import runpy
import subprocess
import sys
import typing
from collections.abc import Iterator
from importlib import metadata
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import openrouter_async
from tests.public import public_names
from tests.support import ROOT, import_error_without, missing

EXTRAS = {
    *("aiogram", "cryptography", "cyclopts", "discord", "fastapi", "keyring", "opentelemetry"),
    *("platformdirs", "redis", "rich", "segno", "starlette", "taskiq", "uvloop"),
}


def modules_after(*names: str) -> set[str]:
    """The modules that a fresh interpreter has after importing these."""
    code = f"import {', '.join(names)}, sys; print(*sorted(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_package_exports_exist_and_are_sorted() -> None:
    exported = openrouter_async.__all__
    constants = sorted(name for name in exported if name.isupper())
    classes = sorted(name for name in exported if name[0].isupper() and not name.isupper())
    others = sorted(name for name in exported if name[0].islower())
    assert exported == [*constants, *classes, *others]
    assert all(hasattr(openrouter_async, name) for name in exported)


def test_package_exports_the_names_of_the_contract() -> None:
    contract = (
        "OpenRouter RequestOptions RetryPolicy Outcome UNSET CodeChallengeMethod UsageLimitType"
        " ExchangeAuthCodeForAPIKeyRequest ExchangeAuthCodeForAPIKeyResponse"
        " CreateAuthKeysCodeRequest CreateAuthKeysCodeResponse errors OAuth RetryMiddleware PKCEPair"
    )
    assert set(contract.split()) <= set(openrouter_async.__all__)


def test_exported_classes_have_the_package_as_module() -> None:
    classes = [value for name in openrouter_async.__all__ if isinstance(value := getattr(openrouter_async, name), type)]
    assert {value.__module__ for value in classes} == {"openrouter_async"}
    assert all(pickle.loads(pickle.dumps(value)) is value for value in classes)
    assert len(classes) > 20


def test_closing_an_object_with_work_under_way_takes_a_timeout() -> None:
    closing = {
        name: value.aclose for name, public in public_names().items() if hasattr(value := public.value, "aclose")
    }
    # A store carries out the calls of others, and has none of its own.
    without = {name for name, close in closing.items() if "timeout" not in inspect.signature(close).parameters}
    assert without == {name for name in closing if name.endswith(".RedisStore")}
    assert len(closing) > 5


def annotated() -> Iterator[tuple[str, Any]]:
    """The public classes and functions, and the methods and properties of the classes."""
    for name, public in public_names().items():
        if inspect.isroutine(public.value):
            yield name, public.value
        if inspect.isclass(public.value):
            yield name, public.value
            for member, found in vars(public.value).items():
                function = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
                if inspect.isfunction(function) and (member == "__init__" or not member.startswith("_")):
                    yield f"{name}.{member}", function


def test_get_type_hints_resolves_every_public_annotation() -> None:
    public = dict(annotated())
    unresolved = {}
    for name, value in public.items():
        try:
            hints = typing.get_type_hints(value)
        except NameError as error:
            unresolved[name] = str(error)
        else:
            unresolved |= {f"{name}: {argument}": hint for argument, hint in hints.items() if isinstance(hint, str)}
    assert unresolved == {}
    assert len(public) > 500


def test_import_loads_only_the_core_dependencies() -> None:
    ours = modules_after("openrouter_async")
    theirs = modules_after("aiohttp", "attrs", "cattrs", "cattrs.gen", "yarl")
    added = {name.partition(".")[0] for name in ours - theirs} - set(sys.stdlib_module_names)
    assert added == {"openrouter_async"}
    assert ours.isdisjoint(EXTRAS)


def test_plugin_import_loads_nothing() -> None:
    loaded = modules_after("pytest_openrouter_async")
    assert "aiohttp" not in loaded


@pytest.mark.parametrize(
    ("package", "module", "extra"),
    [
        ("starlette", "integrations.starlette", "starlette"),
        ("fastapi", "integrations.fastapi", "fastapi"),
        ("discord", "integrations.discord", "discord"),
        ("taskiq", "integrations.taskiq", "taskiq"),
        ("opentelemetry", "integrations.opentelemetry", "otel"),
    ],
)
def test_import_without_its_extra_names_the_extra(package: str, module: str, extra: str) -> None:
    message = import_error_without(package, f"import openrouter_async.{module}")
    assert message.endswith(f"pip install 'openrouter-async[{extra}]'")


@pytest.mark.parametrize(
    ("version", "hint"),
    [
        ((3, 14), "pip install 'openrouter-async[aiogram]'"),
        ((3, 15), "this needs aiogram, which has no release for Python 3.15 or newer yet"),
    ],
)
def test_import_without_aiogram_says_whether_its_extra_helps(version: tuple[int, int], hint: str) -> None:
    message = import_error_without(
        "aiogram",
        "import openrouter_async.integrations.bots",
        f"sys.version_info = {version}",
        "import openrouter_async.integrations.aiogram",
    )
    assert message.endswith(hint)


METHODS = {"debug", "info", "warning", "error", "exception", "critical", "log"}


def test_every_log_record_has_an_event() -> None:
    bare, found = [], 0
    for path in Path(openrouter_async.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Attribute(value=logger, attr=method), keywords=keywords) if (
                    method in METHODS and ast.unparse(logger).endswith("logger")
                ):
                    found += 1
                    extra = next((ast.unparse(keyword.value) for keyword in keywords if keyword.arg == "extra"), "")
                    if "'event': " not in extra:
                        bare.append(f"{path.name}:{node.lineno}")
    assert bare == []
    assert found > 20


def test_readme_of_a_package_index_has_no_links_to_files(monkeypatch: pytest.MonkeyPatch) -> None:
    # The build has its own environment, with hatchling.
    interface = SimpleNamespace(MetadataHookInterface=object)
    monkeypatch.setitem(sys.modules, "hatchling.metadata.plugin.interface", interface)
    hook = runpy.run_path(str(ROOT / "docs" / "index_readme.py"))
    text = hook["render"]((ROOT / "README.md").read_text())

    assert re.findall(r"\]\((?!https://)|<!--|<img|<picture", text) == []
    assert "[" in text
    assert "**Get started** takes five minutes." in text
    assert "## A web app, in one call" in text


def test_version_is_that_of_the_distribution() -> None:
    assert openrouter_async.__version__ == metadata.version("openrouter-async")


def test_package_is_marked_as_typed() -> None:
    assert files("openrouter_async").joinpath("py.typed").is_file()


MYPY = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--show-error-codes"]
PYRIGHT = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable]


@pytest.mark.unmeasured
@pytest.mark.parametrize("checker", [MYPY, PYRIGHT], ids=["mypy", "pyright"])
def test_type_checkers_accept_the_example_calls_and_reject_each_wrong_one(checker: list[str]) -> None:
    if find_spec("aiogram") is None:
        missing("aiogram")
    right, wrong = Path("tests/typing/api.py"), Path("tests/typing/wrong.py")
    result = subprocess.run([*checker, right, wrong], cwd=ROOT, capture_output=True, text=True, check=False)
    reported = {(name, int(number)) for name, number in re.findall(r"(\w+\.py):(\d+):.*\berror\b", result.stdout)}
    lines = (ROOT / wrong).read_text().splitlines()
    expected = {(wrong.name, number) for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    assert reported == expected, result.stdout
