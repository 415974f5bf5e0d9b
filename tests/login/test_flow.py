from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
from yarl import URL

from openrouter_async import (
    ExchangeAuthCodeForAPIKeyResponse,
    Handler,
    OpenRouter,
    Outcome,
    Request,
    Response,
)
from openrouter_async.errors import (
    APIError,
    KeyDeliveryError,
    OpenRouterError,
    RequestValidationError,
    TooManyRequestsResponseError,
    TransportError,
)
from openrouter_async.login import (
    AuthorizationDeniedError,
    AuthorizationError,
    AuthorizationFlow,
    CodeRejectedError,
    Grant,
    InvalidCallbackError,
    LoginAlreadyUsedError,
    LoginBindingError,
    LoginCookie,
    LoginExpiredError,
    LoginInProgressError,
    LoginLostError,
    LoginStoreError,
    MemoryStore,
    PendingLogin,
    StateMismatchError,
    UnknownLoginError,
)
from openrouter_async.login._records import KeyRecord, digest
from openrouter_async.login.stores import Claim, ClaimRequest, LeaseItem, LoginStore
from openrouter_async.pkce import code_challenge
from tests.kit.clocks import FakeClock, WallClock
from tests.kit.gates import Gate
from tests.kit.servers import ScriptedServer, json_answer
from tests.login.support import (
    BINDING,
    BROKEN,
    BUSY,
    CALLBACK,
    GRANTED,
    KEY,
    NOW,
    ONCE,
    REFUSED,
    back,
    jar,
    verifier_of,
)
from tests.support import free_port

if TYPE_CHECKING:
    from openrouter_async.testing import FakeOpenRouter


@contextlib.asynccontextmanager
async def flowing(
    *answers: bytes, store: LoginStore | None = None, client: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[tuple[AuthorizationFlow, ScriptedServer]]:
    async with (
        ScriptedServer(*answers) as server,
        OpenRouter(None, base_url=server.base_url, retry=ONCE, **client or {}) as made,
    ):
        flow = AuthorizationFlow(made, callback_url=CALLBACK, store=store, **settings)
        yield flow, server
        await flow.aclose()


# The whole way, against the fake OpenRouter, with every store.


async def test_flow_signs_a_user_in(fake: FakeOpenRouter, client: OpenRouter, store: LoginStore) -> None:
    flow = AuthorizationFlow(client, callback_url=CALLBACK, store=store)

    pending = await flow.start(key_label="My app", context={"user": 7}, return_to="/settings", binding=BINDING)
    grant = await flow.finish(fake.consent(pending.url), binding=BINDING, cookies=jar(pending.cookie))

    assert grant.key.startswith("sk-or-v1-")
    assert grant.key_hash == hashlib.sha256(grant.key.encode()).hexdigest()
    assert grant.logs_url == f"https://openrouter.ai/logs?api_key_hash={grant.key_hash}"
    assert grant.settings_url == f"https://openrouter.ai/keys/{grant.key_hash}"
    assert grant.user_id
    assert grant.context == {"user": 7}
    assert grant.return_to == "/settings"
    assert len(fake.issued_keys) == 1


async def test_flow_signs_a_user_in_without_a_callback(
    fake: FakeOpenRouter, client: OpenRouter, store: LoginStore
) -> None:
    flow = AuthorizationFlow(client, store=store)

    pending = await flow.start(headless=True, key_label="My bot", binding=12345)
    code = fake.consent(pending.url)
    grant = await flow.finish_code(pending.state, f" {code}\n", binding=12345, cookies=jar(pending.cookie))

    assert pending.headless
    assert set(URL(pending.url).query) == {"code_challenge", "code_challenge_method", "key_label"}
    assert grant.key.startswith("sk-or-v1-")


async def test_finish_concurrent_or_repeated_gives_one_grant(
    fake: FakeOpenRouter, client: OpenRouter, store: LoginStore
) -> None:
    flow = AuthorizationFlow(client, callback_url=CALLBACK, store=store)
    pending = await flow.start(binding=BINDING)
    callback, cookies = fake.consent(pending.url), jar(pending.cookie)

    grants = await asyncio.gather(*(flow.finish(callback, binding=BINDING, cookies=cookies) for _ in range(5)))
    grants.append(await flow.finish(callback, binding=BINDING, cookies=cookies))

    assert len({grant.key for grant in grants}) == 1
    assert len(fake.issued_keys) == 1


@pytest.mark.unmeasured
async def test_flow_gives_each_of_many_users_their_own_key(
    fake: FakeOpenRouter, client: OpenRouter, store: LoginStore
) -> None:
    flow = AuthorizationFlow(client, callback_url=CALLBACK, store=store)

    async def sign_in(number: int) -> Grant:
        pending = await flow.start(context=number, binding=number)
        return await flow.finish(fake.consent(pending.url), binding=number, cookies=jar(pending.cookie))

    grants = await asyncio.gather(*(sign_in(number) for number in range(40)))

    assert [grant.context for grant in grants] == list(range(40))
    assert len({grant.key for grant in grants}) == 40


async def test_flow_with_a_plain_challenge_signs_in(fake: FakeOpenRouter, client: OpenRouter) -> None:
    flow = AuthorizationFlow(client, callback_url=CALLBACK, code_challenge_method="plain")

    pending = await flow.start(binding=BINDING)

    assert URL(pending.url).query["code_challenge_method"] == "plain"
    assert (await flow.finish(fake.consent(pending.url), binding=BINDING)).key


# The start.


async def test_start_url_has_state_in_path_and_query_and_the_stored_challenge() -> None:
    store = Spy()
    async with flowing(GRANTED, store=store, client={"clock": WallClock().clock}) as (flow, _):
        pending = await flow.start(binding=BINDING, limit=5, key_label="My app")

    query = parse_qs(urlsplit(pending.url).query)
    (held,) = store.held
    assert query["callback_url"] == [CALLBACK.replace("{state}", pending.state)]
    assert query["state"] == [pending.state]
    assert query["code_challenge"] == [code_challenge(verifier_of(held))]
    assert query["code_challenge_method"] == ["S256"]
    assert query["limit"] == ["5"]
    assert query["key_label"] == ["My app"]
    assert pending.expires_at == datetime.fromtimestamp(NOW + 600, UTC)
    assert verifier_of(held) not in repr(pending) + pending.url + pending.state


async def test_finish_sends_the_code_with_its_verifier_and_method() -> None:
    store = Spy()
    async with flowing(GRANTED, store=store) as (flow, server):
        pending = await flow.start()
        await flow.finish(back(pending))

    (held,), (request,) = store.held, server.requests
    assert json.loads(request.partition(b"\r\n\r\n")[2]) == {
        "code": "the-code",
        "code_verifier": verifier_of(held),
        "code_challenge_method": "S256",
    }


async def test_state_has_256_bits_and_never_repeats() -> None:
    async with flowing(GRANTED) as (flow, _):
        states = {(await flow.start()).state for _ in range(500)}

    assert len(states) == 500
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", state) for state in states)


async def test_flow_reprs_show_no_state_key_or_url() -> None:
    async with flowing(GRANTED) as (flow, _):
        pending = await flow.start(binding=BINDING)
        grant = await flow.finish(back(pending), binding=BINDING)

    assert repr(flow) == f"<AuthorizationFlow {CALLBACK} <MemoryStore 1/10000>>"
    shown = repr((flow, pending, grant))
    assert pending.state not in shown
    assert KEY not in shown


CONTEXT = "context: must be JSON of at most 1024 bytes"
ODD_BINDING = "binding: must be an int, or a string of 1 to 1024 characters"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"context": object()}, CONTEXT),
        ({"context": "x" * 1023}, CONTEXT),
        ({"context": float("nan")}, CONTEXT),
        ({"context": {1, 2}}, CONTEXT),
        ({"return_to": "https://evil.example"}, "return_to: "),
        ({"return_to": "//evil.example"}, "return_to: "),
        ({"binding": ""}, ODD_BINDING),
        ({"binding": True}, ODD_BINDING),
        ({"binding": b"bytes"}, ODD_BINDING),
        ({"binding": "x" * 1025}, ODD_BINDING),
        ({"key_label": "x" * 101}, "key_label: "),
        ({"limit": -1}, "limit: "),
    ],
)
async def test_start_invalid_arguments_are_refused_by_name(arguments: dict[str, Any], complaint: str) -> None:
    async with flowing(GRANTED) as (flow, _):
        with pytest.raises(RequestValidationError) as caught:
            await flow.start(**arguments)

    assert str(caught.value).startswith(complaint)
    assert str(caught.value) == complaint or complaint.endswith(": ")


async def test_start_arguments_at_their_limits_are_accepted() -> None:
    async with flowing(GRANTED) as (flow, _):
        pending = await flow.start(context="x" * 1022, binding="b" * 1024)
        assert (await flow.finish(back(pending), binding="b" * 1024)).context == "x" * 1022
        pending = await flow.start(context=[1] * 511, binding="b")
        assert (await flow.finish(back(pending), binding="b")).context == [1] * 511


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"callback_url": "http://app.example/"}, "callback_url"),
        ({"auth_url": "http://openrouter.ai/auth"}, "auth_url"),
        ({"code_challenge_method": "s256"}, "code_challenge_method"),
        ({"lifetime": 0}, "lifetime"),
        ({"result_lifetime": -1}, "result_lifetime"),
        ({"claim_ttl": 0}, "claim_ttl"),
        ({"busy_timeout": float("inf")}, "busy_timeout"),
    ],
)
async def test_flow_invalid_arguments_are_refused_by_name(arguments: dict[str, Any], field: str) -> None:
    async with OpenRouter(None) as client:
        with pytest.raises(RequestValidationError) as caught:
            AuthorizationFlow(client, **arguments)

    assert caught.value.field == field


async def test_flow_without_callback_url_starts_headless_logins_only() -> None:
    async with OpenRouter(None) as client:
        flow = AuthorizationFlow(client)
        with pytest.raises(RequestValidationError) as caught:
            await flow.start()
        assert str(caught.value) == "callback_url: must be given to the flow for logins that are not headless"
        assert (await flow.start(headless=True)).headless
        assert repr(flow) == "<AuthorizationFlow None <MemoryStore 1/10000>>"


async def test_start_headless_has_no_callback_though_the_flow_has_one() -> None:
    async with flowing(GRANTED) as (flow, _):
        pending = await flow.start(headless=True, binding=BINDING)
        grant = await flow.finish_code(pending.state, "the-code", binding=BINDING)

    assert set(URL(pending.url).query) == {"code_challenge", "code_challenge_method"}
    assert grant.key == KEY


@pytest.mark.parametrize(
    ("base_url", "page"),
    [
        ("https://openrouter.ai/api/v1", "https://openrouter.ai/auth"),
        ("http://127.0.0.1:4010/api/v1/", "http://127.0.0.1:4010/auth"),
        ("https://gateway.example/tools/api/v1", "https://gateway.example/tools/auth"),
        ("https://gateway.example", "https://gateway.example/auth"),
    ],
)
async def test_flow_without_auth_url_uses_page_beside_base_url(base_url: str, page: str) -> None:
    async with OpenRouter(None, base_url=base_url) as client:
        pending = await AuthorizationFlow(client).start(headless=True)
    assert pending.url.partition("?")[0] == page


async def test_flow_with_base_url_of_environment_uses_its_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENROUTER_BASE_URL", "http://127.0.0.1:4010/api/v1")
    async with OpenRouter(None) as client:
        pending = await AuthorizationFlow(client).start(headless=True)
    assert pending.url.startswith("http://127.0.0.1:4010/auth?")


async def test_flow_auth_url_can_be_another_host() -> None:
    async with flowing(GRANTED, auth_url="https://gateway.example/auth") as (flow, _):
        assert (await flow.start()).url.startswith("https://gateway.example/auth?")


async def test_finish_code_with_a_url_of_another_login_is_refused_by_its_path() -> None:
    async with flowing(GRANTED) as (flow, server):
        pending, other = await flow.start(binding=BINDING), await flow.start(binding=BINDING)
        with pytest.raises(StateMismatchError):
            await flow.finish_code(
                pending.state, f"https://app.example/callback/{other.state}?code=the-code", binding=BINDING
            )

    assert not server.requests


async def test_context_comes_back_as_json_carries_it() -> None:
    async with flowing(GRANTED) as (flow, _):
        context: dict[str, Any] = {"a": (1, 2)}
        pending = await flow.start(context=context)
        context["a"] = "changed"
        grant = await flow.finish(back(pending))

    assert grant.context == {"a": [1, 2]}


# Callbacks that come again, or late. Attacks are in test_attacks.


async def test_finish_repeated_without_a_binding_gets_nothing() -> None:
    gate = Gate()
    async with flowing(GRANTED, client={"middlewares": [gate]}) as (flow, server):
        pending = await flow.start()
        first = asyncio.create_task(flow.finish(back(pending)))
        await gate.reached.wait()
        with pytest.raises(LoginAlreadyUsedError) as busy:
            await flow.finish(back(pending))
        gate.let()
        assert (await first).key == KEY
        with pytest.raises(LoginAlreadyUsedError) as over:
            await flow.finish(back(pending))

    assert str(busy.value) == "the login is being finished by another callback"
    assert str(over.value) == "the login is over"
    assert len(server.requests) == 1


async def test_finish_needs_the_binding_and_the_store_of_its_start() -> None:
    async with flowing(GRANTED) as (flow, server):
        pending = await flow.start(binding=BINDING)
        with pytest.raises(LoginBindingError) as elsewhere:
            await flow.finish(back(pending), binding="another")
        with pytest.raises(UnknownLoginError) as unknown:
            await flow.finish(f"/callback/{'s' * 43}?code=the-code", binding=BINDING)

    assert str(elsewhere.value) == "the login was started in another browser or chat"
    assert str(unknown.value) == "there is no such login, it has expired, or it was started in another browser"
    assert not server.requests


async def test_finish_of_a_finished_login_with_another_code_gets_nothing() -> None:
    async with flowing(GRANTED) as (flow, server):
        pending = await flow.start(binding=BINDING, return_to="/settings")
        await flow.finish(back(pending), binding=BINDING)
        with pytest.raises(LoginAlreadyUsedError) as caught:
            await flow.finish(back(pending, code="another-code"), binding=BINDING)
        assert str(caught.value) == "the login is over, and its grant is not for this callback"
        assert caught.value.return_to == "/settings"
        with pytest.raises(LoginAlreadyUsedError):
            await flow.finish(f"/callback/{pending.state}?error=access_denied", binding=BINDING)

    assert len(server.requests) == 1


async def test_finish_uses_the_clients_clock_for_expiry() -> None:
    time = WallClock()
    async with flowing(GRANTED, client={"clock": time.clock}) as (flow, server):
        pending = await flow.start(binding=BINDING, return_to="/settings")
        time.now += 600
        with pytest.raises(LoginExpiredError) as caught:
            await flow.finish(back(pending), binding=BINDING)
        with pytest.raises(LoginAlreadyUsedError):
            await flow.finish(back(pending), binding=BINDING)

    assert str(caught.value) == "the login took longer than its lifetime"
    assert caught.value.return_to == "/settings"
    assert "too long" in caught.value.user_message
    assert not server.requests


async def test_finish_in_the_last_second_of_a_login_succeeds() -> None:
    time = WallClock()
    async with flowing(GRANTED, clock=time.clock) as (flow, _):
        pending = await flow.start()
        time.now += 599.9
        assert (await flow.finish(back(pending))).key == KEY


async def test_store_gets_a_code_only_as_a_digest_keyed_by_the_state() -> None:
    store = Spy()
    async with flowing(GRANTED, store=store) as (flow, _):
        pending = await flow.start(binding=BINDING)
        await flow.finish(back(pending), binding=BINDING)

    assert [KeyRecord.from_json(result).code for result in store.results] == [digest(pending.state, "code", "the-code")]


async def test_finish_result_is_kept_for_result_ttl() -> None:
    time = WallClock()
    async with flowing(GRANTED, client={"clock": time.clock}) as (flow, server):
        pending = await flow.start(binding=BINDING)
        await flow.finish(back(pending), binding=BINDING)
        time.now += 59
        assert (await flow.finish(back(pending), binding=BINDING)).key == KEY
        time.now += 1
        with pytest.raises(LoginAlreadyUsedError):
            await flow.finish(back(pending), binding=BINDING)

    assert len(server.requests) == 1


async def test_binding_of_any_text_is_compared() -> None:
    async with flowing(GRANTED) as (flow, _):
        pending = await flow.start(binding="\udcff é")
        with pytest.raises(LoginBindingError):
            await flow.finish(back(pending), binding="\udcfe é")
        assert (await flow.finish(back(pending), binding="\udcff é")).key == KEY


# When OpenRouter sends no code.


async def test_finish_denied_ends_the_login_and_returns_its_context() -> None:
    async with flowing(GRANTED) as (flow, server):
        pending = await flow.start(context={"user": 7}, return_to="/settings", binding=BINDING)
        with pytest.raises(AuthorizationDeniedError) as caught:
            await flow.finish(f"/callback/{pending.state}?error=access_denied", binding=BINDING)
        with pytest.raises(LoginAlreadyUsedError):
            await flow.finish(back(pending), binding=BINDING)

    assert caught.value.context == {"user": 7}
    assert caught.value.return_to == "/settings"
    assert caught.value.user_message == "You cancelled the sign-in."
    assert caught.value.outcome is Outcome.REFUSED
    assert not server.requests


async def test_finish_denied_without_state_touches_no_login() -> None:
    async with flowing(GRANTED) as (flow, _):
        pending = await flow.start()
        with pytest.raises(AuthorizationDeniedError) as caught:
            await flow.finish("?error=access_denied")
        assert (await flow.finish(back(pending))).key == KEY

    assert caught.value.error == "access_denied"
    assert caught.value.context is None


async def test_finish_with_another_error_is_not_a_denial() -> None:
    async with flowing(GRANTED) as (flow, _):
        pending = await flow.start()
        with pytest.raises(AuthorizationError, match="the error server_error") as caught:
            await flow.finish(f"/callback/{pending.state}?error=server_error")

    assert type(caught.value) is AuthorizationError


async def test_finish_with_an_unknown_error_keeps_and_hides_its_code() -> None:
    async with flowing(GRANTED) as (flow, _):
        pending = await flow.start()
        with pytest.raises(AuthorizationError) as caught:
            await flow.finish(f"/callback/{pending.state}?error=anything.at_all")

    assert str(caught.value) == "OpenRouter sent the user back with an error"
    assert caught.value.error == "anything.at_all"


# The state of a login after a failed exchange.


async def test_finish_when_nothing_was_sent_releases_the_login(caplog: pytest.LogCaptureFixture) -> None:
    async with OpenRouter(None, base_url=f"http://127.0.0.1:{free_port()}/api/v1", retry=ONCE) as unreachable:
        async with flowing(GRANTED, store=(store := MemoryStore())) as (good, server):
            bad = AuthorizationFlow(unreachable, callback_url=CALLBACK, store=store)
            pending = await bad.start(binding=BINDING)
            with pytest.raises(TransportError) as caught:
                await bad.finish(back(pending), binding=BINDING)
            grant = await good.finish(back(pending), binding=BINDING)

    assert caught.value.outcome is Outcome.NOT_SENT
    assert grant.key == KEY
    assert server.codes == ["the-code"]
    assert caplog.messages == []


async def test_finish_when_openrouter_is_busy_releases_the_login(caplog: pytest.LogCaptureFixture) -> None:
    async with flowing(BUSY, GRANTED) as (flow, _):
        pending = await flow.start(binding=BINDING)
        with pytest.raises(TooManyRequestsResponseError):
            await flow.finish(back(pending), binding=BINDING)
        assert (await flow.finish(back(pending), binding=BINDING)).key == KEY
    assert caplog.messages == []


@pytest.mark.parametrize("status", [401, 404])
async def test_flow_refused_request_releases_the_login(status: int) -> None:
    async with flowing(json_answer(status, b'{"error": {"message": "No"}}'), GRANTED) as (flow, _):
        pending = await flow.start(binding=BINDING)
        with pytest.raises(APIError) as caught:
            await flow.finish(back(pending), binding=BINDING)
        assert (await flow.finish(back(pending), binding=BINDING)).key == KEY
    assert caught.value.outcome is Outcome.REFUSED


@pytest.mark.parametrize("answer", [BROKEN, json_answer(200, b"{}")])
async def test_finish_when_the_code_may_be_used_consumes_the_login(answer: bytes) -> None:
    async with flowing(answer, GRANTED) as (flow, server):
        pending = await flow.start(binding=BINDING)
        with pytest.raises(OpenRouterError) as caught:
            await flow.finish(back(pending), binding=BINDING)
        with pytest.raises(LoginAlreadyUsedError):
            await flow.finish(back(pending), binding=BINDING)

    assert caught.value.restart_login
    assert len(server.requests) == 1


async def test_finish_after_rejected_code_takes_another_code() -> None:
    async with flowing(REFUSED, GRANTED) as (flow, server):
        pending = await flow.start(binding=BINDING)
        with pytest.raises(APIError) as caught:
            await flow.finish(back(pending, code="somebody-elses"), binding=BINDING)
        grant = await flow.finish(back(pending, code="the-users"), binding=BINDING)

    assert caught.value.is_code_rejected
    assert caught.value.restart_login
    assert grant.key == KEY
    assert server.codes == ["somebody-elses", "the-users"]


async def test_finish_code_after_rejected_code_takes_another_code() -> None:
    async with flowing(REFUSED, GRANTED) as (flow, server):
        pending = await flow.start(headless=True, binding=BINDING)
        with pytest.raises(CodeRejectedError) as caught:
            await flow.finish_code(pending.state, "half-a-co", binding=BINDING)
        grant = await flow.finish_code(pending.state, "half-a-code", binding=BINDING)

    assert not caught.value.restart_login
    assert caught.value.outcome is Outcome.REFUSED
    assert "copy the whole code" in caught.value.user_message
    assert isinstance(caught.value.__cause__, APIError)
    assert grant.key == KEY
    assert server.codes == ["half-a-co", "half-a-code"]


async def test_finish_code_after_rejected_code_expires_as_before() -> None:
    time = WallClock()
    async with flowing(REFUSED, GRANTED, clock=time.clock) as (flow, server):
        pending = await flow.start(headless=True)
        with pytest.raises(CodeRejectedError):
            await flow.finish_code(pending.state, "half-a-code")
        time.now += 600
        with pytest.raises(LoginExpiredError):
            await flow.finish_code(pending.state, "a-whole-code")

    assert len(server.requests) == 1


async def test_finish_code_with_api_key_is_refused_unsent() -> None:
    async with flowing(GRANTED) as (flow, server):
        pending = await flow.start(headless=True)
        with pytest.raises(InvalidCallbackError, match="must not be an API key") as caught:
            await flow.finish_code(pending.state, f" '{KEY}' ")
        assert not server.requests
        assert (await flow.finish_code(pending.state, "the-code")).key == KEY

    assert not caught.value.restart_login
    assert "API key" in caught.value.user_message
    assert KEY not in repr(caught.value) + caught.value.user_message


async def test_finish_key_that_on_key_refused_is_in_the_error_after_a_reload_too() -> None:
    async def fail(*_: object) -> None:
        raise OSError("disk full")

    async with flowing(GRANTED, client={"on_key": fail}) as (flow, server):
        pending = await flow.start(binding=BINDING)
        for told in ("on_key raised OSError", "on_key raised when the login was finished"):
            with pytest.raises(KeyDeliveryError) as caught:
                await flow.finish(back(pending), binding=BINDING)
            assert str(caught.value) == f"{told}; the key is in .response"
            assert (caught.value.response.key, caught.value.response.user_id) == (KEY, "user_1")

    assert len(server.requests) == 1


async def test_finish_middleware_exception_propagates_and_consumes_the_login() -> None:
    async def fail(request: Request, call_next: Handler) -> Response:
        await call_next(request)
        raise ZeroDivisionError

    async with flowing(GRANTED, client={"middlewares": [fail]}) as (flow, server):
        pending = await flow.start(binding=BINDING)
        with pytest.raises(ZeroDivisionError):
            await flow.finish(back(pending), binding=BINDING)
        with pytest.raises(LoginAlreadyUsedError):
            await flow.finish(back(pending), binding=BINDING)

    assert len(server.requests) == 1


# When callers go away.


@pytest.mark.parametrize("after", [False, True], ids=["before it is sent", "after it is answered"])
async def test_finish_cancelled_leaves_the_grant_for_a_reload(after: bool, caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate(after=after)
    async with flowing(GRANTED, client={"middlewares": [gate]}) as (flow, server):
        pending = await flow.start(binding=BINDING)
        leaving = asyncio.create_task(flow.finish(back(pending), binding=BINDING))
        await gate.reached.wait()
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        reload = asyncio.create_task(flow.finish(back(pending), binding=BINDING))
        gate.let()

        assert (await reload).key == KEY
        assert (await flow.finish(back(pending), binding=BINDING)).key == KEY

    assert len(server.requests) == 1
    assert caplog.messages == [
        "the caller of a finished login was cancelled, and no on_key is set: only a reload gets its key"
    ]


async def test_finish_cancelled_with_a_saved_key_logs_no_loss(caplog: pytest.LogCaptureFixture) -> None:
    kept: list[str] = []

    async def keep(_: object, response: ExchangeAuthCodeForAPIKeyResponse) -> None:
        kept.append(response.key)

    gate = Gate()
    async with flowing(GRANTED, client={"middlewares": [gate], "on_key": keep}) as (flow, _):
        pending = await flow.start()
        leaving = asyncio.create_task(flow.finish(back(pending)))
        await gate.reached.wait()
        leaving.cancel()
        gate.let()
        await flow.aclose()

    assert kept == [KEY]
    assert not caplog.records


async def test_finish_failure_without_a_waiter_is_logged_without_secrets(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    async with flowing(REFUSED, client={"middlewares": [gate]}) as (flow, _):
        pending = await flow.start()
        leaving = asyncio.create_task(flow.finish(back(pending)))
        await gate.reached.wait()
        leaving.cancel()
        gate.let()
        await flow.aclose()

    assert caplog.messages == ["a login whose caller was cancelled failed: 403 Invalid code or code_verifier"]
    assert "the-code" not in caplog.text
    assert pending.state not in caplog.text


async def test_flow_aclose_is_bounded_in_time() -> None:
    gate = Gate()
    async with flowing(GRANTED, client={"middlewares": [gate]}) as (flow, _):
        pending = await flow.start()
        leaving = asyncio.create_task(flow.finish(back(pending)))
        await gate.reached.wait()
        leaving.cancel()

        await flow.aclose(timeout=0.01)
        assert not gate.is_open

        gate.let()


# When workers die, stall, or lose their store.


@pytest.fixture(params=["out of reach", "KeyError"])
def shown(request: pytest.FixtureRequest) -> str:
    """The parts of a store's failure that are logged: not the messages of foreign exceptions."""
    return str(request.param)


@pytest.fixture
def store_failure(shown: str) -> Exception:
    return KeyError("a secret") if shown == "KeyError" else LoginStoreError("out of reach")


class Spy(MemoryStore):
    """A store that can be watched, and made to fail."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[LeaseItem] = []
        self.results: list[bytes] = []
        self.claims: list[ClaimRequest] = []
        self.claimed = asyncio.Event()
        self.asked = asyncio.Event()
        self.fail: set[str] = set()
        self.failure: Exception = LoginStoreError("out of reach")

    async def put(self, item: LeaseItem, *, now: float) -> LoginCookie | None:
        self.held.append(item)
        return await super().put(item, now=now)

    async def claim(self, claim_request: ClaimRequest, *, now: float, claim_ttl: float) -> Claim:
        self.claims.append(claim_request)
        self.asked.set()
        if len(self.claims) > 2:
            self.claimed.set()
        self._check("claim")
        return await super().claim(claim_request, now=now, claim_ttl=claim_ttl)

    async def release(self, claim_request: ClaimRequest, *, now: float) -> None:
        self._check("release")
        await super().release(claim_request, now=now)

    async def finish(
        self, claim_request: ClaimRequest, result: bytes | None, *, now: float, result_ttl: float
    ) -> LoginCookie | None:
        self._check("finish")
        if result is not None:
            self.results.append(result)
        return await super().finish(claim_request, result, now=now, result_ttl=result_ttl)

    def _check(self, operation: str) -> None:
        if operation in self.fail:
            raise self.failure


async def die(flow: AuthorizationFlow, store: Spy, pending: PendingLogin, now: float = NOW) -> None:
    """Leave the store as a worker does that is killed during an exchange."""
    with pytest.raises(LoginBindingError):
        await flow.finish(back(pending), binding="a stranger, to learn what a claim_request looks like")
    (login,) = store.held
    dead = ClaimRequest(id=login.id, binding=login.binding, is_bound=True, token="dead")
    await store.claim(dead, now=now, claim_ttl=1)


async def test_finish_takes_over_the_login_of_a_dead_worker() -> None:
    time, store = WallClock(), Spy()
    async with flowing(GRANTED, store=store, clock=time.clock) as (flow, _):
        pending = await flow.start(binding=BINDING)
        await die(flow, store, pending)
        time.now += 1

        assert (await flow.finish(back(pending), binding=BINDING)).key == KEY


async def test_finish_after_a_dead_worker_used_the_code_is_unknown() -> None:
    time, store = WallClock(), Spy()
    async with flowing(REFUSED, store=store, clock=time.clock) as (flow, _):
        pending = await flow.start(binding=BINDING)
        await die(flow, store, pending)
        time.now += 1

        with pytest.raises(LoginLostError) as caught:
            await flow.finish(back(pending), binding=BINDING)
        with pytest.raises(LoginAlreadyUsedError):
            await flow.finish(back(pending), binding=BINDING)

    assert str(caught.value) == "the code was refused, but a worker died while it exchanged the code: a key may exist"
    assert caught.value.outcome is Outcome.UNKNOWN
    assert caught.value.restart_login
    assert "could not be confirmed" in caught.value.user_message
    assert isinstance(caught.value.__cause__, APIError)


async def test_finish_that_overtook_a_stalled_worker_gets_its_key() -> None:
    time, store = WallClock(), Spy()
    gate = Gate(after=True)
    async with (
        flowing(GRANTED, store=store, clock=time.clock, client={"middlewares": [gate]}) as (slow, _),
        flowing(REFUSED, store=store, clock=time.clock, client={"middlewares": [heir_gate := Gate(after=True)]}) as (
            heir,
            _,
        ),
    ):
        pending = await slow.start(binding=BINDING)
        stalled = asyncio.create_task(slow.finish(back(pending), binding=BINDING))
        await gate.reached.wait()
        time.now += 15
        overtaking = asyncio.create_task(heir.finish(back(pending), binding=BINDING))
        await heir_gate.reached.wait()
        gate.let()
        await stalled
        heir_gate.let()

        assert (await overtaking).key == KEY


@pytest.mark.parametrize("wait", [30, 0])
async def test_finish_that_was_overtaken_and_refused_gets_the_key_of_the_other(wait: float) -> None:
    time, store = WallClock(), Spy()
    gate, heir_gate = Gate(), Gate(after=True)
    async with (
        flowing(REFUSED, store=store, clock=time.clock, busy_timeout=wait, client={"middlewares": [gate]}) as (
            slow,
            _,
        ),
        flowing(GRANTED, store=store, clock=time.clock, client={"middlewares": [heir_gate]}) as (heir, _),
    ):
        pending = await slow.start(binding=BINDING)
        stalled = asyncio.create_task(slow.finish(back(pending), binding=BINDING))
        await gate.reached.wait()
        time.now += 15
        overtaking = asyncio.create_task(heir.finish(back(pending), binding=BINDING))
        await heir_gate.reached.wait()
        store.claimed.clear()
        gate.let()
        await store.claimed.wait()
        if not wait:
            with pytest.raises(LoginInProgressError) as caught:
                await stalled
            assert str(caught.value) == "another callback of the same login is still being processed"
            assert isinstance(caught.value.__cause__, APIError)
        heir_gate.let()
        assert (await overtaking).key == KEY
        if wait:
            assert (await stalled).key == KEY
        assert (await slow.finish(back(pending), binding=BINDING)).key == KEY


async def test_finish_overtaken_by_a_worker_that_died_does_not_blame_the_code() -> None:
    time, store, gate = WallClock(), Spy(), Gate()
    async with flowing(REFUSED, store=store, clock=time.clock, client={"middlewares": [gate]}) as (slow, _):
        pending = await slow.start(binding=BINDING)
        stalled = asyncio.create_task(slow.finish(back(pending), binding=BINDING))
        await gate.reached.wait()
        time.now += 15
        await die(slow, store, pending, time.now)
        time.now += 1
        gate.let()

        with pytest.raises(LoginLostError):
            await stalled
        with pytest.raises(LoginAlreadyUsedError):
            await slow.finish(back(pending), binding=BINDING)


async def test_finish_refusal_is_reported_although_the_store_is_unreachable() -> None:
    store, gate = Spy(), Gate(after=True)
    async with flowing(REFUSED, store=store, client={"middlewares": [gate]}) as (flow, _):
        pending = await flow.start(binding=BINDING)
        finishing = asyncio.create_task(flow.finish(back(pending), binding=BINDING))
        await gate.reached.wait()
        store.fail |= {"claim", "finish"}
        gate.let()

        with pytest.raises(APIError) as caught:
            await finishing

    assert caught.value.is_code_rejected


async def test_finish_renews_its_claim_during_the_exchange(
    store_failure: Exception, shown: str, caplog: pytest.LogCaptureFixture
) -> None:
    store, gate = Spy(), Gate()
    store.failure = store_failure
    async with flowing(GRANTED, store=store, claim_ttl=0.03, client={"middlewares": [gate]}) as (flow, _):
        pending = await flow.start(binding=BINDING)
        finishing = asyncio.create_task(flow.finish(back(pending), binding=BINDING))
        await gate.reached.wait()
        store.fail.add("claim")
        await store.claimed.wait()
        store.fail.clear()
        store.claimed.clear()
        await store.claimed.wait()
        gate.let()

        assert (await finishing).key == KEY
    assert len({claim_request.token for claim_request in store.claims}) == 1
    assert set(caplog.messages) == {f"a claim could not be renewed: {shown}"}
    assert "secret" not in caplog.text


async def test_finish_renews_its_claim_before_the_lease_ends() -> None:
    store, gate, lease = Spy(), Gate(), 1.5
    async with flowing(GRANTED, store=store, claim_ttl=lease, client={"middlewares": [gate]}) as (flow, _):
        pending = await flow.start(binding=BINDING)
        finishing = asyncio.create_task(flow.finish(back(pending), binding=BINDING))
        await gate.reached.wait()
        async with asyncio.timeout(lease):
            while len(store.claims) < 2:
                await store.asked.wait()
                store.asked.clear()
        gate.let()
        await finishing


async def test_finish_beyond_busy_timeout_says_to_come_again() -> None:
    gate = Gate()
    async with flowing(GRANTED, busy_timeout=0, client={"middlewares": [gate]}) as (flow, _):
        pending = await flow.start(binding=BINDING)
        first = asyncio.create_task(flow.finish(back(pending), binding=BINDING))
        await gate.reached.wait()
        with pytest.raises(LoginInProgressError) as caught:
            await flow.finish(back(pending), binding=BINDING)
        gate.let()
        await first

    assert str(caught.value) == "another callback of the same login is still being processed"
    assert not caught.value.restart_login
    assert "reload" in caught.value.user_message


async def test_finish_busy_timeout_defaults_to_half_a_minute() -> None:
    gate, clock = Gate(), FakeClock()
    async with flowing(GRANTED, claim_ttl=1000, client={"middlewares": [gate], "clock": clock.clock}) as (flow, _):
        pending = await flow.start(binding=BINDING)
        first = asyncio.create_task(flow.finish(back(pending), binding=BINDING))
        await gate.reached.wait()
        with pytest.raises(LoginInProgressError):
            await flow.finish(back(pending), binding=BINDING)
        gate.let()
        await first

    assert 30 <= sum(clock.waits) < 30.5
    assert clock.waits[0] == 0.05
    assert max(clock.waits) == 0.5
    assert clock.waits == sorted(clock.waits)


async def test_finish_gives_the_key_although_the_store_is_unreachable(
    store_failure: Exception, shown: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = Spy()
    store.failure = store_failure
    store.fail.add("finish")
    async with flowing(GRANTED, store=store) as (flow, _):
        pending = await flow.start(binding=BINDING)

        assert (await flow.finish(back(pending), binding=BINDING)).key == KEY
    assert caplog.messages == [f"the end of a claim could not be recorded: {shown}"]
    assert "secret" not in caplog.text


async def test_finish_gives_the_reason_although_the_store_is_unreachable(
    store_failure: Exception, shown: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = Spy()
    store.failure = store_failure
    store.fail.add("release")
    async with flowing(BUSY, store=store) as (flow, _):
        pending = await flow.start(binding=BINDING)

        with pytest.raises(TooManyRequestsResponseError):
            await flow.finish(back(pending), binding=BINDING)
    assert caplog.messages == [f"a claim could not be released, and stays until its lease ends: {shown}"]
    assert "secret" not in caplog.text


async def test_finish_with_an_unreachable_store_ends_no_login() -> None:
    store = Spy()
    async with flowing(GRANTED, store=store) as (flow, server):
        pending = await flow.start(binding=BINDING)
        store.fail.add("claim")
        with pytest.raises(LoginStoreError) as caught:
            await flow.finish(back(pending), binding=BINDING)
        assert not server.requests
        store.fail.clear()
        assert (await flow.finish(back(pending), binding=BINDING)).key == KEY

    assert not caught.value.restart_login


async def test_flow_exit_waits_for_the_login_of_a_cancelled_caller() -> None:
    gate = Gate()
    async with flowing(GRANTED, client={"middlewares": [gate]}) as (flow, server):
        async with flow:
            pending = await flow.start(binding=BINDING)
            leaving = asyncio.create_task(flow.finish(back(pending), binding=BINDING))
            await gate.reached.wait()
            leaving.cancel()
            gate.let()
        assert len(server.requests) == 1
        assert (await flow.finish(back(pending), binding=BINDING)).key == KEY
    assert len(server.requests) == 1


async def test_flow_cancelled_during_exit_leaves_nothing_running(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    async with flowing(GRANTED, client={"middlewares": [gate]}) as (flow, server):
        pending = await flow.start()
        leaving = asyncio.create_task(flow.finish(back(pending)))
        await gate.reached.wait()
        leaving.cancel()
        running = [task for task in asyncio.all_tasks() if "LoginCompleter._finish" in repr(task)]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, leaving, return_exceptions=True)

    assert not server.requests
    assert not caplog.records
