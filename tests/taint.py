"""A pytest plugin that fails a test when a secret that it used shows anywhere it must not.

Every API key, bearer token, authorization code, verifier and state that passes a model of the library, or is issued by
the fake OpenRouter, is remembered for as long as its test runs. At the end it must not be found in any log record,
warning, exception (its text, its repr, its traceback, its notes and causes), local variable of a frame of an exception,
span, metric, or in what the test and its subprocesses wrote to stdout and stderr. A test that is about showing one says
so: ``@pytest.mark.shows_secrets``.

Of the frames of an exception all are searched but those of the tests: those of the library, and of other packages that
the library hands secrets to. A variable is searched by its ``repr``, as error reporters store it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import secrets
import subprocess
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
from _pytest.raises import RaisesExc, RaisesGroup

MIN_LENGTH: Final = 16
"""The fewest characters of a secret that is looked for: a shorter one would be found where it is not."""

_FEW_SECRETS: Final = 500
"""Up to here it is quicker to search for one secret after the other: 0.1 ms for 5 of them in 35 KB, instead of 6 ms."""

_SOURCES: Final = {
    "openrouter_async._http.options": {"Bearer": ["token"]},
    "openrouter_async.pkce": {"PKCEPair": ["code_verifier"]},
    "openrouter_async._values.models": {
        "ExchangeAuthCodeForAPIKeyRequest": ["code", "code_verifier"],
        "ExchangeAuthCodeForAPIKeyResponse": ["key"],
        "AuthKeysCode": ["id"],
    },
    "openrouter_async.login._models": {"PendingLogin": ["state"], "Grant": ["key"]},
    "openrouter_async.login._records": {"KeyRecord": ["key"]},
    "openrouter_async.testing._authority": {"IssuedCode": ["code"], "IssuedKey": ["key"]},
}
"""The fields of classes that hold secrets, by the module of the class."""

_ARGUMENTS: Final = {
    "openrouter_async.login._flow": {
        "AuthorizationFlow": {"start": ["binding"], "finish": ["binding"], "finish_code": ["state", "binding", "text"]},
    },
}
"""The arguments of methods that are secrets."""

# The frames of these files hold the arguments of the test, or are those of pytest, which calls it. Frames of web
# frameworks hold the request, which they have from the network and not from the library; so do those of our ASGI app.
_NOT_SEARCHED: Final = (
    *("/tests/", "/_pytest/", "/pluggy/", "/pytest_asyncio/", "test_it.py"),
    # The official SDK, which the fake is tried with, keeps secrets in its own frames.
    "/site-packages/openrouter/",
    *("/uvicorn/", "/starlette/", "/fastapi/", "/aiohttp/web", "/integrations/asgi.py"),
)
_FRAMEWORK_MODULES: Final = ("aiohttp.web", "starlette", "fastapi")


@attrs.define
class Watch:
    """The secrets of one test, and the texts in which they may show."""

    secrets: set[str] = attrs.field(factory=set)
    shown: list[tuple[str, str]] = attrs.field(factory=list)
    shown_in_locals: list[str] = attrs.field(factory=list)
    searched: dict[str, bool] = attrs.field(factory=dict)

    def taint(self, value: object) -> None:
        """Remember a secret."""
        if isinstance(value, str) and len(value) >= MIN_LENGTH:
            self.secrets.add(_copy(value))

    def show(self, place: str, text: str) -> None:
        """Remember a text that was shown."""
        self.shown.append((place, _copy(text)))

    def show_locals(self, error: BaseException) -> None:
        """Search the local variables of an error's frames now, because they change and may be large."""
        for place, value in locals_of(error):
            text = describe_local(value)
            if text not in self.searched:
                self.searched[text] = _holds_any(text, self._starts())
            if self.searched[text]:
                self.shown_in_locals.append(place)

    def leaks(self) -> list[str]:
        """Where a secret was shown, without showing it again."""
        starts = self._starts()
        shown = [place for place, text in dict.fromkeys(self.shown) if _holds_any(text, starts)]
        return [*shown, *self.shown_in_locals]

    def _starts(self) -> dict[str, list[str]]:
        starts: dict[str, list[str]] = {}
        for secret in self.secrets:
            starts.setdefault(secret[:MIN_LENGTH], []).append(secret)
        return starts


def _copy(text: str) -> str:
    # A copy, because tests that measure memory would otherwise count these references as the library's.
    return f"{text} "[:-1]


def _holds_any(text: str, starts: dict[str, list[str]]) -> bool:
    if len(starts) <= _FEW_SECRETS:
        return any(secret in text for secrets in starts.values() for secret in secrets)
    # One look-up for each position, however many secrets there are.
    return any(
        text.startswith(secret, position)
        for position in range(len(text) - MIN_LENGTH + 1)
        for secret in starts.get(text[position : position + MIN_LENGTH], ())
    )


class _LogReader(logging.Handler):
    def __init__(self, watch: Watch) -> None:
        super().__init__(logging.DEBUG)
        self._watch = watch

    def emit(self, record: logging.LogRecord) -> None:
        fields = {name: value for name, value in vars(record).items() if name not in ("msg", "args", "exc_info")}
        text = f"{record.getMessage()} {fields}"
        if record.exc_info:
            text += "".join(traceback.format_exception(*record.exc_info))
            if record.exc_info[1] is not None:
                self._watch.show_locals(record.exc_info[1])
        self._watch.show(f"a log record of {record.name}", text)


class Plugin:
    """The hooks; one watch at a time."""

    def __init__(self) -> None:
        self.watch = Watch()
        self.leaking_warnings: list[str] = []

    def install(self) -> None:
        """Listen where secrets are made and where things are shown."""
        for module, classes in _SOURCES.items():
            for name, fields in classes.items():
                self._listen(getattr(__import__(module, fromlist=[name]), name), fields)
        for module, methods_by_class in _ARGUMENTS.items():
            for name, methods in methods_by_class.items():
                for method, arguments in methods.items():
                    self._listen_to_arguments(getattr(__import__(module, fromlist=[name]), name), method, arguments)
        for expected in (RaisesExc, RaisesGroup):
            _wrap(expected, "__exit__", before=lambda _self, _kind, error, _trace: self._show_error(error))
        _wrap(
            _base_error(), "__init__", after=lambda error, _result: self.watch.show("the text of an error", str(error))
        )
        _wrap(subprocess.Popen, "communicate", after=lambda _process, output: self._show_output(output))
        _wrap_async(asyncio.subprocess.Process, "communicate", lambda _process, output: self._show_output(output))
        self._listen_to_randomness()
        self._listen_to_telemetry()

    def _listen(self, kind: type[Any], fields: list[str]) -> None:
        def remember(made: Any, _result: object) -> None:
            for field in fields:
                self.watch.taint(getattr(made, field))

        _wrap(kind, "__init__", after=remember)
        # A refused value may be a secret, too.
        self._listen_to_arguments(kind, "__init__", fields)

    def _listen_to_arguments(self, kind: type[Any], method: str, names: list[str]) -> None:
        def remember(_self: object, *args: object, **kwargs: object) -> None:
            for value in (*(args if method != "__init__" else ()), *(kwargs.get(name) for name in names)):
                self.watch.taint(value)

        _wrap(kind, method, before=remember)

    def _listen_to_randomness(self) -> None:
        make = secrets.token_urlsafe

        @functools.wraps(make)
        def token_urlsafe(nbytes: int | None = None) -> str:
            token = make(nbytes)
            # States, bindings, verifiers and tickets; shorter tokens tell leases apart, and are no secrets.
            if nbytes is not None and nbytes >= 24:
                self.watch.taint(token)
            return token

        secrets.token_urlsafe = token_urlsafe

    def _listen_to_telemetry(self) -> None:
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        def show_spans(_exporter: object, spans: Any) -> None:
            for span in spans:
                self.watch.show("a span", span.to_json())

        _wrap(InMemorySpanExporter, "export", before=show_spans)
        _wrap(
            InMemoryMetricReader,
            "get_metrics_data",
            after=lambda _reader, data: self.watch.show("a metric", repr(data)),
        )

    def _show_error(self, error: BaseException | None) -> None:
        if error is not None:
            self.watch.show(f"the text of {type(error).__name__}", f"{error} {error!r}")
            # The frames of the tests themselves may name secrets in their source, so only the library's are shown.
            self.watch.show(f"the traceback of {type(error).__name__}", "".join(_format_chain(error)))
            self.watch.show_locals(error)

    def _show_output(self, output: tuple[str | bytes | None, str | bytes | None]) -> None:
        for place, written in zip(("stdout", "stderr"), output, strict=True):
            text = written.decode(errors="replace") if isinstance(written, bytes) else written
            self.watch.show(f"the {place} of a subprocess", text or "")

    def pytest_warning_recorded(self, warning_message: Any, nodeid: str) -> None:
        """Read a warning, which pytest reports after the test has passed."""
        watch = Watch(self.watch.secrets, [("a warning", str(warning_message.message))])
        if watch.leaks():
            self.leaking_warnings.append(nodeid)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail the run for warnings that showed a secret."""
        if self.leaking_warnings:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say which tests they came from."""
        for nodeid in self.leaking_warnings:
            terminalreporter.write_line(f"a secret shows in a warning of {nodeid}")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Read the output of the test, and fail the test if it showed a secret."""
        report = yield
        if call.when != "call" or item.get_closest_marker("shows_secrets") is not None:
            return report
        for name, content in report.sections:
            # The section of logs was read record by record.
            if "std" in name:
                self.watch.show(name, content)
        leaks = self.watch.leaks()
        if leaks and report.passed:
            report.outcome = "failed"
            report.longrepr = f"a secret shows in {', '.join(sorted(set(leaks)))}"
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Generator[None, object, object]:
        """Watch one test after the other, at the level of DEBUG."""
        self.watch = Watch()
        reader = _LogReader(self.watch)
        root, ours = logging.getLogger(), logging.getLogger("openrouter_async")
        root.addHandler(reader)
        level = ours.level
        ours.setLevel(logging.DEBUG)
        try:
            return (yield)
        finally:
            ours.setLevel(level)
            root.removeHandler(reader)


def _errors_of(error: BaseException, seen: set[int]) -> Iterator[BaseException]:
    """Yield an error, and every other one that an error reporter finds from it."""
    if id(error) in seen:
        return
    seen.add(id(error))
    yield error
    # Also a context that is suppressed, which stays reachable.
    others = [error.__cause__, error.__context__]
    if isinstance(error, BaseExceptionGroup):
        others += error.exceptions
    for other in others:
        if other is not None:
            yield from _errors_of(other, seen)


def locals_of(error: BaseException) -> Iterator[tuple[str, object]]:
    """Yield the local variables of all frames of an error and of its causes that are searched, with their places."""
    for one in _errors_of(error, set()):
        for frame, _ in traceback.walk_tb(one.__traceback__):
            code = frame.f_code
            if any(part in code.co_filename for part in _NOT_SEARCHED):
                continue
            for name, value in frame.f_locals.items():
                place = f"{Path(code.co_filename).name}:{code.co_qualname}"
                yield f"the variable {name} of {place} in a {type(one).__name__}", value


def describe_local(value: object) -> str:
    """Return the text that an error reporter stores for a local variable."""
    if type(value).__module__.startswith(_FRAMEWORK_MODULES):
        return ""
    if isinstance(value, Mapping):
        return " ".join(f"{describe_local(key)}: {describe_local(inner)}" for key, inner in [*value.items()])
    if isinstance(value, (list, tuple, set, frozenset)):
        return " ".join(map(describe_local, value))
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - a stand-in of a test, or an object that is not finished
        return ""


def _base_error() -> type[Exception]:
    from openrouter_async.errors import OpenRouterError

    return OpenRouterError


def _format_chain(error: BaseException) -> Iterator[str]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        frames = [frame for frame in traceback.extract_tb(current.__traceback__) if "/tests/" not in frame.filename]
        yield from traceback.format_list(frames)
        yield from traceback.format_exception_only(current)
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def _wrap(
    kind: type[Any],
    name: str,
    *,
    before: Callable[..., object] | None = None,
    after: Callable[[Any, Any], object] | None = None,
) -> None:
    original = getattr(kind, name)

    @functools.wraps(original)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        if before is not None:
            before(self, *args, **kwargs)
        result = original(self, *args, **kwargs)
        if after is not None:
            after(self, result)
        return result

    setattr(kind, name, wrapper)


def _wrap_async(kind: type[Any], name: str, after: Callable[[Any, Any], object]) -> None:
    original = getattr(kind, name)

    @functools.wraps(original)
    async def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = await original(self, *args, **kwargs)
        after(self, result)
        return result

    setattr(kind, name, wrapper)


@pytest.fixture
def to_secret(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Return a function that makes a value a secret of the test, and returns it."""
    plugin: Any = request.config.pluginmanager.get_plugin("taint-watch")

    def remember(value: str) -> str:
        plugin.watch.taint(value)
        return value

    return remember


def pytest_configure(config: pytest.Config) -> None:
    """Start to listen."""
    plugin = Plugin()
    plugin.install()
    config.pluginmanager.register(plugin, "taint-watch")
