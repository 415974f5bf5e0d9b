from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from openrouter_async import Attempt, Outcome, errors
from tests.kit.wire import SECRET, error
from tests.wire import audit
from tests.wire.audit import Audit

LOG = logging.getLogger("tests.wire.unheard")


def caught(failure: Exception, cause: Exception | None = None) -> Exception:
    try:
        raise failure from cause
    except Exception as error:  # noqa: BLE001
        return error


def with_history() -> errors.OpenRouterError:
    failure = errors.OpenRouterError("failed")
    before = errors.TransportError(f"dropped {SECRET}", outcome=Outcome.UNKNOWN)
    failure.history = (Attempt(number=1, error=before, elapsed=0, wait=0),)
    return failure


def with_note() -> Exception:
    failure = ValueError("failed")
    failure.add_note(SECRET)
    return failure


def with_body() -> Exception:
    return errors.APIError("no", status_code=400, outcome=Outcome.REFUSED, body=error(400, SECRET).decode())


@pytest.mark.parametrize(
    "failure",
    [
        ValueError(SECRET),
        caught(ValueError("failed"), LookupError(SECRET)),
        with_note(),
        with_history(),
        with_body(),
    ],
    ids=["text", "cause", "note", "history", "body"],
)
def test_audit_finds_a_secret_in_any_part_of_an_error(failure: Exception) -> None:
    auditor = Audit()
    auditor.read_error(failure)
    assert auditor.leaks


@pytest.mark.parametrize(
    ("args", "extra"),
    [((SECRET,), {}), (("%s", SECRET), {}), (("%s", "x"), {"code": SECRET})],
    ids=["text", "argument", "field"],
)
def test_audit_finds_a_secret_in_any_part_of_a_log_record(args: tuple[Any, ...], extra: dict[str, str]) -> None:
    auditor = Audit()
    LOG.addHandler(auditor)
    LOG.propagate = False
    LOG.setLevel(logging.DEBUG)
    try:
        LOG.debug(*args, extra=extra)
    finally:
        LOG.removeHandler(auditor)
    assert auditor.leaks


def test_audit_finds_a_secret_in_a_local_variable_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(code: str) -> None:
        raise ValueError(f"a code of {len(code)} characters")

    with pytest.raises(ValueError) as failure:
        fail(SECRET)
    auditor = Audit()
    auditor.read_error(failure.value)
    assert auditor.leaks == []
    monkeypatch.setattr(audit, "PACKAGE", str(Path(__file__).parent))
    auditor.read_error(failure.value)
    assert auditor.leaks


def test_audit_passes_what_shows_nothing() -> None:
    auditor = Audit()
    auditor.read_error(caught(errors.TransportError("dropped", outcome=Outcome.UNKNOWN), LookupError("x")))
    assert auditor.leaks == []
    assert auditor.errors == 1
