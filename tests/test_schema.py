"""The models against OpenRouter's own description of its API, where that file lies beside the project."""

from __future__ import annotations

import json
from datetime import UTC
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openrouter_async import (
    UNSET,
    CodeChallengeMethod,
    CreateAuthKeysCodeRequest,
    CreateAuthKeysCodeResponse,
    ExchangeAuthCodeForAPIKeyRequest,
    ExchangeAuthCodeForAPIKeyResponse,
    OpenRouter,
    RetryPolicy,
    UsageLimitType,
    errors,
)
from openrouter_async._values.converter import dump
from tests.kit.servers import answering, json_answer
from tests.support import ROOT, missing

pytestmark = pytest.mark.unmeasured

DESCRIPTION = ROOT.parent / "shared" / "reference" / "openrouter-oauth.openapi.json"
PATHS = {"/auth/keys", "/auth/keys/code"}


@pytest.fixture(scope="session")
def api() -> Any:
    if not DESCRIPTION.exists():
        missing("OpenRouter's description of its API")
    return json.loads(DESCRIPTION.read_text())


def body_schema(api: Any, path: str) -> Any:
    schema = api["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    # JSON Schema lets unknown fields pass; a request that we make up must not.
    return schema | {"additionalProperties": False}


def check(api: Any, schema: Any, value: Any) -> None:
    jsonschema.Draft202012Validator(
        schema | {"components": api["components"]}, format_checker=jsonschema.FormatChecker()
    ).validate(value)


methods = st.sampled_from([*CodeChallengeMethod, "S256", "plain"])
texts = st.text(min_size=1)

exchanges = st.builds(
    ExchangeAuthCodeForAPIKeyRequest,
    code=texts,
    code_verifier=st.none() | st.from_regex(r"[A-Za-z0-9\-._~]{43,128}", fullmatch=True),
    code_challenge_method=st.sampled_from([UNSET, None]) | methods,
)


@st.composite
def creations(draw: st.DrawFn) -> CreateAuthKeysCodeRequest:
    challenge = draw(st.none() | texts)
    return CreateAuthKeysCodeRequest(
        callback_url=draw(
            st.sampled_from(["https://app.example/cb?x=1", "http://localhost:3000/", "http://127.0.0.1:53682/a/b"])
        ),
        code_challenge=challenge,
        code_challenge_method=UNSET if challenge is None else draw(methods),
        limit=draw(st.none() | st.integers(0, 10**9) | st.floats(0, 10**9)),
        usage_limit_type=draw(st.none() | st.sampled_from([*UsageLimitType, "daily"])),
        expires_at=draw(st.sampled_from([UNSET, None]) | st.datetimes(timezones=st.just(UTC))),
        key_label=draw(st.none() | st.text(max_size=100)),
        workspace_id=draw(st.none() | st.uuids()),
    )


@given(request=exchanges)
def test_exchange_of_any_valid_request_satisfies_the_schema(
    api: Any, request: ExchangeAuthCodeForAPIKeyRequest
) -> None:
    check(api, body_schema(api, "/auth/keys"), json.loads(dump(request)))


@given(request=creations())
def test_create_code_of_any_valid_request_satisfies_the_schema(api: Any, request: CreateAuthKeysCodeRequest) -> None:
    check(api, body_schema(api, "/auth/keys/code"), json.loads(dump(request)))


def test_schema_check_can_fail(api: Any) -> None:
    for path, body in [
        ("/auth/keys", {}),
        ("/auth/keys", {"code": 7}),
        ("/auth/keys", {"code": "c", "misspelt": 1}),
        ("/auth/keys/code", {"callback_url": "https://a.example", "workspace_id": "none"}),
        ("/auth/keys/code", {"callback_url": "https://a.example", "key_label": "a" * 101}),
    ]:
        with pytest.raises(jsonschema.ValidationError):
            check(api, body_schema(api, path), body)


def test_models_have_exactly_the_documented_fields(api: Any) -> None:
    # Fields that OpenRouter hides from its own SDKs are not for anybody's use.
    for path, model in [
        ("/auth/keys", ExchangeAuthCodeForAPIKeyRequest),
        ("/auth/keys/code", CreateAuthKeysCodeRequest),
    ]:
        properties = body_schema(api, path)["properties"]
        public = {name for name, schema in properties.items() if not schema.get("x-speakeasy-ignore")}
        assert {field.name for field in model.__attrs_attrs__} == public  # type: ignore[attr-defined]
    assert set(api["paths"]) == PATHS


async def call(base_url: str, path: str) -> Any:
    async with OpenRouter("sk-or-v1-app", base_url=base_url, retry=RetryPolicy.none()) as client:
        if path == "/auth/keys":
            return await client.oauth.exchange_auth_code_for_api_key(code="code-1")
        return await client.oauth.create_auth_code(callback_url="https://app.example/")


async def test_documented_answers_parse(api: Any) -> None:
    for path in PATHS:
        example = api["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["example"]
        async with answering(json_answer(200, json.dumps(example).encode())) as server:
            response = await call(server.base_url, path)
        if path == "/auth/keys":
            assert isinstance(response, ExchangeAuthCodeForAPIKeyResponse)
            assert {"key": response.key, "user_id": response.user_id} == example
        else:
            assert isinstance(response, CreateAuthKeysCodeResponse)
            assert response.data.id == example["data"]["id"]
            assert response.data.app_id == example["data"]["app_id"]
            assert response.data.created_at.isoformat() == example["data"]["created_at"].replace("Z", "+00:00")


async def test_documented_errors_have_their_class_and_message(api: Any) -> None:
    seen = set()
    for path in PATHS:
        for status, response in api["paths"][path]["post"]["responses"].items():
            if status == "200":
                continue
            content = response["content"]["application/json"]
            name = content["schema"]["$ref"].rpartition("/")[2]
            async with answering(json_answer(int(status), json.dumps(content["example"]).encode())) as server:
                with pytest.raises(errors.APIError) as caught:
                    await call(server.base_url, path)
            assert type(caught.value).__name__ == f"{name}Error"
            assert caught.value.message == content["example"]["error"]["message"]
            assert caught.value.code == int(status)
            seen.add(status)
    assert seen == {"400", "401", "403", "409", "500"}
