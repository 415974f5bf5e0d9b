from __future__ import annotations

import textwrap
from collections.abc import Iterable

import pytest

from tests.support import ROOT

LEAKS = {
    "log": 'logging.getLogger("any").warning("the code is %s", request.code)',
    "debug log": 'logging.getLogger("openrouter_async.any").debug("failed", extra={"code": request.code})',
    "log of an exception": """
        try:
            raise ValueError(request.code)
        except ValueError:
            logging.getLogger("any").exception("failed")
    """,
    "exception": """
        with pytest.raises(ValueError):
            raise ValueError(request.code)
    """,
    "cause": """
        with pytest.raises(ValueError):
            raise ValueError("harmless") from KeyError(request.code)
    """,
    "note": """
        with pytest.raises(ValueError):
            error = ValueError("harmless")
            error.add_note(request.code)
            raise error
    """,
    "local variable": """
        with pytest.raises(ValueError):
            int_of(request.code)
    """,
    "local variable of a suppressed context": """
        with pytest.raises(ValueError):
            replace_error(request)
    """,
    "local variable of an error in a group": """
        with pytest.RaisesGroup(ValueError, TypeError):
            group_errors([request.code])
    """,
    "local variable of a logged error": """
        try:
            int_of({"bytes": request.code.encode()})
        except Exception:
            logging.getLogger("any").exception("failed")
    """,
    "error that nobody raises": "errors.RequestValidationError('code', request.code)",
    "stdout": "print(request.code)",
    "stderr": "print(request.code, file=sys.stderr)",
    "subprocess": 'subprocess.run([sys.executable, "-c", f"print({request.code!r})"], capture_output=True)',
    "key in a log": 'logging.getLogger("any").error(Grant(key="sk-or-v1-" + "k" * 64).key)',
    "span": """
        exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        provider.get_tracer("any").start_span("any", attributes={"code": request.code}).end()
    """,
}
CLEAN = {
    "nothing": "pass",
    "a mask": 'logging.getLogger("any").warning("%r", request)',
    "short": 'print(ExchangeAuthCodeForAPIKeyRequest(code="short").code)',
}
HEAD = """
    import logging, subprocess, sys, warnings
    import pytest
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from openrouter_async import ExchangeAuthCodeForAPIKeyRequest, errors
    from openrouter_async.login import Grant
    from library import group_errors, int_of, replace_error
"""
LIBRARY = """
    def int_of(value):
        raise ValueError

    def replace_error(request):
        try:
            int_of(request.code)
        except ValueError:
            raise ValueError from None

    def group_errors(values):
        errors = []
        for kind in (ValueError, TypeError):
            try:
                raise kind
            except kind as error:
                errors.append(error)
        raise ExceptionGroup("two", errors)
"""
TEST = """
    {decorator}
    def test_{number}():
        request = ExchangeAuthCodeForAPIKeyRequest(code="a-code-that-must-not-show")
"""


@pytest.fixture(autouse=True)
def _no_other_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of those that happen to be installed take seconds to import. That of the tests is in no package."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def run(pytester: pytest.Pytester, bodies: Iterable[str], *, decorator: str = "") -> pytest.RunResult:
    """Run a test for each body, all in a process of their own."""
    source = textwrap.dedent(HEAD)
    for number, body in enumerate(bodies):
        source += textwrap.dedent(TEST).format(number=number, decorator=decorator)
        source += textwrap.indent(textwrap.dedent(body).strip(), "    ") + "\n"
    pytester.makepyfile(test_it=source, library=textwrap.dedent(LIBRARY))
    pytester.makeini("[pytest]\nmarkers = shows_secrets")
    return pytester.runpytest_subprocess("-p", "tests.taint", "-p", "no:cacheprovider", "-q")


@pytest.mark.shows_secrets
def test_taint_each_test_that_shows_a_secret_fails(pytester: pytest.Pytester) -> None:
    result = run(pytester, LEAKS.values())
    result.assert_outcomes(failed=len(LEAKS))
    assert result.stdout.str().count("a secret shows in ") >= len(LEAKS)


@pytest.mark.shows_secrets
def test_taint_warning_that_shows_a_secret_fails_the_run(pytester: pytest.Pytester) -> None:
    result = run(pytester, ["warnings.warn(request.code)"])
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["a secret shows in a warning of test_it.py::test_0"])


def test_taint_clean_test_passes(pytester: pytest.Pytester) -> None:
    run(pytester, CLEAN.values()).assert_outcomes(passed=len(CLEAN))


@pytest.mark.shows_secrets
def test_taint_marked_test_may_show_a_secret(pytester: pytest.Pytester) -> None:
    result = run(pytester, ["print(request.code)"], decorator="@pytest.mark.shows_secrets")
    result.assert_outcomes(passed=1)
