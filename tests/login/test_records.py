from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import attrs
import pytest

from openrouter_async import CodeChallengeMethod
from openrouter_async.integrations.bots._sessions import ChatLogin
from openrouter_async.integrations.web._statuses import LoginStatus
from openrouter_async.login import LoginStoreError
from openrouter_async.login._records import KeyRecord, LoginRecord, digest, login_id
from tests.login.support import NOW, make_record, make_result

GARBAGE = [b"", b"\xff", b"null", b"7", b"[]", b"{}", b'{"id": "x"}', b"[" * 100_000]


@pytest.mark.parametrize("method", ["S256", "plain"])
def test_login_record_survives_serialization(method: str) -> None:
    login = attrs.evolve(make_record(), method=CodeChallengeMethod(method))
    assert LoginRecord.from_json(login.to_json()) == login
    assert b" " not in login.to_json()  # a cookie has room for little


@pytest.mark.parametrize("delivered", [True, False])
def test_result_record_survives_serialization(delivered: bool) -> None:
    result = attrs.evolve(make_result(), delivered=delivered, user_id=None)
    assert KeyRecord.from_json(result.to_json()) == result


@pytest.mark.parametrize("data", GARBAGE)
def test_record_malformed_is_a_store_error(data: bytes) -> None:
    with pytest.raises(LoginStoreError) as caught:
        LoginRecord.from_json(data)
    assert str(caught.value) == "the value in the store is not a login"
    with pytest.raises(LoginStoreError) as caught:
        KeyRecord.from_json(data)
    assert str(caught.value) == "the value in the store is not a result"


MOMENTS = ["soon", None, True, float("nan"), float("inf"), -1, 10**400, 253_402_300_800]
PATHS = [7, "", "https://elsewhere.example", "//elsewhere.example", "/\\elsewhere.example", ["/"]]
LOGIN_STATUS = LoginStatus(binding="b", expires_at=NOW)
CHAT_LOGIN = ChatLogin(state="s" * 43, url="https://openrouter.ai/auth", renew_at=NOW, expires_at=NOW, headless=True)
WRONG_FIELDS: list[tuple[Any, str, Sequence[object]]] = [
    *((make_record(), name, values) for name, values in (("expires_at", MOMENTS), ("return_to", PATHS))),
    *((make_record(), name, values) for name, values in (("verifier", ["short", None]), ("method", ["s256", 7]))),
    *((make_result(), name, [7, None, []]) for name in ("key", "code", "delivered")),
    *((make_result(), name, values) for name, values in (("user_id", [7, {}]), ("return_to", PATHS), ("other", [7]))),
    *((LOGIN_STATUS, name, values) for name, values in (("expires_at", MOMENTS), ("return_to", PATHS))),
    (LOGIN_STATUS, "status", [7, None, {}, "no"]),
    *((LOGIN_STATUS, name, [7, []]) for name in ("binding", "error")),
    *((CHAT_LOGIN, name, MOMENTS) for name in ("renew_at", "expires_at")),
    *((CHAT_LOGIN, name, [7, []]) for name in ("state", "url", "headless", "finished")),
]


@pytest.mark.parametrize(
    ("record", "field", "value"), [(record, field, value) for record, field, values in WRONG_FIELDS for value in values]
)
def test_record_with_a_wrong_field_is_a_store_error(record: Any, field: str, value: object) -> None:
    assert type(record).from_json(record.to_json()) == record
    data = json.dumps(json.loads(record.to_json()) | {field: value}).encode()
    with pytest.raises(LoginStoreError):
        type(record).from_json(data)


def test_digest_depends_on_each_part() -> None:
    made = [
        digest("state", "binding", "a"),
        digest("state", "binding", "b"),
        digest("state", "binding", ""),
        digest("state", "binding", None),
        digest("state", "code", "a"),
        digest("other", "binding", "a"),
        login_id("state"),
        login_id("other"),
    ]
    assert len(set(made)) == len(made)
    assert all(len(value) == 64 for value in made)
