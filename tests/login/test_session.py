"""Tests of `LoginSession`: one login, its state, and the changes of it."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import TYPE_CHECKING, Any

import pytest

from openrouter_async import Clock, OpenRouter, errors
from openrouter_async.login import (
    CodeRejectedError,
    InvalidCallbackError,
    KeyRefusedError,
    LoginCancelledError,
    LoginSession,
    LoginState,
    LoginStatus,
    LoginTimeoutError,
    LoopbackLogin,
)
from tests.kit.gates import Gate
from tests.kit.servers import ScriptedServer, json_answer
from tests.login.support import BUSY, GRANTED, KEY, REFUSED, logging_in
from tests.login.test_loopback import address, visit

if TYPE_CHECKING:
    from openrouter_async.testing import FakeOpenRouter

FORBIDDEN = json_answer(403, b'{"error": {"code": 403, "message": "IP address not allowed"}}')


async def collect(login: LoginSession) -> list[LoginState]:
    return [state async for state in login.events()]


async def test_session_is_finished_by_a_submitted_code(fake: FakeOpenRouter, client: OpenRouter) -> None:
    async with LoginSession(client, key_label="My app", limit=3) as login:
        assert login.status is LoginStatus.PENDING
        state = await login.submit(fake.consent(login.url))
        grant = await login.wait()
    (issued,) = fake.issued_keys
    assert (state.status, state.grant, state.error) == (LoginStatus.FINISHED, grant, None)
    assert (grant.key, issued.label, issued.limit) == (issued.key, "My app", 3)
    assert login.state is state


@pytest.mark.parametrize("kind", [LoginSession, LoopbackLogin])
async def test_session_stays_open_after_a_text_that_does_not_finish_it(kind: type[LoginSession]) -> None:
    async with logging_in(kind, REFUSED, BUSY, GRANTED) as (login, server):
        nonsense = await login.submit("two words")
        rejected = await login.submit("wrong-code")
        busy = await login.submit("the-code")
        assert [state.status for state in (nonsense, rejected, busy)] == ["pending"] * 3
        assert isinstance(nonsense.error, InvalidCallbackError)
        assert isinstance(rejected.error, CodeRejectedError)
        assert isinstance(busy.error, errors.TooManyRequestsResponseError)
        assert rejected.message == rejected.error.user_message
        assert (await login.submit("the-code")).status is LoginStatus.FINISHED
        assert (await login.wait()).key == KEY
    assert server.codes == ["wrong-code", "the-code", "the-code"]


async def test_session_that_is_over_sends_nothing_more() -> None:
    async with logging_in(LoginSession, GRANTED) as (login, server):
        over = await login.submit("the-code")
        assert await login.submit("another-code") is over
        assert not login.cancel()
        assert login.status is LoginStatus.FINISHED
    assert server.codes == ["the-code"]


async def test_session_fails_with_the_error_that_wait_raises() -> None:
    broken = json_answer(500, b"")
    async with logging_in(LoginSession, broken) as (login, _):
        state = await login.submit("the-code")
        assert state.status is LoginStatus.FAILED
        with pytest.raises(errors.InternalServerResponseError) as caught:
            await login.wait()
        assert caught.value is state.error
        assert state.to_dict()["error"]["outcome"] == "unknown"
        assert (await collect(login)) == [state]


async def test_session_whose_middleware_fails_says_nothing_of_it_to_the_user() -> None:
    async def fail(_request: object, _call_next: object) -> Any:
        raise ZeroDivisionError("secret detail")

    async with logging_in(LoginSession, GRANTED, client={"middlewares": [fail]}) as (login, _):
        state = await login.submit("the-code")
    assert isinstance(state.error, ZeroDivisionError)
    assert state.to_dict()["error"] == {
        "type": "urn:openrouter-async:sign-in-failed",
        "detail": "Something went wrong. Please try again.",
    }


async def test_cancel_ends_waiters_and_events_and_refuses_callbacks() -> None:
    async with logging_in(LoopbackLogin, GRANTED) as (login, server):
        assert isinstance(login, LoopbackLogin)
        waiting = [asyncio.create_task(login.wait()) for _ in range(2)]
        watching = asyncio.create_task(collect(login))
        await asyncio.sleep(0)
        assert login.cancel()
        assert not login.cancel()
        for task in waiting:
            with pytest.raises(LoginCancelledError):
                await task
        assert [state.status for state in await watching] == ["pending", "cancelled"]
        assert (await login.submit("the-code")).status is LoginStatus.CANCELLED
        assert (await visit(address(login))).status == 410
    assert not server.requests


async def test_leaving_an_open_session_cancels_it() -> None:
    async with logging_in(LoginSession, GRANTED) as (login, _):
        waiting = asyncio.create_task(login.wait())
        await asyncio.sleep(0)
    with pytest.raises(LoginCancelledError):
        await waiting
    assert login.status is LoginStatus.CANCELLED


async def test_closing_session_waits_for_the_exchange_and_its_waiters_get_the_key(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = Gate(after=True)
    async with logging_in(LoginSession, GRANTED, client={"middlewares": [gate]}) as (login, _):
        waiting = asyncio.create_task(login.wait())
        submitting = asyncio.create_task(login.submit("the-code"))
        await gate.reached.wait()
        closing = asyncio.create_task(login.aclose(timeout=60))
        await asyncio.sleep(0)
        assert not closing.done()
        gate.let()
        await closing
        assert (await waiting).key == KEY
        assert (await submitting).status is LoginStatus.FINISHED
    assert not caplog.records


async def test_closing_session_without_time_left_cancels_it_and_on_key_gets_the_key() -> None:
    gate, kept = Gate(after=True), list[str]()
    options = {"middlewares": [gate], "on_key": lambda _, response: kept.append(response.key)}
    async with logging_in(LoginSession, GRANTED, client=options) as (login, _):
        submitting = asyncio.create_task(login.submit("the-code"))
        await gate.reached.wait()
        await login.aclose(timeout=0)
        assert login.status is LoginStatus.CANCELLED
        gate.let()
        assert (await submitting).status is LoginStatus.CANCELLED
    assert kept == [KEY]


async def test_cancel_during_an_exchange_leaves_the_key_to_on_key() -> None:
    gate, kept = Gate(after=True), list[str]()
    options = {"middlewares": [gate], "on_key": lambda _, response: kept.append(response.key)}
    async with logging_in(LoginSession, GRANTED, client=options) as (login, _):
        submitting = asyncio.create_task(login.submit("the-code"))
        await gate.reached.wait()
        assert login.status is LoginStatus.EXCHANGING
        assert login.cancel()
        gate.let()
        state = await submitting
    assert (state.status, state.grant) == (LoginStatus.CANCELLED, None)
    assert kept == [KEY]


async def test_submit_continues_when_its_caller_is_cancelled() -> None:
    gate = Gate(after=True)
    async with logging_in(LoginSession, GRANTED, client={"middlewares": [gate]}) as (login, server):
        submitting = asyncio.create_task(login.submit("the-code"))
        await gate.reached.wait()
        submitting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await submitting
        gate.let()
        assert (await login.wait()).key == KEY
    assert len(server.requests) == 1


async def test_two_codes_at_once_leave_the_status_exchanging_until_both_are_answered() -> None:
    gate = Gate()
    async with logging_in(LoginSession, GRANTED, client={"middlewares": [gate]}) as (login, _):
        first = asyncio.create_task(login.submit("the-code"))
        await gate.reached.wait()
        stray = await login.submit("two words")
        assert stray.status is login.status is LoginStatus.EXCHANGING
        assert isinstance(stray.error, InvalidCallbackError)
        gate.let()
        assert (await first).status is LoginStatus.FINISHED


async def test_session_fails_when_its_lifetime_is_over() -> None:
    async with logging_in(LoginSession, GRANTED, lifetime=0.05) as (login, server):
        with pytest.raises(LoginTimeoutError):
            await login.wait(timeout=None)
        assert login.status is LoginStatus.FAILED
        assert login.to_dict()["error"]["type"] == "urn:openrouter-async:login-timeout"
    assert not server.requests


async def test_lifetime_does_not_cut_an_exchange_off() -> None:
    gate = Gate(after=True)
    slept = asyncio.Event()

    async def sleep(seconds: float) -> None:
        await slept.wait() if seconds == 600 else await asyncio.sleep(seconds)

    async with (
        ScriptedServer(GRANTED) as server,
        OpenRouter(None, base_url=server.base_url, middlewares=[gate]) as client,
    ):
        async with LoginSession(client, clock=Clock(sleep=sleep)) as login:
            submitting = asyncio.create_task(login.submit("the-code"))
            await gate.reached.wait()
            slept.set()
            await asyncio.sleep(0)
            assert login.status is LoginStatus.EXCHANGING
            gate.let()
            assert (await submitting).status is LoginStatus.FINISHED


async def test_events_of_several_consumers_begin_with_now_and_end_with_the_end() -> None:
    gate = Gate()
    async with logging_in(LoginSession, REFUSED, GRANTED, client={"middlewares": [gate]}) as (login, _):
        early = asyncio.create_task(collect(login))
        await asyncio.sleep(0)
        submitting = asyncio.create_task(login.submit("wrong-code"))
        await gate.reached.wait()
        late = asyncio.create_task(collect(login))
        await asyncio.sleep(0)
        gate.let()
        await submitting
        await login.submit("the-code")
        statuses = [[state.status.value for state in await task] for task in (early, late)]
    assert statuses == [
        ["pending", "exchanging", "pending", "exchanging", "finished"],
        ["exchanging", "pending", "exchanging", "finished"],
    ]


async def test_events_skip_states_but_never_the_last_one() -> None:
    async with logging_in(LoginSession, GRANTED) as (login, _):
        events = login.events()
        assert (await anext(events)).status is LoginStatus.PENDING
        await login.submit("the-code")
        assert [state.status async for state in events] == ["finished"]


async def test_to_dict_is_json_without_code_or_key() -> None:
    async with logging_in(LoginSession, GRANTED) as (login, _):
        before = json.loads(json.dumps(login.to_dict()))
        assert before == {
            "status": "pending",
            "user_id": None,
            "error": None,
            "url": login.url,
            "expires_at": login.pending.expires_at.isoformat(),
        }
        await login.submit("the-code")
        after = json.dumps(login.to_dict())
    assert json.loads(after)["status"] == "finished"
    assert json.loads(after)["user_id"] == "user_1"
    assert json.loads(after)["url"] is None
    assert KEY not in after + repr(login.state)
    assert "the-code" not in after


async def test_session_can_be_polled_from_another_thread() -> None:
    async with logging_in(LoginSession, GRANTED) as (login, _):
        seen: list[str] = []
        over = threading.Event()

        def poll() -> None:
            while not over.is_set():
                seen.append(login.to_dict()["status"])
            seen.append(login.to_dict()["status"])

        polling = threading.Thread(target=poll)
        polling.start()
        try:
            await login.submit("the-code")
        finally:
            over.set()
            await asyncio.to_thread(polling.join)
    assert set(seen) <= {"pending", "exchanging", "finished"}
    assert seen[-1] == "finished"


async def test_session_before_it_is_entered_has_no_url() -> None:
    async with OpenRouter(None) as client:
        login = LoginSession(client)
        assert login.status is LoginStatus.PENDING
        with pytest.raises(RuntimeError, match="async with"):
            _ = login.url


# A key that is dead on arrival.


async def test_verify_gives_the_state_of_a_new_key(fake: FakeOpenRouter, client: OpenRouter) -> None:
    async with LoginSession(client, verify=True, limit=7) as login:
        await login.submit(fake.consent(login.url))
        grant = await login.wait()
    assert grant.current_key is not None
    assert (grant.current_key.limit, grant.key_error) == (7, None)


async def test_verify_keeps_a_key_that_is_dead_on_arrival_and_says_so(fake: FakeOpenRouter) -> None:
    kept: list[str] = []

    def keep(_: object, response: Any) -> None:
        kept.append(response.key)
        fake.revoke(response.key)

    async with (
        OpenRouter(None, base_url=fake.base_url, on_key=keep) as client,
        LoginSession(client, verify=True) as login,
    ):
        state = await login.submit(fake.consent(login.url))
        grant = await login.wait()
    assert [grant.key] == kept
    assert isinstance(grant.key_error, KeyRefusedError)
    assert isinstance(grant.key_error.__cause__, errors.UnauthorizedResponseError)
    assert grant.key_error.outcome is errors.Outcome.REFUSED
    assert not grant.key_error.restart_login
    assert state.message is not None
    assert "maximum lifetime" in state.message
    assert login.to_dict()["error"]["type"] == "urn:openrouter-async:key-refused"
    assert grant.key not in repr(grant) + str(grant.key_error) + json.dumps(login.to_dict())


async def test_verify_tells_the_browser_that_the_key_cannot_be_used() -> None:
    async with logging_in(LoopbackLogin, GRANTED, FORBIDDEN, verify=True) as (login, _):
        assert isinstance(login, LoopbackLogin)
        page = await visit(address(login))
        grant = await login.wait()
    assert (page.status, grant.key) == (200, KEY)
    assert "allowed addresses" in page.text
    assert isinstance(grant.key_error, KeyRefusedError)


@pytest.mark.parametrize("answer", [BUSY, json_answer(500, b""), json_answer(200, b"nonsense")])
async def test_verify_without_an_answer_about_the_key_is_no_error(
    answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "openrouter_async.login")
    async with logging_in(LoginSession, GRANTED, answer, verify=True) as (login, server):
        await login.submit("the-code")
        grant = await login.wait()
    assert (grant.key, grant.current_key, grant.key_error) == (KEY, None, None)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert len(server.requests) == 2


async def test_without_verify_nothing_is_asked() -> None:
    async with logging_in(LoginSession, GRANTED) as (login, server):
        await login.submit("the-code")
    assert len(server.requests) == 1
