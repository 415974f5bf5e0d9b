from __future__ import annotations

import json

import attrs
import pytest

from openrouter_async.login import LoginStoreError
from openrouter_async.login._records import KeyRecord, LoginRecord, digest, login_id
from openrouter_async.pkce import PKCEPair
from tests.login.support import make_record, make_result

GARBAGE = [b"", b"\xff", b"null", b"7", b"[]", b"{}", b'{"id": "x"}', b"[" * 100_000]


@pytest.mark.parametrize("method", ["S256", "plain"])
def test_login_record_survives_serialization(method: str) -> None:
    login = attrs.evolve(make_record(), pkce=PKCEPair.generate(method))
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


@pytest.mark.parametrize(
    ("field", "value"), [("verifier", "short"), ("method", "s256"), ("expires", "soon"), ("expires", None)]
)
def test_record_with_a_wrong_field_is_a_store_error(field: str, value: object) -> None:
    fields = json.loads(make_record().to_json()) | {field: value}
    with pytest.raises(LoginStoreError):
        LoginRecord.from_json(json.dumps(fields).encode())


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
