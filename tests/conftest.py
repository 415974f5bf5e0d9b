from __future__ import annotations

import asyncio
import gc
import logging
import os
import pkgutil
import signal
import sys
import threading
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import contextmanager, nullcontext, suppress
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeAlias

import hypothesis
import pytest

import openrouter_async
from openrouter_async import OpenRouter
from tests.support import STRESS

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext

    from openrouter_async.testing import FakeOpenRouter

# A parent such as nohup, cron or a script's `&` may have SIGINT ignored, and child processes would inherit that: the
# tests of Ctrl-C would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# In debug mode, asyncio warns of callbacks that take 0.1 s; on a busy machine any of them may.
logging.getLogger("asyncio").addFilter(lambda record: record.msg != "Executing %s took %.3f seconds")

Trace: TypeAlias = Any
"""A trace function, such as coverage.py's."""
_TRACES = pytest.StashKey[tuple[Trace, Trace]]()
_UNMEASURED = ("browser", "stress", "unmeasured")
"""The markers of tests that repeat what other tests cover."""

hypothesis.settings.register_profile("default", deadline=None, max_examples=60)
hypothesis.settings.register_profile("stress", deadline=None, max_examples=2000)
hypothesis.settings.load_profile("stress" if STRESS else "default")


def pytest_configure(config: pytest.Config) -> None:
    # The controller of pytest-xdist runs no tests, but every result passes through it.
    if config.getoption("dist", "no") != "no":
        _set_traces(None, None)


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_xdist_auto_num_workers() -> Generator[None, int, int]:
    # More than there are cores, because tests also wait: for processes, browsers, servers and the disk.
    cores = yield
    return cores + cores // 2


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    # Nearly everything that is imported stays, so that searching it for garbage again and again is in vain.
    gc.disable()
    try:
        if sys.gettrace() is None:
            return (yield)
        # A third of the time that imports take is coverage's, which the library's own modules alone are measured by.
        with _traced(None, None):
            if find_spec("aiogram") is not None:
                import_module("aiogram")
        for module in pkgutil.walk_packages(openrouter_async.__path__, "openrouter_async."):
            if not module.name.endswith("__main__"):
                with suppress(ImportError):  # of an extra that is not installed
                    import_module(module.name)
        with _traced(None, None):
            return (yield)
    finally:
        gc.enable()


def pytest_collection_finish() -> None:
    # Imported modules live until the end. A collection that walks all of them takes a quarter of a second, in the
    # middle of any test, and some tests give a server less time than that.
    gc.collect()
    gc.freeze()
    # Older releases of aiogram choose uvloop for the whole process when they are imported, where it is installed.
    if sys.version_info < (3, 14):
        asyncio.set_event_loop_policy(None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    without = sum("chromium is missing" in str(report.longrepr) for report in skipped)
    if without:
        terminalreporter.write_line(f"Without Chromium, {without} tests of pages in a browser were skipped.")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    # What pytest and its plugins do around a test takes longer than most tests, if it is traced.
    traces = sys.gettrace(), threading.gettrace()
    # Another event loop runs the same lines.
    is_measured = "uvloop" not in item.name and not any(item.get_closest_marker(name) for name in _UNMEASURED)
    keeps_devmode = item.get_closest_marker("unmeasured") is None
    item.stash[_TRACES] = traces if is_measured else (None, None)
    with _traced(None, None), nullcontext() if is_measured else _unmeasured_processes(keeps_devmode=keeps_devmode):
        return (yield)


def _measure(item: pytest.Item) -> Generator[None, object, object]:
    with _traced(*item.stash[_TRACES]):
        return (yield)


# Within everything else that is done in a phase.
pytest_runtest_setup = pytest.hookimpl(wrapper=True, trylast=True)(_measure)
pytest_runtest_call = pytest_runtest_teardown = pytest_runtest_setup


@contextmanager
def _traced(trace: Trace, trace_of_threads: Trace) -> Iterator[None]:
    """Use other trace functions in this thread and in new ones; none measure no coverage.

    Stopping the measurement would be slow: at its start, coverage.py goes through all imported modules.
    """
    before = sys.gettrace(), threading.gettrace()
    _set_traces(trace, trace_of_threads)
    try:
        yield
    finally:
        _set_traces(*before)


def _set_traces(trace: Trace, trace_of_threads: Trace) -> None:
    threading.settrace(trace_of_threads)
    sys.settrace(trace)


@contextmanager
def _unmeasured_processes(*, keeps_devmode: bool) -> Iterator[None]:
    names = ["COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START"]
    if not keeps_devmode:
        names.append("PYTHONDEVMODE")
    with pytest.MonkeyPatch.context() as environment:
        for name in names:
            environment.delenv(name, raising=False)
        yield


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("OPENROUTER_"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _answers_are_read_as_by_users(monkeypatch: pytest.MonkeyPatch) -> None:
    # In Python's development mode, which the tests run in, aiohttp's parser is stricter than in production.
    monkeypatch.setattr("aiohttp._http_parser.DEBUG", False)


@pytest.fixture
async def fake() -> AsyncIterator[FakeOpenRouter]:
    from openrouter_async.testing import FakeOpenRouter

    async with FakeOpenRouter() as server:
        yield server


@pytest.fixture
async def client(fake: FakeOpenRouter) -> AsyncIterator[OpenRouter]:
    async with OpenRouter(fake.token, base_url=fake.base_url) as made:
        yield made


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Chromium that all tests share."""
    from tests.browser import run_chromium

    with run_chromium(tmp_path_factory.mktemp("chromium")) as address:
        yield address


@pytest.fixture
async def browser(chromium: str) -> AsyncIterator[BrowserContext]:
    """A browser with a fresh profile: `await browser.new_page()`."""
    from tests.browser import browse

    async with browse(chromium) as context:
        yield context
