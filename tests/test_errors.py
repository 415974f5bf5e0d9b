from __future__ import annotations

import copy
import inspect
import json
import pickle
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from openrouter_async import (
    Attempt,
    Clock,
    ExchangeAuthCodeForAPIKeyResponse,
    Outcome,
    Request,
    Response,
    RetryPolicy,
    errors,
)
from openrouter_async._http.responses import error_from_response, finalize_error, outcome_of

CODE = "secret/code+1"
KEY = "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"

REQUEST = Request(
    method="POST",
    url=URL("https://openrouter.ai/api/v1/auth/keys"),
    headers={"Authorization": f"Bearer {KEY}", "X-App-Secret": "hidden", "Accept": "application/json"},
    body=json.dumps({"code": CODE}).encode(),
    operation="exchangeAuthCodeForAPIKey",
    timeout=30,
    retry=RetryPolicy(),
    secrets=(CODE,),
)


def response(status: int, body: Any = b"", **headers: str) -> Response:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Response(
        status_code=status,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        body=raw,
        elapsed=0.1,
    )


def api_error(status: int, body: Any = b"", **headers: str) -> errors.APIError:
    error = error_from_response(REQUEST, response(status, body, **headers), Clock(time=lambda: 0.0))
    assert isinstance(error, errors.APIError)
    return error


def made() -> list[errors.OpenRouterError]:
    noted = api_error(403, {"error": {"code": 403, "message": "Invalid code or code_verifier", "metadata": {"a": 1}}})
    noted.history = (Attempt(number=1, error=api_error(500), elapsed=0.1, wait=0.2),)
    finalize_error(noted)
    return [
        errors.OpenRouterError("text"),
        errors.RequestValidationError("code", "must be there"),
        noted,
        api_error(418),
        errors.ResponseValidationError("200: empty", status_code=200),
        errors.TransportError("broke", outcome=Outcome.UNKNOWN, stale_connection=True),
        errors.RequestTimeoutError("late", outcome=Outcome.NOT_SENT),
        errors.KeyDeliveryError("on_key raised", response=ExchangeAuthCodeForAPIKeyResponse(key=KEY)),
        errors.ClientClosedError("closed"),
    ]


def test_error_classes_are_exported_and_drawn_in_the_tree() -> None:
    classes = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.OpenRouterError)
    }
    assert classes | {"Attempt", "Outcome"} == set(errors.__all__)
    assert errors.__all__ == sorted(errors.__all__)
    assert errors.__doc__ is not None
    assert all(name in errors.__doc__ for name in classes)


def test_errors_derive_from_the_builtin_exceptions() -> None:
    assert issubclass(errors.RequestValidationError, ValueError)
    assert issubclass(errors.RequestTimeoutError, TimeoutError)
    assert issubclass(errors.RequestTimeoutError, errors.TransportError)


@pytest.mark.parametrize("error", made(), ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("twin_of", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_errors_pickle_and_copy_with_all_attributes(error: errors.OpenRouterError, twin_of: Any) -> None:
    twin = twin_of(error)
    assert type(twin) is type(error)
    assert str(twin) == str(error)
    assert repr(twin) == repr(error)
    for name in ("outcome", "attempts", "retry_after", "user_message", "restart_login"):
        assert getattr(twin, name) == getattr(error, name)
    assert getattr(twin, "__notes__", None) == getattr(error, "__notes__", None)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.BadRequestResponseError),
        (401, errors.UnauthorizedResponseError),
        (403, errors.ForbiddenResponseError),
        (409, errors.ConflictResponseError),
        (429, errors.TooManyRequestsResponseError),
        (500, errors.InternalServerResponseError),
        (404, errors.APIError),
        (405, errors.APIError),
        (418, errors.APIError),
        (502, errors.APIError),
        (599, errors.APIError),
    ],
)
def test_error_class_follows_the_status(status: int, kind: type[errors.APIError]) -> None:
    error = api_error(status)
    assert type(error) is kind
    assert error.status_code == status


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 422, 425, 429])
def test_error_4xx_is_refused(status: int) -> None:
    assert outcome_of(status) is Outcome.REFUSED


@pytest.mark.parametrize("status", [408, 500, 501, 502, 503, 504, 520, 529])
def test_error_that_may_follow_the_work_is_unknown(status: int) -> None:
    assert outcome_of(status) is Outcome.UNKNOWN


@pytest.mark.parametrize("status", [101, 301, 302, 303, 304, 307, 308])
def test_status_neither_success_nor_error_is_response_validation_error(status: int) -> None:
    error = error_from_response(REQUEST, response(status, Location="https://elsewhere.example"), Clock())
    assert isinstance(error, errors.ResponseValidationError)
    assert error.status_code == status
    assert "elsewhere" not in str(error)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"code": 400, "message": "Invalid code"}}, "Invalid code"),
        (
            {"error": {"code": 400, "message": "Invalid code"}, "user_id": None, "openrouter_metadata": {}},
            "Invalid code",
        ),
        (
            {
                "success": False,
                "error": {
                    "name": "ZodError",
                    "message": json.dumps(
                        [
                            {"code": "invalid_type", "path": ["code"], "message": "Required"},
                            {"code": "x", "path": ["a", 0], "message": "Odd"},
                        ]
                    ),
                },
            },
            "code: Required; a.0: Odd",
        ),
        ({"error": {"name": "ZodError", "message": "not json"}}, "not json"),
        ({"error": {"name": "ZodError", "message": "[1]"}}, "[1]"),
        ({"error": {"name": "ZodError", "message": "[" * 100_000}}, "[" * 199 + "…"),
        ({"error": "plain reason"}, "plain reason"),
        ({"message": "reason at the top"}, "reason at the top"),
        ({"error": {"code": "x", "message": 7}}, "Bad Request"),
        ({"error": None}, "Bad Request"),
        ([], "Bad Request"),
        (b"null", "Bad Request"),
        (b"7", "Bad Request"),
        (b"upstream  said\n no\x00way\x1b[31m", "upstream said no way [31m"),
        (b"<!DOCTYPE html><html><head><title>Just a\n moment&hellip;</title></head>", "an HTML page: Just a moment…"),
        (b"<html><body>blocked</body></html>", "an HTML page"),
        (b"", "Bad Request"),
        (b"\xff\xfe broken", "\ufffd\ufffd broken"),
        (b"x" * 500, "x" * 199 + "…"),
    ],
    ids=range(19),
)
def test_error_message_is_found_in_every_body_shape(body: Any, message: str) -> None:
    error = api_error(400, body)
    assert error.message == message
    assert str(error) == f"400 {message}"


def test_error_status_without_a_name_has_a_message() -> None:
    assert api_error(599).message == "(no reason given)"


def test_error_of_an_edge_challenge_is_named() -> None:
    error = api_error(403, b"<!doctype html><title>Just a moment...</title>", CF_Mitigated="challenge", CF_Ray="8f-AMS")
    assert "cf-mitigated: challenge" in str(error)
    assert error.request_id == "8f-AMS"
    assert not error.is_code_rejected


def test_error_body_is_kept() -> None:
    body = {"error": {"code": 402, "message": "no", "metadata": {"reason": "r"}}}
    error = api_error(400, body, X_Request_Id="req-1", Retry_After="3")
    assert (error.code, error.metadata, error.request_id, error.retry_after) == (402, {"reason": "r"}, "req-1", 3.0)
    assert json.loads(error.body) == body
    assert error.headers["Retry-After"] == "3"


def test_error_odd_codes_and_metadata_are_dropped() -> None:
    error = api_error(400, {"error": {"code": True, "message": "no", "metadata": ["x"]}})
    assert (error.code, error.metadata) == (None, None)


@pytest.mark.parametrize(
    "echo",
    [
        CODE,
        json.dumps(CODE),
        "secret%2Fcode%2B1",
        KEY,
        f"Bearer {KEY}",
    ],
)
@pytest.mark.parametrize("shape", [lambda text: {"error": {"message": text}}, lambda text: text.encode()])
def test_error_secret_echoed_by_the_server_is_removed(echo: str, shape: Any) -> None:
    error = api_error(400, shape(f"unknown code {echo} given"))
    shown = str(error) + repr(error) + error.body + error.message + error.user_message
    for secret in (CODE, "secret%2Fcode", KEY):
        assert secret not in shown
    assert "***" in error.body


def test_error_repr_shows_harmless_headers_only() -> None:
    error = api_error(400, b"", Set_Cookie="session=hidden", Content_Type="text/plain")
    assert "hidden" not in repr(error)
    assert "text/plain" in repr(error)
    shown = repr(REQUEST) + repr(response(200, KEY.encode(), Set_Cookie="hidden"))
    assert "hidden" not in shown
    assert KEY not in shown
    assert CODE not in shown
    assert "application/json" in shown


@pytest.mark.parametrize(
    ("status", "message", "rejected"),
    [
        (400, "Invalid code", True),
        (403, "Invalid code or code_verifier", True),
        (403, "Authorization code expired", True),
        (400, "Code already used", True),
        (400, "Invalid code_challenge_method", False),
        (403, "Only management keys can perform this operation", False),
        (401, "Invalid code", False),
        (400, "Invalid request parameters", False),
    ],
)
def test_rejected_code_is_recognised_by_message_and_status(status: int, message: str, rejected: bool) -> None:
    assert api_error(status, {"error": {"code": status, "message": message}}).is_code_rejected is rejected


def test_user_message_of_each_error_says_what_to_do() -> None:
    for error in made():
        assert error.user_message[0].isupper()
        assert error.user_message.endswith(".")
        for secret in (CODE, KEY):
            assert secret not in error.user_message
    rejected = api_error(400, {"error": {"message": "Invalid code"}})
    assert "sign in again" in rejected.user_message
    assert rejected.restart_login
    throttled = api_error(429)
    assert "busy" in throttled.user_message
    assert not throttled.restart_login
    assert "operator" in api_error(401).user_message
    failed = api_error(500)
    assert "settings/keys" in failed.user_message
    assert failed.restart_login
    unreachable = errors.TransportError("x", outcome=Outcome.NOT_SENT)
    assert "try again" in unreachable.user_message
    assert not unreachable.restart_login
    for field in ("code", "code_verifier", "code_challenge_method"):
        assert errors.RequestValidationError(field, "must be there").restart_login
        assert "sign in again" in errors.RequestValidationError(field, "must be there").user_message
    # A mistake of the app does not invalidate the login.
    for field in ("api_key", "headers", "callback_url"):
        assert not errors.RequestValidationError(field, "must be there").restart_login
        assert "operator" in errors.RequestValidationError(field, "must be there").user_message
    held_back = errors.TransportError("x", outcome=Outcome.NOT_SENT, retry_after=3.0)
    assert "busy" in held_back.user_message


def test_refusal_after_an_ambiguous_attempt_is_unknown_and_says_what_to_do() -> None:
    first = api_error(500, {"error": {"code": 500, "message": "boom"}})
    error = api_error(400, {"error": {"code": 400, "message": "Invalid code"}})
    error.history = (
        Attempt(number=1, error=errors.TransportError("no route", outcome=Outcome.NOT_SENT), elapsed=0.1, wait=0.5),
        Attempt(number=2, error=first, elapsed=1.0, wait=0.25),
    )
    finalize_error(error)
    assert error.outcome is Outcome.UNKNOWN
    assert error.__cause__ is first
    assert error.attempts == 3
    assert "attempt 2 may have used the code (500 boom)" in str(error)
    assert "https://openrouter.ai/settings/keys" in str(error)
    assert error.__notes__ == [
        "attempt 1: no route after 0.10 s; waited 0.50 s",
        "attempt 2: 500 boom after 1.00 s; waited 0.25 s",
    ]


def test_response_notes_become_notes_of_its_error() -> None:
    noted = attrs.evolve(response(503), notes=("not retried: for a reason",))
    assert error_from_response(REQUEST, noted, Clock()).__notes__ == ["not retried: for a reason"]


def test_refusal_after_unsent_attempts_is_refused() -> None:
    error = api_error(400, {"error": {"code": 400, "message": "Invalid code"}})
    error.history = (
        Attempt(number=1, error=errors.TransportError("no", outcome=Outcome.NOT_SENT), elapsed=0, wait=0),
        Attempt(number=2, error=api_error(429), elapsed=0, wait=0),
    )
    finalize_error(error)
    assert error.outcome is Outcome.REFUSED
    assert error.__cause__ is None


@given(status=st.integers(400, 599), body=st.binary(max_size=300))
def test_error_body_of_any_bytes_gives_one_short_printable_line(status: int, body: bytes) -> None:
    error = api_error(status, body)
    assert 0 < len(error.message) <= 200
    assert error.message.isprintable()
