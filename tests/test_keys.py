"""`client.keys.current`: the state of a key."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest

from openrouter_async import CurrentKey, OpenRouter, Outcome, RetryPolicy, errors
from openrouter_async.testing import FakeOpenRouter, Fault
from tests.kit.servers import answering, json_answer

KEY = "sk-or-v1-" + "b" * 64


def described(**data: Any) -> bytes:
    return json_answer(200, json.dumps({"data": data}).encode())


async def test_keys_current_returns_the_state_of_a_users_key(fake: FakeOpenRouter, client: OpenRouter) -> None:
    granted = await client.oauth.exchange_auth_code_for_api_key(code=fake.issue_code(limit=5))
    state = (await client.keys.current(granted.key)).data
    assert (state.limit, state.limit_remaining, state.has_credit) == (5, 5, True)
    assert state.is_management_key is False
    assert state.creator_user_id == granted.user_id


async def test_keys_current_of_a_revoked_key_asks_the_user_to_sign_in_again(
    fake: FakeOpenRouter, client: OpenRouter
) -> None:
    granted = await client.oauth.exchange_auth_code_for_api_key(code=fake.issue_code())
    fake.revoke(granted.key)
    with pytest.raises(errors.UnauthorizedResponseError) as caught:
        await client.keys.current(granted.key)
    assert caught.value.restart_login
    assert caught.value.is_key_rejected
    assert caught.value.user_message == "This sign-in is no longer valid. Please sign in again."
    assert granted.key not in repr(caught.value) + str(caught.value)


async def test_unauthorized_exchange_is_not_a_rejected_key(fake: FakeOpenRouter, client: OpenRouter) -> None:
    fake.queue_faults(Fault.status(401))
    with pytest.raises(errors.UnauthorizedResponseError) as caught:
        await client.oauth.exchange_auth_code_for_api_key(code=fake.issue_code())
    assert not caught.value.is_key_rejected


async def test_keys_current_sends_the_given_key_and_no_body() -> None:
    async with answering(described(label="a", new_field=[1])) as server:
        async with OpenRouter("sk-or-v1-app", base_url=server.base_url) as client:
            result = await client.keys.current(KEY)
    assert result.data == CurrentKey(label="a")
    assert result.http_meta.status_code == 200
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"GET /api/v1/key HTTP/1.1\r\n")
    assert f"Authorization: Bearer {KEY}".encode() in head
    assert body == b""


async def test_keys_current_is_retried_like_other_calls(fake: FakeOpenRouter) -> None:
    async with OpenRouter(fake.token, base_url=fake.base_url, retry=RetryPolicy(initial_interval=0)) as client:
        granted = await client.oauth.exchange_auth_code_for_api_key(code=fake.issue_code())
        fake.queue_faults(Fault.status(503))
        assert (await client.keys.current(granted.key)).http_meta.attempts == 2


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("limit", "5", "not a number"),
        ("limit", True, "not a number"),
        ("limit", 10**400, "not a number"),
        ("usage", -(10**400), "not a number"),
        ("limit_remaining", math.nan, "not a number"),
        ("limit", math.inf, "not a number"),
        ("is_free_tier", 1, "not true or false"),
        ("label", 7, "not a string"),
        ("expires_at", "soon", "not an ISO 8601 timestamp"),
    ],
    ids=lambda value: str(value)[:10],
)
async def test_keys_current_refuses_a_malformed_field(field: str, value: object, wanted: str) -> None:
    async with answering(described(**{field: value})) as server, OpenRouter(None, base_url=server.base_url) as client:
        with pytest.raises(errors.ResponseValidationError, match=wanted) as caught:
            await client.keys.current(KEY)
    assert caught.value.outcome is Outcome.UNKNOWN


async def test_keys_current_reads_limits_and_expiry() -> None:
    answer = described(limit=2.5, limit_remaining=0, expires_at="2027-01-31T00:00:00Z", limit_reset="monthly")
    async with answering(answer) as server, OpenRouter(None, base_url=server.base_url) as client:
        state = (await client.keys.current(KEY)).data
    assert (state.limit, state.has_credit, state.limit_reset) == (2.5, False, "monthly")
    assert state.expires_at == datetime(2027, 1, 31, tzinfo=UTC)


async def test_keys_current_refuses_a_key_that_cannot_be_sent() -> None:
    with pytest.raises(errors.RequestValidationError, match="must be a string of visible ASCII"):
        await OpenRouter(None).keys.current("two words")
