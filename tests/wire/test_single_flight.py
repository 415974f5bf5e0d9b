from __future__ import annotations

import asyncio
import logging
import sys
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import attrs
import pytest

from openrouter_async import (
    ExchangeAuthCodeForAPIKeyRequest,
    ExchangeAuthCodeForAPIKeyResponse,
    Handler,
    OpenRouter,
    Outcome,
    Request,
    RequestOptions,
    Response,
    RetryPolicy,
    errors,
)
from openrouter_async._http import single_flight as inflight
from openrouter_async._http.chain import SendState
from openrouter_async._http.single_flight import IF_NOT_SENT, SingleFlight
from tests.wire.audit import Audit
from tests.wire.clock import StoppedClock, passes, until
from tests.wire.server import (
    BEARER,
    OK,
    SECRET,
    Act,
    Wire,
    WireServer,
    code_of,
    drop,
    hang,
    status,
    verifier_of,
)

Exchanged = ExchangeAuthCodeForAPIKeyResponse


class Safe:
    """An ``on_key`` that remembers, and that can be told to wait or to fail."""

    def __init__(self, failure: BaseException | None = None) -> None:
        self.keys: dict[str, str] = {}
        self.failure = failure
        self.entered = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()

    async def __call__(self, request: ExchangeAuthCodeForAPIKeyRequest, response: Exchanged) -> None:
        self.entered.set()
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        self.keys[request.code] = response.key


class Gate:
    """An act that plays another when the test says so."""

    def __init__(self, act: Act = OK) -> None:
        self.asked = asyncio.Event()
        self.open = asyncio.Event()
        self._act = act
        self.act = Act("gate", act.fetches, self._play)

    async def _play(self, wire: Wire, real: bytes) -> None:
        self.asked.set()
        await self.open.wait()
        await self._act.play(wire, real)


@asynccontextmanager
async def serving(*acts: Act, **options: Any) -> AsyncIterator[tuple[WireServer, OpenRouter]]:
    async with WireServer(acts) as server:
        retry = options.pop("retry", RetryPolicy(initial_interval=0.001))
        async with OpenRouter(BEARER, base_url=server.base_url, retry=retry, **options) as client:
            yield server, client
        await server.until_closed()


def start(client: OpenRouter, number: int = 1, **fields: Any) -> asyncio.Task[Exchanged]:
    fields = {"code_verifier": verifier_of(number)} | fields
    return asyncio.ensure_future(client.oauth.exchange_auth_code_for_api_key(code=code_of(number), **fields))


async def cancel(task: asyncio.Task[Any], message: str | None = None) -> None:
    task.cancel(message)
    with pytest.raises(asyncio.CancelledError):
        await task


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [vars(record)["event"] for record in caplog.records if "event" in vars(record)]


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "event" in vars(record)]


# --- equal exchanges -----------------------------------------------------------------------------------------------


async def test_fifty_equal_calls_at_once_make_one_request_and_all_get_the_key() -> None:
    safe = Safe()
    async with serving(on_key=safe) as (server, client):
        responses = await asyncio.gather(*(start(client) for _ in range(50)))
    key = server.authority.issued[code_of(1)]
    assert [response.key for response in responses] == [key] * 50
    assert len(server.requests) == 1
    assert safe.keys == {code_of(1): key}


async def test_fifty_equal_calls_at_once_all_get_the_same_error_with_frames_of_their_own(audit: Audit) -> None:
    async with serving(status(403, message="Invalid code or code_verifier")) as (server, client):
        results = await asyncio.gather(*(start(client) for _ in range(50)), return_exceptions=True)
    assert len(server.requests) == 1
    error = results[0]
    assert isinstance(error, errors.ForbiddenResponseError)
    assert all(result is error for result in results)
    audit.read_error(error)
    # One caller's frames: its call, its join, and the exchange; not those of fifty.
    assert len(traceback.extract_tb(error.__traceback__)) < 12


async def test_what_differs_in_anything_is_never_shared() -> None:
    gate = Gate()
    async with serving(*[gate.act] * 7) as (server, client):
        calls = [
            start(client),
            start(client, code_verifier=verifier_of(2)),
            start(client, code_verifier=None),
            start(client, code_challenge_method="S256"),
            start(client, code_challenge_method=None),
            start(client, options=RequestOptions(timeout=20)),
            start(client.with_options(api_key=BEARER[:-1] + "c")),
        ]
        await until(lambda: len(server.requests) == 7)
        gate.open.set()
        results = await asyncio.gather(*calls, return_exceptions=True)
    # The code is used by the first that the server heard; none of the others got a key that is not theirs.
    assert sum(isinstance(result, Exchanged) for result in results) == 1
    assert sum(isinstance(result, errors.APIError) for result in results) == 6


async def test_an_exchange_that_is_over_is_not_shared() -> None:
    async with serving() as (server, client):
        await start(client)
        with pytest.raises(errors.BadRequestResponseError):
            await start(client)
    assert len(server.requests) == 2


async def test_a_caller_that_is_cancelled_takes_nothing_from_the_others() -> None:
    gate = Gate()
    async with serving(gate.act) as (server, client):
        calls = [start(client) for _ in range(5)]
        await gate.asked.wait()
        await cancel(calls[0])
        await cancel(calls[3])
        gate.open.set()
        assert {(await calls[number]).key for number in (1, 2, 4)} == {server.authority.issued[code_of(1)]}
    assert len(server.requests) == 1


# --- cancellation --------------------------------------------------------------------------------------------------


async def test_at_whichever_pass_of_the_loop_a_caller_is_cancelled_a_key_that_was_issued_is_kept() -> None:
    kept = sent = 0
    for count in range(60):
        safe = Safe()
        async with serving(on_key=safe) as (server, client):
            call = start(client)
            await passes(count)
            call.cancel()
            await asyncio.wait([call])
        assert safe.keys == server.authority.issued
        assert len(client.in_flight) == 0
        kept += len(safe.keys)
        sent += len(server.requests)
    # Both ends of the scale were met: cancelled before anything was sent, and after.
    assert 0 < kept == sent < 60


async def test_a_call_that_is_given_up_before_it_was_written_is_not_written() -> None:
    # The same, over a connection that is there already, so that few passes lie between call and write.
    for count in range(20):
        safe = Safe()
        async with serving(on_key=safe) as (server, client):
            await start(client)
            call = start(client, 2)
            await passes(count)
            call.cancel()
            await asyncio.wait([call])
        assert safe.keys == server.authority.issued


async def test_a_cancelled_caller_is_free_at_once_and_the_key_reaches_its_safe_place() -> None:
    gate, safe = Gate(), Safe()
    async with serving(gate.act, on_key=safe) as (server, client):
        call = start(client)
        await gate.asked.wait()
        await cancel(call)
        assert safe.keys == {}
        gate.open.set()
        await safe.entered.wait()
    assert safe.keys == server.authority.issued


async def test_a_caller_that_is_cancelled_while_its_key_is_stored_does_not_disturb_that() -> None:
    safe = Safe()
    safe.open.clear()
    async with serving(on_key=safe) as (server, client):
        call = start(client)
        await safe.entered.wait()
        await cancel(call)
        safe.open.set()
    assert safe.keys == server.authority.issued


async def test_an_exchange_that_was_refused_for_now_ends_with_its_last_caller() -> None:
    clock = StoppedClock()
    async with serving(status(429), clock=clock.clock) as (server, client):
        call = start(client)
        await until(lambda: clock.sleeping == 1)
        await cancel(call)
        await passes()
        assert len(client.in_flight) == 0
    assert len(server.requests) == 1


@pytest.mark.parametrize("act", [status(500), drop(after=False)], ids=lambda act: act.name)
async def test_an_exchange_that_may_have_been_carried_out_goes_on_without_its_caller(act: Act) -> None:
    clock, safe = StoppedClock(), Safe()
    async with serving(act, clock=clock.clock, on_key=safe) as (server, client):
        call = start(client)
        await until(lambda: clock.sleeping == 1)
        await cancel(call)
        clock.advance(1)
        await safe.entered.wait()
    assert safe.keys == server.authority.issued
    assert len(server.requests) == 2


async def test_a_call_can_be_joined_again_after_its_first_caller_left() -> None:
    gate = Gate()
    async with serving(gate.act) as (server, client):
        first = start(client)
        await gate.asked.wait()
        await cancel(first)
        second = start(client)
        await passes()
        gate.open.set()
        assert (await second).key == server.authority.issued[code_of(1)]
    assert len(server.requests) == 1


async def test_a_key_that_nobody_can_take_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    async with serving(gate.act) as (_, client):
        call = start(client)
        await gate.asked.wait()
        await cancel(call)
        gate.open.set()
    assert events(caplog) == ["key_lost"]
    assert messages(caplog) == ["a key is lost: its caller was cancelled while it was on its way, and no on_key is set"]
    assert SECRET not in caplog.text


async def test_a_failure_that_nobody_sees_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate(status(403, message="Invalid code or code_verifier"))
    async with serving(gate.act) as (_, client):
        call = start(client)
        await gate.asked.wait()
        await cancel(call)
        gate.open.set()
    assert events(caplog) == ["unseen_failure"]
    assert messages(caplog) == ["an exchange whose caller was cancelled failed: 403 Invalid code or code_verifier"]


# --- on_key --------------------------------------------------------------------------------------------------------


async def test_no_caller_gets_a_key_that_is_not_in_its_safe_place() -> None:
    safe = Safe()
    safe.open.clear()
    async with serving(on_key=safe) as (server, client):
        calls = [start(client) for _ in range(3)]
        await safe.entered.wait()
        await passes(50)
        assert not any(call.done() for call in calls)
        safe.open.set()
        assert {(await call).key for call in calls} == set(safe.keys.values()) == set(server.authority.issued.values())


@pytest.mark.parametrize(
    "failure", [LookupError("the database is gone"), asyncio.CancelledError(), TimeoutError()], ids=repr
)
async def test_when_the_safe_place_fails_the_error_says_so_and_hands_the_key_over(
    failure: BaseException, audit: Audit
) -> None:
    safe = Safe(failure)
    async with serving(on_key=safe) as (server, client):
        calls = [start(client) for _ in range(3)]
        await asyncio.wait(calls)
        for call in calls:
            error = call.exception()
            assert isinstance(error, errors.KeyDeliveryError)
            assert error.response.key == server.authority.issued[code_of(1)]
            assert str(error) == f"on_key raised {type(failure).__name__}; the key is in .response"
            assert error.__cause__ is failure
            assert error.outcome is Outcome.COMPLETED
            assert error.attempts == 1
            audit.read_error(error)


async def test_a_key_that_neither_caller_nor_safe_place_took_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    safe = Safe(LookupError("the database is gone"))
    safe.open.clear()
    async with serving(on_key=safe) as (_, client):
        call = start(client)
        await safe.entered.wait()
        await cancel(call)
        safe.open.set()
    assert events(caplog) == ["key_lost"]
    assert messages(caplog) == [
        "a key is lost: its caller was cancelled, and on_key raised LookupError; the key is in .response"
    ]


# --- closing -------------------------------------------------------------------------------------------------------


async def test_closing_waits_for_what_is_on_its_way_and_refuses_what_is_new() -> None:
    gate, safe = Gate(), Safe()
    async with serving(gate.act, on_key=safe) as (server, client):
        call = start(client)
        await gate.asked.wait()
        closing = asyncio.ensure_future(client.aclose())
        await passes()
        with pytest.raises(errors.ClientClosedError):
            await start(client, 2)
        assert not closing.done()
        gate.open.set()
        await closing
        assert (await call).key == server.authority.issued[code_of(1)]
    assert len(server.requests) == 1


async def test_closing_is_bounded_in_time_and_callers_are_told_what_is_known(
    audit: Audit, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(hang(after=True)) as (server, client):
        call = start(client)
        await until(lambda: len(server.requests) == 1)
        await client.aclose(timeout=0.01)
        with pytest.raises(errors.ClientClosedError) as caught:
            await call
        assert str(caught.value) == "the client was closed before the exchange ended"
        assert caught.value.outcome is Outcome.UNKNOWN
        audit.read_error(caught.value)
        assert len(client.in_flight) == 0
    (record,) = caplog.records
    assert vars(record)["event"] == "cut_off"
    assert vars(record)["exchanges"] == 1
    assert record.getMessage() == "the client was closed with 1 exchange(s) still on their way"


async def test_a_call_that_closing_ends_before_it_was_sent_was_not_sent() -> None:
    waiting = asyncio.Event()

    async def wait(request: Request, call_next: Handler) -> Response:
        waiting.set()
        await asyncio.Event().wait()
        raise AssertionError("never reached")

    async with serving(middlewares=[wait]) as (server, client):
        call = start(client)
        await waiting.wait()
        await client.aclose(timeout=0)
        with pytest.raises(errors.ClientClosedError) as caught:
            await call
        assert caught.value.outcome is Outcome.NOT_SENT
    assert server.requests == []


async def test_a_call_whose_first_step_never_came_is_ended_too() -> None:
    async with serving() as (server, client):
        call = start(client)
        await asyncio.sleep(0)
        await client.aclose(timeout=0)
        with pytest.raises(errors.ClientClosedError) as caught:
            await call
        assert caught.value.outcome is Outcome.NOT_SENT
    assert server.requests == []


async def test_a_key_whose_storing_takes_too_long_is_handed_over_when_the_client_closes() -> None:
    safe = Safe()
    safe.open.clear()
    async with serving(on_key=safe) as (server, client):
        call = start(client)
        await safe.entered.wait()
        await client.aclose(timeout=0)
        with pytest.raises(errors.KeyDeliveryError, match="on_key raised CancelledError") as caught:
            await call
        assert caught.value.response.key == server.authority.issued[code_of(1)]


async def test_closing_waits_for_what_is_being_cancelled() -> None:
    cleaned = asyncio.Event()

    async def tidy(request: Request, call_next: Handler) -> Response:
        try:
            await asyncio.Event().wait()
        finally:
            await passes()
            cleaned.set()
        raise AssertionError("never reached")

    async with serving(middlewares=[tidy]) as (_, client):
        call = start(client)
        await passes(3)
        await cancel(call)
        assert not cleaned.is_set()
        await client.aclose()
        assert cleaned.is_set()


async def test_what_does_not_let_itself_be_cancelled_does_not_hold_up_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inflight, "_CANCEL_TIMEOUT", 0.01)
    release = asyncio.Event()

    async def stubborn(request: Request, call_next: Handler) -> Response:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        raise LookupError

    async with serving(middlewares=[stubborn]) as (_, client):
        call = start(client)
        await passes(3)
        await client.aclose(timeout=0)
        with pytest.raises(errors.ClientClosedError):
            await call
        release.set()
        await passes()


async def test_a_call_that_waited_for_its_bearer_token_while_the_client_was_closed_is_not_sent() -> None:
    vault: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def fetch() -> str:
        return await vault

    async with WireServer() as server:
        client = OpenRouter(fetch, base_url=server.base_url)
        call = start(client)
        await passes()
        await client.aclose()
        vault.set_result(BEARER)
        with pytest.raises(errors.ClientClosedError, match="the client is closed"):
            await call
    assert server.requests == []


async def test_a_call_over_a_borrowed_session_still_ends_in_time_when_its_client_is_closed() -> None:
    async with WireServer([hang(after=False)]) as server, aiohttp.ClientSession() as session:
        client = OpenRouter(BEARER, base_url=server.base_url, session=session, timeout=0.05, retry=RetryPolicy.none())
        call = asyncio.ensure_future(client.oauth.create_auth_code(callback_url="https://app.example/"))
        await until(lambda: len(server.requests) == 1)
        await client.aclose()
        async with asyncio.timeout(10):
            with pytest.raises(errors.RequestTimeoutError):
                await call


# --- patient callers -----------------------------------------------------------------------------------------------


@attrs.define
class Exchange:
    """An exchange that the test drives by hand."""

    send_state: SendState | None = None
    result: asyncio.Future[str] = attrs.field(factory=lambda: asyncio.get_running_loop().create_future())

    async def start(self, send_state: SendState) -> str:
        self.send_state = send_state
        return await self.result


@pytest.fixture
async def flights() -> AsyncIterator[SingleFlight[str]]:
    made: SingleFlight[str] = SingleFlight()
    yield made
    await made.drain(0)


async def under_way(flights: SingleFlight[str], *, pending: bool) -> tuple[Exchange, asyncio.Task[str]]:
    exchange = Exchange()
    caller = asyncio.ensure_future(flights.join("key", exchange.start))
    await passes(3)
    assert exchange.send_state is not None
    exchange.send_state.maybe_processed = pending
    return exchange, caller


async def test_a_patient_caller_gets_what_may_have_been_carried_out(flights: SingleFlight[str]) -> None:
    exchange, caller = await under_way(flights, pending=True)
    caller.cancel(IF_NOT_SENT)
    await passes()
    assert not caller.done()
    exchange.result.set_result("result")
    assert await caller == "result"
    assert caller.cancelling() == 0


async def test_a_patient_caller_can_leave_when_nothing_was_sent(
    flights: SingleFlight[str], caplog: pytest.LogCaptureFixture
) -> None:
    exchange, caller = await under_way(flights, pending=False)
    await cancel(caller, IF_NOT_SENT)
    await passes()
    assert exchange.result.cancelled()
    assert len(flights) == 0
    assert events(caplog) == []


async def test_nothing_is_late_where_nothing_was_on_its_way() -> None:
    assert await SingleFlight[str]().drain(1) == 0


@pytest.mark.parametrize("between", [0, 10])
async def test_a_patient_caller_that_is_cancelled_again_leaves_and_the_exchange_goes_on(
    flights: SingleFlight[str], caplog: pytest.LogCaptureFixture, between: int
) -> None:
    exchange, caller = await under_way(flights, pending=True)
    caller.cancel(IF_NOT_SENT)
    await passes(between)
    await cancel(caller)
    assert caller.cancelling() == (1 if between else 2)
    exchange.result.set_result("result")
    await passes()
    assert len(flights) == 0
    assert events(caplog) == ["key_lost"]


@pytest.mark.parametrize("message", [IF_NOT_SENT, None])
async def test_a_caller_that_is_cancelled_in_the_pass_in_which_its_key_came(
    flights: SingleFlight[str], caplog: pytest.LogCaptureFixture, message: str | None
) -> None:
    exchange = Exchange()
    caller = asyncio.ensure_future(flights.join("key", exchange.start))
    await passes(3)
    exchange.result.set_result("result")
    exchange.result.add_done_callback(lambda _: caller.cancel(message))
    await asyncio.wait([caller])
    if message:
        assert caller.result() == "result"
        assert events(caplog) == []
    else:
        assert caller.cancelled()
        assert events(caplog) == ["key_lost"]


def many_under_way(
    flights: SingleFlight[str], result: asyncio.Future[str], *, number: int = 130
) -> list[asyncio.Task[str]]:
    async def wait(_: SendState) -> str:
        return await result

    return [asyncio.ensure_future(flights.join(key, wait)) for key in range(number)]


async def test_callers_whose_exchanges_end_at_once_go_on_together(flights: SingleFlight[str]) -> None:
    result: asyncio.Future[str] = asyncio.Future()
    callers = many_under_way(flights, result, number=100)
    await passes()
    result.set_result("result")
    await passes(3)
    assert [caller.result() for caller in callers] == ["result"] * 100


async def test_callers_of_many_exchanges_that_end_at_once_go_on_a_few_at_a_time(flights: SingleFlight[str]) -> None:
    result: asyncio.Future[str] = asyncio.Future()
    callers = many_under_way(flights, result)
    await passes()
    result.set_result("result")
    counts = []
    while not all(caller.done() for caller in callers):
        await passes(1)
        counts.append(sum(caller.done() for caller in callers))
    assert [count for count in counts if count] == [*range(8, 130, 8), 130]
    assert [caller.result() for caller in callers] == ["result"] * 130


async def test_a_caller_that_is_cancelled_while_it_waits_for_its_turn(
    flights: SingleFlight[str], caplog: pytest.LogCaptureFixture
) -> None:
    result: asyncio.Future[str] = asyncio.Future()
    callers = many_under_way(flights, result)
    await passes()
    result.set_result("result")
    await passes(2)
    assert not callers[-1].done()
    await cancel(callers[-1])
    assert events(caplog) == ["key_lost"]
    assert await asyncio.gather(*callers[:-1]) == ["result"] * 129


def test_closing_lets_all_callers_go_on() -> None:
    callers: list[asyncio.Task[str]] = []

    async def close() -> None:
        flights = SingleFlight[str]()
        result: asyncio.Future[str] = asyncio.Future()
        callers.extend(many_under_way(flights, result))
        await passes()
        result.set_result("result")
        await flights.drain(1)

    # The loop ends with this, and would cancel those that it has not heard of.
    asyncio.run(close())
    assert [caller.result() for caller in callers] == ["result"] * 130


# --- what an exchange does by itself -------------------------------------------------------------------------------


async def test_a_cancellation_that_comes_from_a_middleware_reaches_the_callers_as_it_is() -> None:
    async def cancelled(request: Request, call_next: Handler) -> Response:
        raise asyncio.CancelledError

    async with serving(middlewares=[cancelled]) as (_, client):
        with pytest.raises(asyncio.CancelledError):
            await start(client)


# uvloop gives a factory more than the one of Python 3.13.0 takes.
@pytest.mark.asyncio(loop_factories=["asyncio"])
@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
@pytest.mark.parametrize("fails", [False, True])
async def test_an_exchange_that_is_over_at_once_in_a_loop_with_eager_tasks(fails: bool) -> None:
    async def cached(request: Request, call_next: Handler) -> Response:
        if fails:
            raise LookupError
        return Response(status_code=200, headers={}, body=b'{"key": "sk-or-v1-cached", "user_id": null}', elapsed=0)

    loop = asyncio.get_running_loop()
    factory: Callable[..., Any] = vars(asyncio)["eager_task_factory"]
    async with serving(middlewares=[cached]) as (_, client):
        loop.set_task_factory(factory)
        try:
            async with asyncio.timeout(10):
                if fails:
                    with pytest.raises(LookupError):
                        await start(client)
                else:
                    assert (await start(client)).key == "sk-or-v1-cached"
        finally:
            loop.set_task_factory(None)
        assert len(client.in_flight) == 0


async def test_exchanges_leave_no_task_and_no_entry_behind(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    before = asyncio.all_tasks()
    async with serving(*[OK, status(400), drop(after=True)] * 10) as (_, client):
        results = await asyncio.gather(*(start(client, number) for number in range(20)), return_exceptions=True)
        assert all(isinstance(result, (Exchanged, errors.OpenRouterError)) for result in results)
        assert len(client.in_flight) == 0
        assert client.in_flight._joinable == {}
        assert asyncio.all_tasks() - before == server_tasks()
    assert asyncio.all_tasks() == before
    assert caplog.records == []


def server_tasks() -> set[asyncio.Task[Any]]:
    return {task for task in asyncio.all_tasks() if "WireServer" in repr(task.get_coro())}
