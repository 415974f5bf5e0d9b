from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import socket
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web

from openrouter_async import OpenRouter, UsageLimitType
from openrouter_async.errors import APIError, RequestValidationError
from openrouter_async.login import LoopbackUnavailableError
from openrouter_async.testing import Dialect, FakeOpenRouter, Fault
from openrouter_async.testing._authority import Authority, CodeRefusedError
from tests.fake.support import PAIR, Reply, create, exchange, send
from tests.kit.clocks import EPOCH, FROZEN
from tests.kit.servers import start_app
from tests.support import STRESS

VERIFIER = PAIR.code_verifier
PKCE: dict[str, Any] = {"code_challenge": PAIR.code_challenge, "code_challenge_method": "S256"}
WRONG = VERIFIER[:-1] + "X"


@pytest.fixture
async def fake() -> AsyncIterator[FakeOpenRouter]:
    async with FakeOpenRouter(clock=FROZEN) as server:
        yield server


# Codes and keys.


async def test_fake_created_code_is_exchanged_once(fake: FakeOpenRouter) -> None:
    created = await create(fake, **PKCE)
    code = created.json["data"]["id"]
    first = await exchange(fake, code, code_verifier=VERIFIER, code_challenge_method="S256")
    second = await exchange(fake, code, code_verifier=VERIFIER, code_challenge_method="S256")

    assert created.json == {"data": {"id": code, "app_id": 12345, "created_at": "2027-01-15T08:00:00.000Z"}}
    assert first.status == 200
    assert first.json == {"key": fake.issued_keys[0].key, "user_id": "user_sandbox"}
    assert fake.issued_keys[0].hash == hashlib.sha256(first.json["key"].encode()).hexdigest()
    assert (second.status, second.message) == (403, "Invalid code or code_verifier")
    assert fake.redeemed_codes == [code]
    assert fake.counters == {
        "create": 1, "create 200": 1, "exchange": 2, "exchange 200": 1, "exchange 403": 1, "redeemed": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("issued", "sent", "status"),
    [
        ({}, {}, 200),
        ({}, {"code_challenge_method": None}, 200),
        (PKCE, {"code_verifier": VERIFIER}, 200),
        (PKCE, {"code_verifier": VERIFIER, "code_challenge_method": None}, 200),
        ({"code_challenge": VERIFIER}, {"code_verifier": VERIFIER}, 200),
        ({"code_challenge": VERIFIER, "code_challenge_method": "plain"}, {"code_verifier": VERIFIER}, 200),
        (PKCE, {}, 403),
        (PKCE, {"code_verifier": WRONG}, 403),
        (PKCE, {"code_verifier": PAIR.code_challenge}, 403),
        (PKCE, {"code_verifier": "short"}, 403),
        (PKCE, {"code_verifier": VERIFIER + "\n"}, 403),
        ({}, {"code_verifier": VERIFIER}, 403),
        ({"code_challenge": "short"}, {"code_verifier": "short"}, 403),
        ({"code_challenge": "é" * 43}, {"code_verifier": VERIFIER}, 403),
        (PKCE, {"code_verifier": VERIFIER, "code_challenge_method": "plain"}, 400),
        ({"code_challenge": VERIFIER}, {"code_verifier": VERIFIER, "code_challenge_method": "S256"}, 400),
        ({}, {"code_challenge_method": "S256"}, 400),
    ],
)
async def test_fake_code_is_exchanged_with_the_verifier_of_its_challenge_only(
    fake: FakeOpenRouter, issued: dict[str, Any], sent: dict[str, Any], status: int
) -> None:
    code = fake.issue_code(**issued)
    reply = await exchange(fake, code, **sent)

    assert reply.status == status
    assert len(fake.issued_keys) == (status == 200)
    if status == 400:
        assert reply.message == "Invalid code_challenge_method"
    if status != 200 and issued == PKCE:
        assert (await exchange(fake, code, code_verifier=VERIFIER)).status == 200


async def test_fake_code_is_valid_for_ten_minutes(fake: FakeOpenRouter) -> None:
    late, too_late = fake.issue_code(), fake.issue_code()
    fake.advance(599.9)
    assert (await exchange(fake, late)).status == 200
    fake.advance(0.1)
    reply = await exchange(fake, too_late)
    assert (reply.status, reply.message) == (403, "Authorization code expired")
    # Once the fake has forgotten an old code, the code is like one that was never issued.
    fake.advance(601)
    fake.issue_code()
    assert (await exchange(fake, too_late)).message == "Invalid code or code_verifier"


async def test_fake_fifty_concurrent_exchanges_of_one_code_issue_one_key(fake: FakeOpenRouter) -> None:
    for _ in range(5):
        code = fake.issue_code(**PKCE)
        replies = await asyncio.gather(*(exchange(fake, code, code_verifier=VERIFIER) for _ in range(50)))
        assert sorted(reply.status for reply in replies) == [200] + [403] * 49
    assert len(fake.issued_keys) == len(set(fake.redeemed_codes)) == 5


async def test_fake_key_has_the_properties_its_code_was_created_with(fake: FakeOpenRouter) -> None:
    created = await create(
        fake,
        limit=2.5,
        usage_limit_type="weekly",
        expires_at="2027-01-15T09:00:00Z",
        key_label="My app",
        workspace_id="0df9e665-d932-5740-b2c7-b52af166bc11",
    )
    await exchange(fake, created.json["data"]["id"])

    (issued,) = fake.issued_keys
    assert (issued.limit, issued.usage_limit_type, issued.label) == (2.5, UsageLimitType.WEEKLY, "My app")
    assert issued.expires_at == datetime(2027, 1, 15, 9, tzinfo=UTC)
    assert issued.workspace_id == "0df9e665-d932-5740-b2c7-b52af166bc11"
    assert issued.created_at.timestamp() == EPOCH


async def describe(fake: FakeOpenRouter, bearer: str) -> Any:
    reply = await send(f"{fake.base_url}/key", method="GET", Authorization=bearer)
    return reply.json["data"] if reply.status == 200 else (reply.status, reply.message)


async def issue_key(fake: FakeOpenRouter, **options: Any) -> str:
    key: str = (await exchange(fake, fake.issue_code(**options))).json["key"]
    return key


async def test_get_key_describes_the_bearers_key_until_it_expires(fake: FakeOpenRouter) -> None:
    key = await issue_key(
        fake, key_label="My app", limit=5, usage_limit_type="daily", expires_at=datetime(2027, 1, 15, 9, tzinfo=UTC)
    )
    plain = await issue_key(fake)

    described = await describe(fake, f"Bearer {key}")
    wanted = {
        "label": "My app", "limit": 5, "limit_remaining": 5, "limit_reset": "daily", "usage": 0, "usage_monthly": 0,
        "byok_usage": 0, "is_free_tier": True, "is_management_key": False, "creator_user_id": "user_sandbox",
        "expires_at": "2027-01-15T09:00:00.000Z", "allowed_data_regions": ["global"],
    }  # fmt: skip
    assert described | wanted == described
    assert described["effective_budget"] == described["budgets"][0]
    unnamed = await describe(fake, f"bearer  {plain}")
    assert unnamed["label"] == f"{plain[:12]}...{plain[-3:]}"
    assert unnamed["expires_at"] is unnamed["limit"] is unnamed["effective_budget"] is None
    fake.advance(3600)
    assert await describe(fake, f"Bearer {key}") == (401, "User not found.")
    assert (await describe(fake, f"Bearer {fake.token}"))["is_management_key"] is True


async def test_get_key_without_a_valid_key_is_401(fake: FakeOpenRouter) -> None:
    key = await issue_key(fake)
    fake.revoke(key)

    assert await describe(fake, f"Bearer {key}") == (401, "User not found.")
    assert await describe(fake, "Bearer sk-or-v1-nobody") == (401, "User not found.")
    assert await describe(fake, "Basic abc") == (401, "Missing Authentication header")
    for unknown in (key, "sk-or-v1-nobody"):
        with pytest.raises(RequestValidationError, match="key: must be a key that was issued here"):
            fake.revoke(unknown)


async def test_delete_key_with_the_apps_token_alone_revokes_it(fake: FakeOpenRouter) -> None:
    key = await issue_key(fake)
    url = f"{fake.base_url}/keys/{fake.issued_keys[-1].hash}"

    async def revoke(**headers: str) -> Reply:
        return await send(url, method="DELETE", **headers)

    refused = [await revoke(), await revoke(Authorization=f"Bearer {key}")]
    assert [reply.status for reply in refused] == [401, 401]
    assert (await describe(fake, f"Bearer {key}"))["limit"] is None
    assert (await revoke(Authorization=f"Bearer {fake.token}")).json == {"deleted": True}
    assert await describe(fake, f"Bearer {key}") == (401, "User not found.")
    assert (await revoke(Authorization=f"Bearer {fake.token}")).status == 404


async def chat(fake: FakeOpenRouter, bearer: str | None, **body: Any) -> Reply:
    headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
    return await send(f"{fake.base_url}/chat/completions", json=body, **headers)


async def test_chat_repeats_the_last_message(fake: FakeOpenRouter) -> None:
    key = await issue_key(fake)
    parts = [{"type": "text", "text": "Hello"}, {"type": "text", "text": "again"}]

    plain = await chat(fake, key, model="m", messages=[{"role": "user", "content": "Hello"}])
    in_parts = await chat(fake, key, messages=[{"role": "user", "content": parts}])

    assert plain.json["choices"][0]["message"]["content"] == "The sandbox heard: Hello"
    assert (plain.json["model"], plain.json["created"], plain.json["provider"]) == ("m", EPOCH, "Sandbox")
    assert in_parts.json["choices"][0]["message"]["content"] == "The sandbox heard: Hello again"


async def test_chat_streams_events_when_asked(fake: FakeOpenRouter) -> None:
    messages = [{"role": "user", "content": "two\n words "}]
    reply = await chat(fake, await issue_key(fake), stream=True, messages=messages)

    assert reply.headers["Content-Type"].startswith("text/event-stream")
    *events, last, end = reply.text.split("\n\n")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    text = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)
    assert text == "The sandbox heard: two\n words "
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert (last, end) == ("data: [DONE]", "")


async def test_chat_bad_keys_and_bodies_are_refused(fake: FakeOpenRouter) -> None:
    key = await issue_key(fake)
    messages = [{"role": "user", "content": "Hello"}]

    bodies: list[dict[str, Any]] = [{}, {"messages": []}, {"messages": messages, "model": 7}]
    bad = [await chat(fake, key, **body) for body in bodies]
    fake.revoke(key)
    revoked, without = await chat(fake, key, messages=messages), await chat(fake, None, messages=messages)

    assert [reply.status for reply in bad] == [400, 400, 400]
    assert (revoked.status, revoked.message) == (401, "User not found.")
    assert (without.status, without.message) == (401, "Missing Authentication header")


async def test_fake_user_id_may_be_chosen_or_null(fake: FakeOpenRouter) -> None:
    replies = [await exchange(fake, fake.issue_code(user_id=user)) for user in ("user_1", None)]

    assert [reply.json["user_id"] for reply in replies] == ["user_1", None]


# Who may create codes.


async def test_create_code_with_unknown_bearer_is_refused() -> None:
    async with FakeOpenRouter(tokens=["app-1", "app-2"]) as fake:
        key = (await exchange(fake, fake.issue_code())).json["key"]
        tries = {bearer: await create(fake, bearer=bearer) for bearer in ("app-1", "app-2", "app-3", key, "")}

    assert fake.token == "app-1"
    assert [(reply.status, reply.json.get("error", {}).get("message")) for reply in tries.values()] == [
        (200, None),
        (200, None),
        (401, "Invalid credentials"),
        (403, "Only management keys can perform this operation"),
        (401, "Missing Authentication header"),
    ]


async def test_exchange_works_with_and_without_a_bearer(fake: FakeOpenRouter) -> None:
    for bearer in (None, fake.token, "stale"):
        async with OpenRouter(bearer, base_url=fake.base_url) as client:
            assert (await client.oauth.exchange_auth_code_for_api_key(code=fake.issue_code())).key


# Malformed requests.

CREATIONS: list[dict[str, Any]] = [
    {"callback_url": 7},
    {"callback_url": "http://app.example/"},
    {"callback_url": "https://"},
    {"callback_url": "https://app.example:port/"},
    {"callback_url": "https://app.example/#fragment"},
    {"callback_url": "https://app.example/a b"},
    {"callback_url": "http://[::1]/"},
    {"callback_url": "ftp://localhost/"},
    {"code_challenge": 7},
    {"code_challenge": None},
    {"code_challenge_method": "s256"},
    {"code_challenge_method": None},
    {"limit": "10"},
    {"limit": True},
    {"limit": 10**400},
    {"usage_limit_type": "yearly"},
    {"expires_at": "2027-12-31T23:59Z"},
    {"expires_at": "2027-12-31T23:59:59"},
    {"expires_at": "2027-12-31T23:59:59+02:00"},
    {"expires_at": "2027-13-31T23:59:59Z"},
    {"expires_at": 7},
    {"key_label": "x" * 101},
    {"key_label": None},
    {"workspace_id": "{0df9e665-d932-5740-b2c7-b52af166bc11}"},
    {"workspace_id": "none"},
]


@pytest.mark.parametrize("fields", CREATIONS, ids=str)
async def test_create_code_undocumented_body_is_refused_by_field(fake: FakeOpenRouter, fields: dict[str, Any]) -> None:
    reply = await create(fake, **fields)

    assert reply.status == 400
    assert reply.message.startswith(f"Invalid request parameters: {next(iter(fields))}: must be ")
    assert not fake.issued_keys


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"[]", b"null", b'"code"', b"\xff\xfe", b'{"code": NaN}', b"[" * 60_000, b"{}", b'{"code": null}'),
        *(b'{"code": 7}', b'{"code": "c", "code_verifier": null}', b'{"code": "c", "code_challenge_method": 1}'),
        *(b'{"code": "c", "code_challenge_method": []}', b'{"code": "c", "code_challenge_method": ""}'),
    ],
    ids=lambda body: body[:50].decode(errors="replace"),
)
@pytest.mark.parametrize("dialect", Dialect)
async def test_exchange_undocumented_body_is_refused(body: bytes, dialect: Dialect) -> None:
    async with FakeOpenRouter(dialect=dialect) as fake:
        reply = await send(f"{fake.base_url}/auth/keys", data=body, **{"Content-Type": "application/json"})

    assert reply.status == 400
    if dialect is Dialect.OBSERVED:
        assert reply.json["success"] is False
        assert reply.json["error"]["name"] == "ZodError"
    else:
        assert reply.json["error"]["code"] == 400


async def test_exchange_code_with_lone_surrogate_is_invalid(fake: FakeOpenRouter) -> None:
    assert (await exchange(fake, "\ud800")).status == 403


async def test_exchange_body_with_several_mistakes_reports_all(fake: FakeOpenRouter) -> None:
    reply = await create(fake, limit="10", key_label=7)

    assert reply.message == (
        "Invalid request parameters: limit: must be a number; key_label: must be a string of at most 100 characters"
    )


async def test_fake_too_large_body_is_refused(fake: FakeOpenRouter) -> None:
    reply = await exchange(fake, "x" * 70_000)

    assert reply.status == 413
    assert fake.requests[-1].status == 413
    assert fake.counters["exchange 413"] == 1


# Dialects.


async def test_dialects_differ_in_a_bad_code_and_a_wrong_method() -> None:
    seen = {}
    for dialect in Dialect:
        async with FakeOpenRouter(dialect=dialect, clock=FROZEN) as fake:
            expired = fake.issue_code()
            fake.advance(600)
            wrong = await send(f"{fake.base_url}/auth/keys", method="GET")
            replies = [
                await exchange(fake, "nothing"),
                await exchange(fake, expired),
                await exchange(fake, fake.issue_code(**PKCE), code_verifier=WRONG),
                wrong,
                await send(f"{fake.base_url}/elsewhere"),
            ]
            seen[dialect] = [(reply.status, reply.message) for reply in replies]
            assert wrong.headers.get("Allow") == ("POST" if dialect is Dialect.DOCUMENTED else None)

    common = [(403, "Authorization code expired"), (403, "Invalid code or code_verifier")]
    assert seen[Dialect.DOCUMENTED] == [
        (403, "Invalid code or code_verifier"), *common, (405, "Method Not Allowed"), (404, "Not Found"),
    ]  # fmt: skip
    assert seen[Dialect.OBSERVED] == [(400, "Invalid code"), *common, (404, "Not Found"), (404, "Not Found")]


@pytest.mark.parametrize("dialect", Dialect)
async def test_dialects_are_both_understood_by_the_client(dialect: Dialect) -> None:
    async with FakeOpenRouter(dialect=dialect) as fake, OpenRouter(None, base_url=fake.base_url) as client:
        with pytest.raises(APIError) as caught:
            await client.oauth.exchange_auth_code_for_api_key(code="nothing")

    assert caught.value.is_code_rejected


# The fake's record of the requests.


async def test_fake_recorded_requests_show_no_secret(fake: FakeOpenRouter) -> None:
    code = fake.issue_code(**PKCE)
    reply = await exchange(fake, code, code_verifier=VERIFIER)
    await create(fake, key_label="My app", callback_url="https://app.example/secret-path", invented="secret")
    await send(f"{fake.base_url}/auth/keys", data=b"secret, and no JSON")
    await send(f"{fake.base_url}/auth/keys", json=["secret"])

    first, second, third, fourth = fake.requests
    assert (first.method, first.path, first.status) == ("POST", "/api/v1/auth/keys", 200)
    assert first.body == {"code": code, "code_verifier": VERIFIER}
    assert second.headers["authorization"] == f"Bearer {fake.token}"
    assert (third.body, third.content, third.status) == (None, b"secret, and no JSON", 400)
    assert fourth.body == ["secret"]
    assert fake.requests[-1] is fourth
    assert fake.requests[1:3] == [second, third]
    assert fake.requests[:] == list(fake.requests) == fake.requests
    shown = repr((fake, fake.requests, fake.issued_keys, fake.counters))
    for secret in (code, VERIFIER, reply.json["key"], fake.token, "secret"):
        assert secret not in shown
    assert "My app" in shown


async def test_fake_serves_its_openapi_description(fake: FakeOpenRouter) -> None:
    reply = await send(f"{fake.base_url}/openapi.json", method="GET")

    assert reply.json["servers"] == [{"url": fake.base_url}]
    assert set(reply.json["paths"]) == {"/auth/keys", "/auth/keys/code", "/key", "/keys/{hash}", "/chat/completions"}


async def test_fake_fault_queue_does_not_affect_the_description(fake: FakeOpenRouter) -> None:
    fake.queue_faults(Fault.status(503))
    assert (await send(f"{fake.base_url}/openapi.json", method="GET")).status == 200
    assert (await exchange(fake, "nothing")).status == 503


# Where it listens.


async def test_fake_listens_on_ipv4_and_ipv6_and_can_be_reentered() -> None:
    fake = FakeOpenRouter()
    assert "not listening" in repr(fake)
    with pytest.raises(RuntimeError, match="enter it first"):
        _ = fake.base_url
    for _ in range(2):
        async with fake:
            assert fake.url in repr(fake)
            for url in (fake.base_url, fake.base_url.replace("127.0.0.1", "[::1]")):
                assert (await send(f"{url}/auth/keys", json={"code": fake.issue_code()})).status == 200
    assert len(fake.issued_keys) == 4
    assert "not listening" in repr(fake)


async def test_fake_port_may_be_chosen_or_in_use() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port: int = other.getsockname()[1]
    async with FakeOpenRouter(port=port) as fake:
        assert fake.url == f"http://127.0.0.1:{port}"
        with pytest.raises(LoopbackUnavailableError):
            await FakeOpenRouter(port=port).__aenter__()


async def test_fake_app_can_be_mounted_in_another_server() -> None:
    fake = FakeOpenRouter()
    outer = web.Application()
    outer.add_subapp("/openrouter", fake.app)
    runner, address = await start_app(outer)
    url = f"{address}/openrouter"
    try:
        async with OpenRouter(fake.token, base_url=f"{url}/api/v1") as client:
            created = await client.oauth.create_auth_code(callback_url="https://app.example/")
            assert (await client.oauth.exchange_auth_code_for_api_key(code=created.data.id)).key
        assert (await send(f"{url}/api/v1/nowhere")).json["error"]["code"] == 404
        assert "There is nothing here" in (await send(f"{url}/nowhere", method="GET")).text
        home = await send(f"{url}/auth", method="GET")
        assert (home.status, home.headers["Location"]) == (303, "./")
        assert (await send(f"{url}/", method="GET")).status == 200
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"port": -1}, "port"),
        ({"port": True}, "port"),
        ({"port": "80"}, "port"),
        ({"tokens": []}, "tokens"),
        ({"tokens": "token"}, "tokens"),
        ({"tokens": [""]}, "tokens"),
        ({"tokens": [7]}, "tokens"),
        ({"dialect": "spoken"}, "dialect"),
        ({"code_lifetime": 0}, "code_lifetime"),
    ],
)
def test_fake_invalid_arguments_are_refused_by_name(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(RequestValidationError) as caught:
        FakeOpenRouter(**arguments)

    assert caught.value.field == field


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"code_challenge": "x", "code_challenge_method": "s256"}, "code_challenge_method"),
        ({"expires_at": datetime(2027, 1, 1)}, "expires_at"),
        ({"usage_limit_type": "yearly"}, "usage_limit_type"),
        ({"fault": "nonsense"}, "fault"),
    ],
)
def test_issue_code_invalid_arguments_are_refused(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(RequestValidationError) as caught:
        FakeOpenRouter().issue_code(**arguments)

    assert caught.value.field == field


# Without a loop, and with many codes.


def test_fake_without_a_loop_runs_in_a_thread() -> None:
    with FakeOpenRouter(clock=FROZEN, code_lifetime=1e9) as fake:

        async def use() -> None:
            async with OpenRouter(None, base_url=fake.base_url) as client:
                await client.oauth.exchange_auth_code_for_api_key(code=fake.issue_code())
                fake.queue_faults(Fault.delay(3600))
                waiting = asyncio.create_task(client.oauth.exchange_auth_code_for_api_key(code=fake.issue_code()))
                while not waiting.done():
                    fake.advance(3600)
                    await asyncio.wait((waiting,), timeout=0.01)
                await waiting

        asyncio.run(use())
        asyncio.run(use())
    assert len(fake.issued_keys) == 4
    # Nobody sleeps there any more.
    fake.advance(1)


def test_fake_history_is_bounded() -> None:
    authority = Authority(lambda: EPOCH, code_lifetime=600, capacity=10)
    codes = [authority.issue() for _ in range(100)]
    with contextlib.suppress(CodeRefusedError):
        authority.redeem(codes[-11].code, None, None)
        raise AssertionError("a code beyond the capacity is remembered")
    keys = [authority.redeem(code.code, None, None) for code in codes[-10:]]
    keys += [authority.redeem(authority.issue().code, None, None) for _ in range(5)]
    assert [authority.find_valid_key(key.key) is not None for key in keys] == [False] * 5 + [True] * 10


@pytest.mark.stress
async def test_fake_with_many_clients_and_codes_stays_fast() -> None:
    async def time_exchanges(fake: FakeOpenRouter, client: OpenRouter) -> float:
        codes = iter([fake.issue_code() for _ in range(200)])

        async def work() -> None:
            for code in codes:
                await client.oauth.exchange_auth_code_for_api_key(code=code)

        # CPU time, which does not depend on what else the machine does.
        started = time.process_time()
        await asyncio.gather(*(work() for _ in range(200)))
        return time.process_time() - started

    async with FakeOpenRouter() as fake, OpenRouter(None, base_url=fake.base_url, pool_size=200) as client:
        await time_exchanges(fake, client)
        others = 100_000 if STRESS else 20_000
        few = min([await time_exchanges(fake, client) for _ in range(3)])
        for _ in range(others):
            fake.issue_code(**PKCE)
        many = min([await time_exchanges(fake, client) for _ in range(3)])

    print(f"200 exchanges by 200 clients: {few:.2f} s; beside {others:,} other codes: {many:.2f} s")
    assert len(fake.issued_keys) == fake.counters["exchange 200"] == 7 * 200
    assert many < 3 * few + 0.1
