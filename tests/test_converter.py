from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from openrouter_async import (
    CreateAuthKeysCodeRequest,
    CreateAuthKeysCodeResponse,
    ExchangeAuthCodeForAPIKeyRequest,
    ExchangeAuthCodeForAPIKeyResponse,
    HttpMeta,
)
from openrouter_async._values.converter import MalformedBodyError, dump, load

META = HttpMeta(attempts=3)
CREATED = {"data": {"id": "auth_code_xyz789", "app_id": 12345, "created_at": "2025-08-24T10:30:00Z"}}


def exchange(body: Any) -> ExchangeAuthCodeForAPIKeyResponse:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return load(ExchangeAuthCodeForAPIKeyResponse, raw, META)


def create(body: Any) -> CreateAuthKeysCodeResponse:
    return load(CreateAuthKeysCodeResponse, json.dumps(body).encode(), META)


def test_dump_leaves_out_unset_fields() -> None:
    assert json.loads(dump(ExchangeAuthCodeForAPIKeyRequest(code="c"))) == {"code": "c"}
    assert json.loads(dump(CreateAuthKeysCodeRequest(callback_url="https://a.example/"))) == {
        "callback_url": "https://a.example/"
    }


def test_dump_sends_null_for_none() -> None:
    assert json.loads(dump(ExchangeAuthCodeForAPIKeyRequest(code="c", code_challenge_method=None))) == {
        "code": "c",
        "code_challenge_method": None,
    }
    sent = json.loads(dump(CreateAuthKeysCodeRequest(callback_url="https://a.example/", expires_at=None)))
    assert sent["expires_at"] is None


def test_dump_uses_the_wire_names() -> None:
    request = CreateAuthKeysCodeRequest(
        callback_url="https://a.example/",
        code_challenge="challenge",
        code_challenge_method="S256",
        limit=0,
        usage_limit_type="monthly",
        expires_at=datetime(2028, 1, 1, 1, 59, 59, tzinfo=timezone(timedelta(hours=2))),
        key_label="",
        workspace_id="550E8400-E29B-41D4-A716-446655440000",
    )
    assert json.loads(dump(request)) == {
        "callback_url": "https://a.example/",
        "code_challenge": "challenge",
        "code_challenge_method": "S256",
        "limit": 0,
        "usage_limit_type": "monthly",
        "expires_at": "2027-12-31T23:59:59Z",
        "key_label": "",
        "workspace_id": "550e8400-e29b-41d4-a716-446655440000",
    }


def test_load_takes_http_meta_from_the_answer_alone() -> None:
    response = exchange({"key": "k", "user_id": "u", "http_meta": {"status_code": 1}})
    assert (response.key, response.user_id) == ("k", "u")
    assert response.http_meta is META


@pytest.mark.parametrize("user_id", [None, 7, True, [], {"id": "u"}])
def test_load_odd_user_id_keeps_the_key(user_id: Any) -> None:
    assert exchange({"key": "k", "user_id": user_id}) == ExchangeAuthCodeForAPIKeyResponse(key="k", user_id=None)


def test_load_missing_user_id_and_unknown_fields_keep_the_key() -> None:
    assert exchange({"key": "k", "new": {"field": 1}}).key == "k"


def test_load_byte_order_mark_keeps_the_key() -> None:
    assert exchange(b'\xef\xbb\xbf{"key": "k"}').key == "k"


@pytest.mark.parametrize("key", [None, 7, 7.5, True, "", ["k"], {"k": "v"}])
def test_load_key_that_is_not_a_string_is_malformed(key: Any) -> None:
    with pytest.raises(MalformedBodyError, match=r"^not a string @ \$\.key$"):
        exchange({"key": key, "user_id": "u"})


def test_dump_of_a_subclass_is_sent_as_its_base() -> None:
    class Signed(ExchangeAuthCodeForAPIKeyRequest):
        """An application's own."""

    assert json.loads(dump(Signed(code="c"))) == {"code": "c"}


def test_load_missing_key_is_malformed() -> None:
    with pytest.raises(MalformedBodyError, match=r"^missing @ \$\.key$"):
        exchange({"user_id": "u"})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is empty"),
        (b"  ", "the body is empty"),
        (b'{"key": "sk-or-v1-trunc', "the body is not JSON"),
        (b"<html>", "the body is not JSON"),
        (b'{"key": "sk-or-\xff\xfe"}', "the body is not UTF-8"),
        ('{"key": "k"}'.encode("utf-16"), "the body is not UTF-8"),
        (b"[]", "the body is not a JSON object"),
        (b"null", "the body is not a JSON object"),
        (b'"sk-or-v1-text"', "the body is not a JSON object"),
        (b"7", "the body is not a JSON object"),
        (b"[" * 200_000, "the body is not JSON"),
        (b'{"key":' * 200_000, "the body is not JSON"),
        (b'{"key": "k", "n": ' + b"9" * 100_000 + b"}", "the body is not JSON"),
    ],
    ids=range(13),
)
def test_load_body_that_is_not_an_object_is_malformed_and_not_quoted(body: bytes, message: str) -> None:
    with pytest.raises(MalformedBodyError) as caught:
        exchange(body)
    assert str(caught.value) == message


def test_load_malformed_body_leaves_none_of_its_values() -> None:
    with pytest.raises(MalformedBodyError) as caught:
        create({"data": {"id": 7, "app_id": "sk-or-v1-secret", "created_at": "sk-or-v1-secret"}})
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert "secret" not in str(caught.value)


def test_load_created_at_is_aware() -> None:
    data = create(CREATED).data
    assert (data.id, data.app_id) == ("auth_code_xyz789", 12345)
    assert data.created_at == datetime(2025, 8, 24, 10, 30, tzinfo=UTC)
    elsewhere = create({"data": CREATED["data"] | {"created_at": "2025-08-24T12:30:00+02:00"}})
    assert elsewhere.data.created_at == data.created_at
    naive = create({"data": CREATED["data"] | {"created_at": "2025-08-24T10:30:00.123"}})
    assert naive.data.created_at == datetime(2025, 8, 24, 10, 30, 0, 123_000, tzinfo=UTC)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": None}, "not a string @ $.data.id"),
        ({"id": 7}, "not a string @ $.data.id"),
        ({"app_id": "12345"}, "not an integer @ $.data.app_id"),
        ({"app_id": True}, "not an integer @ $.data.app_id"),
        ({"app_id": 1.5}, "not an integer @ $.data.app_id"),
        ({"created_at": "yesterday"}, "not an ISO 8601 timestamp @ $.data.created_at"),
        ({"created_at": 1}, "not an ISO 8601 timestamp @ $.data.created_at"),
        ({"id": 7, "app_id": 1.5}, "not a string @ $.data.id; not an integer @ $.data.app_id"),
    ],
)
def test_load_created_code_of_wrong_types_is_malformed(change: dict[str, Any], message: str) -> None:
    with pytest.raises(MalformedBodyError) as caught:
        create({"data": CREATED["data"] | change})
    assert str(caught.value) == message


@pytest.mark.parametrize("data", [None, 7, "x", []])
def test_load_created_code_that_is_not_an_object_is_malformed(data: Any) -> None:
    with pytest.raises(MalformedBodyError) as caught:
        create({"data": data})
    assert str(caught.value) == "not an object @ $.data"


def test_load_leaves_the_recursion_limit() -> None:
    before = sys.getrecursionlimit()
    with pytest.raises(MalformedBodyError):
        exchange(b"[" * 200_000)
    assert sys.getrecursionlimit() == before


BAD_KEYS = ["sk or", "sk\nor", "sk\x1b[31m", "sk\u00e9", "sk'", 'sk"', "sk$HOME", "sk`id`", "sk\\", "k" * 1025]


@pytest.mark.parametrize("key", BAD_KEYS)
def test_key_with_unsafe_characters_is_malformed(key: str) -> None:
    with pytest.raises(MalformedBodyError, match=r"^not a key of visible ASCII characters @ \$\.key$"):
        exchange({"key": key, "user_id": "u"})


def test_key_of_safe_characters_is_accepted_up_to_1024() -> None:
    safe = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in "'\"$`\\")
    for key in (safe, "k" * 1024):
        assert exchange({"key": key, "user_id": "u"}).key == key
