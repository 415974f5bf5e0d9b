from __future__ import annotations

import json

import attrs
import pytest

from openrouter_async.login import LoginStoreError
from openrouter_async.login._records import digest, login_id
from openrouter_async.login.stores import KeyRecord, LoginRecord
from openrouter_async.pkce import PKCEPair
from tests.login.support import make_login, make_result

GARBAGE = [b"", b"\xff", b"null", b"7", b"[]", b"{}", b'{"id": "x"}', b"[" * 100_000]


@pytest.mark.parametrize("method", ["S256", "plain"])
def test_a_login_survives_the_way_through_a_store(method: str) -> None:
    login = attrs.evolve(make_login(), pkce=PKCEPair.generate(method))
    assert LoginRecord.from_json(login.to_json()) == login
    assert b" " not in login.to_json()  # a cookie has room for little


@pytest.mark.parametrize("delivered", [True, False])
def test_a_result_survives_the_way_through_a_store(delivered: bool) -> None:
    result = attrs.evolve(make_result(), delivered=delivered, user_id=None)
    assert KeyRecord.from_json(result.to_json()) == result


@pytest.mark.parametrize("data", GARBAGE)
def test_what_is_no_record_is_an_error_of_the_store(data: bytes) -> None:
    with pytest.raises(LoginStoreError) as caught:
        LoginRecord.from_json(data)
    assert str(caught.value) == "the value in the store is not a login"
    with pytest.raises(LoginStoreError) as caught:
        KeyRecord.from_json(data)
    assert str(caught.value) == "the value in the store is not a result"


@pytest.mark.parametrize(
    ("field", "value"), [("verifier", "short"), ("method", "s256"), ("expires", "soon"), ("expires", None)]
)
def test_a_login_with_a_field_of_something_else_is_no_login(field: str, value: object) -> None:
    fields = json.loads(make_login().to_json()) | {field: value}
    with pytest.raises(LoginStoreError):
        LoginRecord.from_json(json.dumps(fields).encode())


def test_a_fingerprint_is_of_all_that_it_is_made_of() -> None:
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
