from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from openrouter_async import (
    UNSET,
    AuthKeysCode,
    CodeChallengeMethod,
    CreateAuthKeysCodeRequest,
    CreateAuthKeysCodeResponse,
    ExchangeAuthCodeForAPIKeyRequest,
    ExchangeAuthCodeForAPIKeyResponse,
    HttpMeta,
    RequestOptions,
    RetryPolicy,
    UsageLimitType,
    errors,
)

VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
CALLBACK = "https://app.example/callback"
KEY = "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"

EXAMPLES = [
    ExchangeAuthCodeForAPIKeyRequest(code="code-1", code_verifier=VERIFIER, code_challenge_method="S256"),
    ExchangeAuthCodeForAPIKeyRequest(code="code-1", code_challenge_method=None),
    CreateAuthKeysCodeRequest(
        callback_url=CALLBACK,
        code_challenge="challenge",
        code_challenge_method="plain",
        limit=12.5,
        usage_limit_type="weekly",
        expires_at=datetime(2027, 12, 31, 23, 59, 59, tzinfo=UTC),
        key_label="label",
        workspace_id="550e8400-e29b-41d4-a716-446655440000",
    ),
    ExchangeAuthCodeForAPIKeyResponse(key=KEY, user_id="user_1", http_meta=HttpMeta(headers={"Date": "today"})),
    CreateAuthKeysCodeResponse(data=AuthKeysCode(id="code-1", app_id=1, created_at=datetime(2025, 8, 24, tzinfo=UTC))),
    HttpMeta(status_code=200, headers={"Date": "today"}, attempts=2, elapsed=0.5),
    RequestOptions(server_url="https://gateway.example/v1", timeout=5, headers={"X-App": "1"}),
    RetryPolicy(statuses=[500, 503]),
]


def refused(kind: type[Any], **fields: Any) -> errors.RequestValidationError:
    with pytest.raises(errors.RequestValidationError) as caught:
        kind(**fields)
    return caught.value


@pytest.mark.parametrize("value", EXAMPLES, ids=lambda value: type(value).__name__)
def test_models_compare_hash_pickle_and_copy(value: Any) -> None:
    for twin in (
        pickle.loads(pickle.dumps(value)),
        copy.copy(value),
        copy.deepcopy(value),
        attrs.evolve(value),
    ):
        assert twin == value
        assert hash(twin) == hash(value)
        assert repr(twin) == repr(value)


@pytest.mark.parametrize("value", EXAMPLES, ids=lambda value: type(value).__name__)
def test_models_are_frozen(value: Any) -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(value, attrs.fields(type(value))[0].name, "other")


@pytest.mark.parametrize("value", EXAMPLES, ids=lambda value: type(value).__name__)
def test_models_that_hold_a_secret_have_no_dict_for_loggers_to_write(value: Any) -> None:
    assert isinstance(value, HttpMeta) or not hasattr(value, "__dict__")


def test_http_meta_is_not_in_equality_or_repr() -> None:
    one = ExchangeAuthCodeForAPIKeyResponse(key=KEY, user_id=None, http_meta=HttpMeta(attempts=1))
    other = attrs.evolve(one, http_meta=HttpMeta(attempts=3))
    assert one == other
    assert hash(one) == hash(other)
    assert "http_meta" not in repr(one)


def test_model_fields_are_keyword_only() -> None:
    with pytest.raises(TypeError):
        ExchangeAuthCodeForAPIKeyRequest("code")  # type: ignore[call-arg]


def test_unset_is_one_false_value_that_survives_pickle_and_copy() -> None:
    assert not UNSET
    assert pickle.loads(pickle.dumps(UNSET)) is UNSET
    assert copy.deepcopy(UNSET) is UNSET
    assert repr(UNSET) == "UNSET"


def test_model_reprs_show_no_secret() -> None:
    request = ExchangeAuthCodeForAPIKeyRequest(code="secret-code-1", code_verifier=VERIFIER)
    response = ExchangeAuthCodeForAPIKeyResponse(key=KEY)
    created = AuthKeysCode(id="secret-code-1", app_id=1, created_at=datetime.now(UTC))
    shown = repr(request) + str(request) + repr(response) + repr(created)
    for secret in ("secret-code-1", VERIFIER, KEY):
        assert secret not in shown
    assert "key=sk-or-v1-…1c96" in repr(response)
    assert "code_verifier=***" in repr(request)
    assert "code_verifier=None" in repr(ExchangeAuthCodeForAPIKeyRequest(code="c"))


def test_masked_key_when_short_shows_no_part() -> None:
    assert "key=***" in repr(ExchangeAuthCodeForAPIKeyResponse(key="sk-or-v1-short"))
    assert "sk" not in repr(ExchangeAuthCodeForAPIKeyResponse(key="another-kind-of-key-that-is-long"))


@pytest.mark.parametrize("code", ["", None, 7, b"code"])
def test_request_code_that_is_not_a_string_is_refused(code: Any) -> None:
    error = refused(ExchangeAuthCodeForAPIKeyRequest, code=code)
    assert error.field == "code"
    assert str(error) == "code: must be a string that is not empty"


@pytest.mark.parametrize(
    "verifier", ["", "a" * 42, "a" * 129, "a" * 42 + "+", "a" * 42 + "/", "a" * 43 + "\n", "ä" * 43, 999, b"a" * 43]
)
def test_code_verifier_outside_rfc_7636_is_refused_without_showing_it(verifier: Any) -> None:
    error = refused(ExchangeAuthCodeForAPIKeyRequest, code="code", code_verifier=verifier)
    assert error.field == "code_verifier"
    assert "43 to 128 characters" in str(error)
    assert not verifier or str(verifier) not in str(error)


@given(st.from_regex(r"[A-Za-z0-9\-._~]{43,128}", fullmatch=True))
def test_code_verifier_of_rfc_7636_is_accepted(verifier: str) -> None:
    assert ExchangeAuthCodeForAPIKeyRequest(code="code", code_verifier=verifier).code_verifier == verifier


@pytest.mark.parametrize("method", ["s256", "S512", "PLAIN", "", 256, ["S256"]])
@pytest.mark.parametrize("kind", [ExchangeAuthCodeForAPIKeyRequest, CreateAuthKeysCodeRequest])
def test_code_challenge_method_unknown_is_refused(kind: type[Any], method: Any) -> None:
    needed = {"code": "c"} if kind is ExchangeAuthCodeForAPIKeyRequest else {"callback_url": CALLBACK}
    error = refused(kind, code_challenge_method=method, **needed)
    assert str(error) == "code_challenge_method: must be one of S256, plain"


def test_enums_accept_their_strings() -> None:
    request = CreateAuthKeysCodeRequest(
        callback_url=CALLBACK, code_challenge="c", code_challenge_method="S256", usage_limit_type="daily"
    )
    assert request.code_challenge_method is CodeChallengeMethod.S256
    assert request.usage_limit_type is UsageLimitType.DAILY
    assert str(CodeChallengeMethod.PLAIN) == "plain"


def test_code_challenge_method_without_challenge_is_refused() -> None:
    error = refused(CreateAuthKeysCodeRequest, callback_url=CALLBACK, code_challenge_method="S256")
    assert str(error) == "code_challenge_method: must come with a code_challenge"


@pytest.mark.parametrize("challenge", ["", 7])
def test_code_challenge_that_is_not_a_string_is_refused(challenge: Any) -> None:
    assert refused(CreateAuthKeysCodeRequest, callback_url=CALLBACK, code_challenge=challenge).field == "code_challenge"


@pytest.mark.parametrize(
    "url",
    [
        CALLBACK,
        "https://app.example:8443/callback?tab=1",
        "http://localhost:3000/",
        "http://localhost",
        "http://127.0.0.1:53682/cb",
        URL("https://app.example/callback"),
    ],
)
def test_callback_url_https_or_loopback_is_sent_unchanged(url: Any) -> None:
    assert CreateAuthKeysCodeRequest(callback_url=url).callback_url == str(url)


@pytest.mark.parametrize(
    ("url", "requirement"),
    [
        ("http://app.example/callback", "must be an https URL"),
        ("http://localhost.evil.example/", "must be an https URL"),
        ("http://127.0.0.1.evil.example/", "must be an https URL"),
        ("ftp://localhost/", "must be an https URL"),
        ("javascript:alert(1)", "must be an https URL"),
        ("/callback", "must be an https URL"),
        ("https://", "must be an https URL"),
        ("https:///callback", "must be an https URL"),
        ("https://[broken/", "must be an https URL"),
        ("https://app.example:port/", "must be an https URL"),
        ("https://app.example/a b", "must be an https URL"),
        ("https://app.example/\r\nX: y", "must be an https URL"),
        (" https://app.example/", "must be an https URL"),
        ("", "must be an https URL"),
        (None, "must be an https URL"),
        (7, "must be an https URL"),
        ("https://app.example/#fragment", "must not have a fragment"),
        ("https://app.example/#", "must not have a fragment"),
        ("https://user:password@app.example/", "must not carry a user name or password"),
        ("https://user@app.example/", "must not carry a user name or password"),
    ],
)
def test_callback_url_of_another_kind_is_refused(url: Any, requirement: str) -> None:
    error = refused(CreateAuthKeysCodeRequest, callback_url=url)
    assert error.field == "callback_url"
    assert requirement in str(error)
    assert "password@" not in str(error)


@pytest.mark.parametrize("limit", [-1, -0.01, float("nan"), float("inf"), -float("inf"), True, False, "100", b"1"])
def test_limit_that_is_not_an_amount_is_refused(limit: Any) -> None:
    error = refused(CreateAuthKeysCodeRequest, callback_url=CALLBACK, limit=limit)
    assert str(error) == "limit: must be a finite number of US dollars, 0 or more"


@pytest.mark.parametrize("limit", [0, 100, 0.5])
def test_limit_that_is_an_amount_is_accepted(limit: float) -> None:
    assert CreateAuthKeysCodeRequest(callback_url=CALLBACK, limit=limit).limit == limit


def test_key_label_beyond_100_characters_is_refused() -> None:
    assert CreateAuthKeysCodeRequest(callback_url=CALLBACK, key_label="ä" * 100).key_label == "ä" * 100
    error = refused(CreateAuthKeysCodeRequest, callback_url=CALLBACK, key_label="a" * 101)
    assert str(error) == "key_label: must be a string of at most 100 characters"
    assert refused(CreateAuthKeysCodeRequest, callback_url=CALLBACK, key_label=7).field == "key_label"


@pytest.mark.parametrize("moment", [datetime(2027, 1, 1), "2027-12-31T23:59:59Z", 1_800_000_000])
def test_expires_at_naive_is_refused(moment: Any) -> None:
    error = refused(CreateAuthKeysCodeRequest, callback_url=CALLBACK, expires_at=moment)
    assert str(error) == "expires_at: must be a datetime with a time zone"


def test_expires_at_is_kept_in_utc_to_the_second() -> None:
    moment = datetime(2028, 1, 1, 1, 30, 15, 999_999, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    request = CreateAuthKeysCodeRequest(callback_url=CALLBACK, expires_at=moment)
    assert request.expires_at == datetime(2027, 12, 31, 20, 0, 15, tzinfo=UTC)


def test_expires_at_outside_the_calendar_is_refused() -> None:
    moment = datetime.max.replace(tzinfo=timezone(-timedelta(hours=5)))
    error = refused(CreateAuthKeysCodeRequest, callback_url=CALLBACK, expires_at=moment)
    assert error.field == "expires_at"
    assert "between the years" in str(error)


@pytest.mark.parametrize("workspace", ["", "workspace", 7, "550e8400-e29b-41d4-a716-44665544000"])
def test_workspace_id_that_is_not_a_uuid_is_refused(workspace: Any) -> None:
    error = refused(CreateAuthKeysCodeRequest, callback_url=CALLBACK, workspace_id=workspace)
    assert str(error) == "workspace_id: must be a UUID"


def test_workspace_id_is_sent_in_canonical_form() -> None:
    canonical = "550e8400-e29b-41d4-a716-446655440000"
    for form in (canonical, canonical.upper(), f"{{{canonical}}}", UUID(canonical)):
        assert CreateAuthKeysCodeRequest(callback_url=CALLBACK, workspace_id=form).workspace_id == canonical


@pytest.mark.parametrize("limit_type", ["yearly", "DAILY", 1])
def test_usage_limit_type_unknown_is_refused(limit_type: Any) -> None:
    error = refused(CreateAuthKeysCodeRequest, callback_url=CALLBACK, usage_limit_type=limit_type)
    assert str(error) == "usage_limit_type: must be one of daily, weekly, monthly"
