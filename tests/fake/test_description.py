"""The fake against descriptions of the API: whatever they allow is answered as they say."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.openapi.checks import JsonSchemaError
from schemathesis.specs.openapi.checks import negative_data_rejection

from openrouter_async.testing import FakeOpenRouter, Fault
from openrouter_async.testing._consent import check_callback_url
from openrouter_async.testing._description import DESCRIPTION
from openrouter_async.testing._server import TOKEN
from tests.fake.support import PAIR
from tests.support import ROOT, STRESS, missing

REFERENCE = ROOT.parent / "shared" / "reference" / "openrouter-oauth.openapi.json"
API: dict[str, Any] = copy.deepcopy(json.loads(REFERENCE.read_text()) if REFERENCE.exists() else DESCRIPTION)
# In spite of the description, public operations need no token.
API["paths"]["/auth/keys"]["post"]["security"] = []

# Rules for these two that a description cannot express.
schemathesis.openapi.format(
    "uri",
    st.builds(
        "{}/{}".format,
        st.sampled_from(
            ["https://app.example", "https://app.example:8443", "http://localhost:3000", "http://127.0.0.1"]
        ),
        st.text(alphabet="abcXYZ019-._~/?=&%", max_size=20),
    ),
)
schemathesis.openapi.format("date-time", st.datetimes().map(lambda moment: f"{moment.isoformat(timespec='seconds')}Z"))


def is_callback_url(value: object) -> bool:
    if isinstance(value, str):
        check_callback_url(value)
    return True


def is_timestamp(value: object) -> bool:
    return not isinstance(value, str) or bool(datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ"))


FORMATS = jsonschema.FormatChecker(["uuid"])
FORMATS.checks("uri", ValueError)(is_callback_url)
FORMATS.checks("date-time", ValueError)(is_timestamp)

schema = schemathesis.openapi.from_dict(API)


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeOpenRouter]:
    with FakeOpenRouter() as server:
        yield server
        print(f"answers to what was generated: {dict(server.counters)}")


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as made:
        yield made


def is_valid(case: Case[Any]) -> bool:
    """Whether it was made to be valid."""
    return case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE


def is_described(case: Case[Any]) -> bool:
    """Return whether another library finds that the description allows the method and body."""
    operation = API["paths"][case.path].get(case.method.lower())
    if operation is None:
        return False
    if "requestBody" not in operation:
        return True
    body = operation["requestBody"]["content"]["application/json"]["schema"]
    return bool(jsonschema.Draft202012Validator(body, format_checker=FORMATS).is_valid(case.body))


@schema.parametrize()
@settings(max_examples=500 if STRESS else 25, deadline=None, suppress_health_check=list(HealthCheck))
def test_fake_answers_match_the_description_whatever_is_sent(
    case: Case[Any], fake: FakeOpenRouter, session: requests.Session
) -> None:
    if is_valid(case) and case.path == "/auth/keys" and fake.counters["exchange"] % 4 == 0:
        # No generator guesses a code that was issued.
        code = fake.issue_code(code_challenge=PAIR.code_challenge, code_challenge_method="S256")
        case.body = {"code": code, "code_verifier": PAIR.code_verifier}
    response = case.call(
        base_url=fake.base_url, session=session, headers={"Authorization": f"Bearer {fake.token}"}, timeout=10
    )
    # A mutation is not always invalid: a null has no format, and the bearer token is corrected before the request.
    excluded: list[Any] = [] if is_valid(case) or not is_described(case) else [negative_data_rejection]
    case.validate_response(response, excluded_checks=excluded)


def test_fake_streamed_chat_matches_the_description(fake: FakeOpenRouter, session: requests.Session) -> None:
    own = schemathesis.openapi.from_dict(DESCRIPTION)
    case = own["/chat/completions"]["POST"].Case(body={"model": "", "messages": [{}], "stream": True})
    response = case.call(
        base_url=fake.base_url, session=session, headers={"Authorization": f"Bearer {fake.token}"}, timeout=10
    )
    assert response.status_code == 200
    case.validate_response(response)


PKCE = {"code_challenge": PAIR.code_challenge, "code_challenge_method": "S256"}
CALLBACK = {"callback_url": "https://app.example/callback"}


@pytest.mark.parametrize(
    ("path", "body", "bearer", "status"),
    [
        ("/auth/keys", {"code_verifier": PAIR.code_verifier}, None, 200),
        ("/auth/keys", {}, None, 403),
        ("/auth/keys", {"code_verifier": 7}, None, 400),
        ("/auth/keys/code", CALLBACK | PKCE | {"limit": 5, "expires_at": None}, TOKEN, 200),
        ("/auth/keys/code", {}, TOKEN, 400),
        ("/auth/keys/code", CALLBACK, None, 401),
    ],
)
def test_fake_successes_and_refusals_match_the_description(
    fake: FakeOpenRouter, session: requests.Session, path: str, body: dict[str, Any], bearer: str | None, status: int
) -> None:
    if path == "/auth/keys":
        body = {"code": fake.issue_code(code_challenge=PAIR.code_challenge, code_challenge_method="S256"), **body}
    headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
    response = session.post(fake.base_url + path, json=body, headers=headers, timeout=10)

    assert response.status_code == status
    schema[path]["POST"].validate_response(response)


def test_description_check_can_fail(fake: FakeOpenRouter, session: requests.Session) -> None:
    fake.queue_faults(Fault.status(200, body="{}"))
    response = session.post(f"{fake.base_url}/auth/keys", json={"code": "c"}, timeout=10)

    with pytest.raises(JsonSchemaError):
        schema["/auth/keys"]["POST"].validate_response(response)


def test_descriptions_have_the_same_fields() -> None:
    if not REFERENCE.exists():
        missing("OpenRouter's description of its API")
    for path in ("/auth/keys", "/auth/keys/code"):
        theirs, ours = (fields_of(description, path) for description in (API, DESCRIPTION))
        for hidden in ("spawn_agent", "spawn_cloud"):
            theirs.pop(hidden, None)
        assert ours == theirs


def fields_of(description: dict[str, Any], path: str) -> dict[str, Any]:
    """Return the description of each field, without its prose."""
    schema = description["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    prose = ("description", "example", "examples", "x-fern-ignore", "x-speakeasy-ignore")
    fields = {
        name: {key: value for key, value in field.items() if key not in prose and (key, value) != ("format", "double")}
        for name, field in schema["properties"].items()
    }
    return {**fields, "required": schema["required"]}
