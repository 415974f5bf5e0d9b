from __future__ import annotations

import asyncio
import gc
import hashlib
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
from openrouter_async._http import single_flight
from openrouter_async._http.chain import SendState
from openrouter_async._http.single_flight import CallerGroup, SingleFlight
from tests.kit.clocks import StoppedClock, passes, until
from tests.kit.wire import BEARER, OK, SECRET, Act, HeldAct, WireServer, code_of, drop, hang, status, verifier_of
from tests.support import PATIENCE
from tests.wire.audit import Audit

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


DIGEST = hashlib.sha256(code_of(1).encode()).hexdigest()[:16]


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The messages of log records that have an event; each names the exchange by the digest of its code."""
    assert all(vars(record)["code_digest"] == DIGEST for record in caplog.records if "event" in vars(record))
    suffix = f" (code digest {DIGEST})"
    return [record.getMessage().removesuffix(suffix) for record in caplog.records if "event" in vars(record)]


# --- equal exchanges -----------------------------------------------------------------------------------------------


async def test_single_flight_fifty_equal_calls_make_one_request() -> None:
    safe = Safe()
    async with serving(on_key=safe) as (server, client):
        responses = await asyncio.gather(*(start(client) for _ in range(50)))
    key = server.authority.issued[code_of(1)]
    assert [response.key for response in responses] == [key] * 50
    assert len(server.requests) == 1
    assert safe.keys == {code_of(1): key}


async def test_single_flight_waiters_get_the_same_error_with_their_own_frames(audit: Audit) -> None:
    async with serving(status(403, message="Invalid code or code_verifier")) as (server, client):
        results = await asyncio.gather(*(start(client) for _ in range(50)), return_exceptions=True)
    assert len(server.requests) == 1
    error = results[0]
    assert isinstance(error, errors.ForbiddenResponseError)
    assert all(result is error for result in results)
    audit.read_error(error)
    # One caller's frames: its call, its join, and the exchange; not those of fifty.
    assert len(traceback.extract_tb(error.__traceback__)) < 12


async def test_single_flight_other_verifiers_or_methods_are_not_shared() -> None:
    gate = HeldAct()
    async with serving(*[gate.act] * 5) as (server, client):
        calls = [
            start(client),
            start(client, code_verifier=verifier_of(2)),
            start(client, code_verifier=None),
            start(client, code_challenge_method="S256"),
            start(client, code_challenge_method=None),
        ]
        await until(lambda: len(server.requests) == 5)
        gate.open.set()
        results = await asyncio.gather(*calls, return_exceptions=True)
    # The code is used by the first that the server heard; none of the others got a key that is not theirs.
    assert sum(isinstance(result, Exchanged) for result in results) == 1
    assert sum(isinstance(result, errors.APIError) for result in results) == 4


@pytest.mark.parametrize("differs", ["options", "bearer", "client"])
async def test_single_flight_other_tenant_is_told_that_the_code_was_used_here(differs: str) -> None:
    gate = HeldAct()
    async with serving(gate.act) as (server, client):
        others = {
            "options": client,
            "bearer": client.with_options(api_key=BEARER[:-1] + "c"),
            "client": client.with_options(headers={"X-Tenant": "2"}),
        }
        first = start(client)
        options = RequestOptions(headers={"X-Tenant": "2"}) if differs == "options" else None
        second = start(others[differs], options=options)
        await gate.asked.wait()
        await passes()
        assert len(server.requests) == 1
        gate.open.set()
        assert (await first).key == server.authority.issued[code_of(1)]
        with pytest.raises(errors.APIError, match="this process has exchanged the code already") as caught:
            await second
    assert caught.value.outcome is Outcome.UNKNOWN
    assert client.stats().failed[Outcome.UNKNOWN] == 1


async def test_single_flight_exchange_of_another_tenant_is_sent_after_a_refusal() -> None:
    async with serving(status(401)) as (server, client):
        first, second = start(client), start(client.with_options(api_key=BEARER[:-1] + "c"))
        with pytest.raises(errors.UnauthorizedResponseError):
            await first
        assert (await second).key == server.authority.issued[code_of(1)]
    assert len(server.requests) == 2


async def test_rejection_after_an_exchange_of_unknown_outcome_is_unknown() -> None:
    async with serving(drop(after=True), retry=RetryPolicy.none()) as (_, client):
        with pytest.raises(errors.TransportError):
            await start(client)
        with pytest.raises(errors.APIError, match="this process may have exchanged the code already") as caught:
            await start(client)
    assert caught.value.outcome is Outcome.UNKNOWN


async def test_remembered_codes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single_flight, "MAX_REMEMBERED", 2)
    async with serving() as (_, client):
        for number in range(1, 4):
            await start(client, number)
        assert len(client._shared.flights._exchanged) == 2


async def test_single_flight_finished_exchange_is_not_shared() -> None:
    async with serving() as (server, client):
        await start(client)
        with pytest.raises(
            errors.BadRequestResponseError, match="this process has exchanged the code already"
        ) as caught:
            await start(client)
    assert caught.value.outcome is Outcome.UNKNOWN
    assert len(server.requests) == 2


async def test_single_flight_cancelled_caller_leaves_the_others() -> None:
    gate = HeldAct()
    async with serving(gate.act) as (server, client):
        calls = [start(client) for _ in range(5)]
        await gate.asked.wait()
        await cancel(calls[0])
        await cancel(calls[3])
        gate.open.set()
        assert {(await calls[number]).key for number in (1, 2, 4)} == {server.authority.issued[code_of(1)]}
    assert len(server.requests) == 1


# --- cancellation --------------------------------------------------------------------------------------------------


async def test_exchange_cancelled_in_any_loop_pass_keeps_an_issued_key() -> None:
    kept = sent = 0
    for count in range(60):
        safe = Safe()
        async with serving(on_key=safe) as (server, client):
            call = start(client)
            await passes(count)
            call.cancel()
            await asyncio.wait([call])
        assert safe.keys == server.authority.issued
        assert client.stats().exchanges_in_flight == 0
        kept += len(safe.keys)
        sent += len(server.requests)
    # Both ends of the scale were met: cancelled before anything was sent, and after.
    assert 0 < kept == sent < 60


async def test_exchange_abandoned_before_it_was_written_is_not_written() -> None:
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


async def test_exchange_cancelled_returns_at_once_and_on_key_gets_the_key() -> None:
    gate, safe = HeldAct(), Safe()
    async with serving(gate.act, on_key=safe) as (server, client):
        call = start(client)
        await gate.asked.wait()
        await cancel(call)
        assert safe.keys == {}
        gate.open.set()
        await safe.entered.wait()
    assert safe.keys == server.authority.issued


async def test_exchange_cancelled_while_on_key_runs_lets_it_finish() -> None:
    safe = Safe()
    safe.open.clear()
    async with serving(on_key=safe) as (server, client):
        call = start(client)
        await safe.entered.wait()
        await cancel(call)
        safe.open.set()
    assert safe.keys == server.authority.issued


async def test_exchange_refused_for_now_ends_with_its_last_caller() -> None:
    clock = StoppedClock()
    async with serving(status(429), clock=clock.clock) as (server, client):
        call = start(client)
        await until(lambda: clock.sleeping == 1)
        await cancel(call)
        await passes()
        assert client.stats().exchanges_in_flight == 0
    assert len(server.requests) == 1


@pytest.mark.parametrize("act", [status(500), drop(after=False)], ids=lambda act: act.name)
async def test_exchange_possibly_processed_continues_without_its_caller(act: Act) -> None:
    clock, safe = StoppedClock(), Safe()
    async with serving(act, clock=clock.clock, on_key=safe) as (server, client):
        call = start(client)
        await until(lambda: clock.sleeping == 1)
        await cancel(call)
        clock.advance(1)
        await safe.entered.wait()
    assert safe.keys == server.authority.issued
    assert len(server.requests) == 2


async def test_single_flight_can_be_joined_after_its_first_caller_left() -> None:
    gate = HeldAct()
    async with serving(gate.act) as (server, client):
        first = start(client)
        await gate.asked.wait()
        await cancel(first)
        second = start(client)
        await passes()
        gate.open.set()
        assert (await second).key == server.authority.issued[code_of(1)]
    assert len(server.requests) == 1


async def test_exchange_key_without_a_taker_is_logged_as_lost(caplog: pytest.LogCaptureFixture) -> None:
    gate = HeldAct()
    async with serving(gate.act) as (_, client):
        call = start(client)
        await gate.asked.wait()
        await cancel(call)
        gate.open.set()
    assert events(caplog) == ["key_lost"]
    assert messages(caplog) == ["a key is lost: its caller was cancelled while it was on its way, and no on_key is set"]
    assert SECRET not in caplog.text


async def test_exchange_failure_without_a_waiter_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    gate = HeldAct(status(403, message="Invalid code or code_verifier"))
    async with serving(gate.act) as (_, client):
        call = start(client)
        await gate.asked.wait()
        await cancel(call)
        gate.open.set()
    assert events(caplog) == ["unseen_failure"]
    assert messages(caplog) == ["an exchange whose caller was cancelled failed: 403 Invalid code or code_verifier"]


# --- on_key --------------------------------------------------------------------------------------------------------


async def test_on_key_has_the_key_before_any_caller() -> None:
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
async def test_on_key_that_fails_raises_an_error_that_holds_the_key(failure: BaseException, audit: Audit) -> None:
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


async def test_on_key_that_fails_without_a_caller_is_logged(caplog: pytest.LogCaptureFixture) -> None:
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


async def test_aclose_drains_exchanges_and_refuses_new_calls() -> None:
    gate, safe = HeldAct(), Safe()
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


async def test_aclose_is_bounded_and_tells_callers_the_outcome(audit: Audit, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(hang(after=True)) as (server, client):
        call = start(client)
        await until(lambda: len(server.requests) == 1)
        await client.aclose(timeout=0.01)
        with pytest.raises(errors.ClientClosedError) as caught:
            await call
        assert str(caught.value) == "the client was closed before the exchange ended"
        assert caught.value.outcome is Outcome.UNKNOWN
        audit.read_error(caught.value)
        assert client.stats().exchanges_in_flight == 0
    assert events(caplog) == ["cut_off"]
    assert messages(caplog) == ["an exchange was cut off before its answer came; whether a key was issued is unknown"]


async def close_before_sending(client: OpenRouter, call: asyncio.Task[Exchanged]) -> None:
    """Close a client at once, and check that its call fails without having been sent."""
    await client.aclose(timeout=0)
    with pytest.raises(errors.ClientClosedError) as caught:
        await call
    assert caught.value.outcome is Outcome.NOT_SENT


async def test_aclose_cancels_unsent_exchange_as_not_sent() -> None:
    waiting = asyncio.Event()

    async def wait(request: Request, call_next: Handler) -> Response:
        waiting.set()
        await asyncio.Event().wait()
        raise AssertionError("never reached")

    async with serving(middlewares=[wait]) as (server, client):
        call = start(client)
        await waiting.wait()
        await close_before_sending(client, call)
    assert server.requests == []


async def test_aclose_ends_an_exchange_that_never_began() -> None:
    async with serving() as (server, client):
        call = start(client)
        await asyncio.sleep(0)
        await close_before_sending(client, call)
    assert server.requests == []


async def test_aclose_during_a_slow_on_key_hands_the_key_over() -> None:
    safe = Safe()
    safe.open.clear()
    async with serving(on_key=safe) as (server, client):
        call = start(client)
        await safe.entered.wait()
        await client.aclose(timeout=0)
        with pytest.raises(errors.KeyDeliveryError, match="on_key raised CancelledError") as caught:
            await call
        assert caught.value.response.key == server.authority.issued[code_of(1)]


async def test_aclose_waits_for_cancelled_exchanges() -> None:
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


async def test_aclose_is_not_blocked_by_a_task_that_ignores_cancellation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single_flight, "_CANCEL_TIMEOUT", 0.01)
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


async def test_aclose_during_the_api_key_callable_sends_nothing() -> None:
    vault: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def fetch() -> str:
        return await vault

    async with WireServer() as server:
        client = OpenRouter(fetch, base_url=server.base_url, authenticate_exchange=True)
        call = start(client)
        await passes()
        await client.aclose()
        vault.set_result(BEARER)
        with pytest.raises(errors.ClientClosedError, match="the client is closed"):
            await call
    assert server.requests == []


async def test_aclose_with_a_borrowed_session_bounds_its_calls() -> None:
    async with WireServer([hang(after=False)]) as server, aiohttp.ClientSession() as session:
        client = OpenRouter(BEARER, base_url=server.base_url, session=session, timeout=0.05, retry=RetryPolicy.none())
        call = asyncio.ensure_future(client.oauth.create_auth_code(callback_url="https://app.example/"))
        # On a busy machine, the time may be over before the request is there.
        await until(lambda: call.done() or len(server.requests) == 1)
        await client.aclose()
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(errors.RequestTimeoutError):
                await call


# --- groups of callers ---------------------------------------------------------------------------------------------


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
    await drain(made, 0)


async def drain(flights: SingleFlight[str], timeout: float) -> None:
    flights.close(timeout)
    await flights.drain()


def withdrawn() -> errors.OpenRouterError:
    return errors.OpenRouterError("withdrawn", outcome=Outcome.NOT_SENT)


async def under_way(
    flights: SingleFlight[str], *, maybe_processed: bool
) -> tuple[Exchange, asyncio.Task[str], CallerGroup]:
    exchange, group = Exchange(), CallerGroup()
    caller = asyncio.ensure_future(flights.run(("host", "code"), None, exchange.start, group))
    await passes(3)
    assert exchange.send_state is not None
    exchange.send_state.maybe_processed = maybe_processed
    return exchange, caller, group


async def test_withdraw_unsent_leaves_a_possibly_processed_exchange(flights: SingleFlight[str]) -> None:
    exchange, caller, group = await under_way(flights, maybe_processed=True)
    group.withdraw_unsent(withdrawn)
    await passes()
    assert not caller.done()
    exchange.result.set_result("result")
    assert await caller == "result"


async def test_withdraw_unsent_ends_an_unsent_exchange(
    flights: SingleFlight[str], caplog: pytest.LogCaptureFixture
) -> None:
    exchange, caller, group = await under_way(flights, maybe_processed=False)
    group.withdraw_unsent(withdrawn)
    with pytest.raises(errors.OpenRouterError, match="withdrawn") as caught:
        await caller
    assert caught.value.outcome is Outcome.NOT_SENT
    await passes()
    assert exchange.result.cancelled()
    assert len(flights) == 0
    assert events(caplog) == []


async def test_withdraw_unsent_leaves_an_exchange_with_callers_outside_the_group(flights: SingleFlight[str]) -> None:
    exchange, caller, group = await under_way(flights, maybe_processed=False)
    other = asyncio.ensure_future(flights.run(("host", "code"), None, exchange.start))
    await passes()
    group.withdraw_unsent(withdrawn)
    with pytest.raises(errors.OpenRouterError, match="withdrawn"):
        await caller
    exchange.result.set_result("result")
    assert await other == "result"


async def test_withdraw_unsent_group_starts_nothing_more(flights: SingleFlight[str]) -> None:
    group, exchange = CallerGroup(), Exchange()
    group.withdraw_unsent(withdrawn)
    with pytest.raises(errors.OpenRouterError, match="withdrawn"):
        await flights.run(("host", "code"), None, exchange.start, group)
    assert exchange.send_state is None


async def test_withdraw_unsent_then_cancelled_caller_leaves_nothing(
    flights: SingleFlight[str], caplog: pytest.LogCaptureFixture
) -> None:
    _, caller, group = await under_way(flights, maybe_processed=False)
    group.withdraw_unsent(withdrawn)
    await cancel(caller)
    await passes()
    assert len(flights) == 0
    assert caplog.records == []


async def test_exchange_cancelled_in_the_pass_of_its_result_keeps_the_key(
    flights: SingleFlight[str], caplog: pytest.LogCaptureFixture
) -> None:
    exchange = Exchange()
    caller = asyncio.ensure_future(flights.run(("host", "code"), None, exchange.start))
    await passes(3)
    exchange.result.set_result("result")
    exchange.result.add_done_callback(lambda _: caller.cancel())
    await asyncio.wait([caller])
    assert caller.cancelled()
    assert events(caplog) == ["key_lost"]


def many_under_way(
    flights: SingleFlight[str], result: asyncio.Future[str], *, number: int = 130
) -> list[asyncio.Task[str]]:
    async def wait(_: SendState) -> str:
        return await result

    return [asyncio.ensure_future(flights.run(("host", key), None, wait)) for key in range(number)]


async def test_wake_up_of_few_callers_is_in_one_pass(flights: SingleFlight[str]) -> None:
    result: asyncio.Future[str] = asyncio.Future()
    callers = many_under_way(flights, result, number=100)
    await passes()
    result.set_result("result")
    await passes(3)
    assert [caller.result() for caller in callers] == ["result"] * 100


async def test_wake_up_of_many_callers_is_spread_over_passes(flights: SingleFlight[str]) -> None:
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


async def test_wake_up_of_a_cancelled_waiter_skips_it(
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


def test_aclose_wakes_all_callers() -> None:
    callers: list[asyncio.Task[str]] = []

    async def close() -> None:
        flights = SingleFlight[str]()
        result: asyncio.Future[str] = asyncio.Future()
        callers.extend(many_under_way(flights, result))
        await passes()
        result.set_result("result")
        await drain(flights, 1)

    # The loop ends with this, and would cancel those that it has not heard of.
    asyncio.run(close())
    assert [caller.result() for caller in callers] == ["result"] * 130


# --- a single exchange ---------------------------------------------------------------------------------------------


async def test_cancellation_from_inside_is_an_error_of_unknown_outcome() -> None:
    async def cancelled(request: Request, call_next: Handler) -> Response:
        raise asyncio.CancelledError

    async with serving(middlewares=[cancelled]) as (_, client):
        with pytest.raises(errors.OpenRouterError, match="something inside the exchange was cancelled") as caught:
            await start(client)
    assert caught.value.outcome is Outcome.UNKNOWN


async def test_cancellation_from_inside_does_not_end_a_task_group_silently() -> None:
    async def cancelled(request: Request, call_next: Handler) -> Response:
        await call_next(request)
        task = asyncio.ensure_future(asyncio.sleep(10))
        task.cancel()
        await task
        raise AssertionError("never reached")

    async with serving(middlewares=[cancelled]) as (_, client):
        with pytest.raises(BaseExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(client.oauth.exchange_auth_code_for_api_key(code=code_of(1)))
    (error,) = caught.value.exceptions
    assert isinstance(error, errors.OpenRouterError)
    assert error.outcome is Outcome.UNKNOWN


async def test_exchange_whose_task_is_cancelled_from_outside_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(hang(after=True)) as (server, client):
        before = asyncio.all_tasks()
        call = start(client)
        await until(lambda: len(server.requests) == 1)
        for task in asyncio.all_tasks() - before:
            if task.get_name() == "openrouter_async.exchange":
                task.cancel()
        with pytest.raises(errors.OpenRouterError, match="the task of the exchange was cancelled") as caught:
            await call
    assert caught.value.outcome is Outcome.UNKNOWN
    assert events(caplog) == ["cut_off"]
    assert messages(caplog) == ["an exchange was cut off before its answer came; whether a key was issued is unknown"]


def test_exchange_cut_off_by_the_end_of_the_loop_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with WireServer([hang(after=True)]) as server:
            client = OpenRouter(BEARER, base_url=server.base_url)
            call = start(client)
            await until(lambda: len(server.requests) == 1)
            call.cancel()
            closing = asyncio.ensure_future(client.aclose())
            await passes()
            closing.cancel()

    asyncio.run(main())
    assert events(caplog).count("cut_off") == 1


async def test_foreign_exception_is_logged_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    gate = HeldAct()

    async def leak(request: Request, call_next: Handler) -> Response:
        response = await call_next(request)
        raise ValueError(f"cannot use {response.body!r}")

    async with serving(gate.act, middlewares=[leak]) as (server, client):
        call = start(client)
        await gate.asked.wait()
        await cancel(call)
        gate.open.set()
    (message,) = messages(caplog)
    assert message.startswith("an exchange whose caller was cancelled failed: ValueError at ")
    assert "test_single_flight.py:" in message
    assert server.authority.issued[code_of(1)] not in caplog.text


# --- hooks ---------------------------------------------------------------------------------------------------------


async def test_on_key_sync_saves_the_key() -> None:
    keys: dict[str, str] = {}

    def save(request: ExchangeAuthCodeForAPIKeyRequest, response: Exchanged) -> None:
        keys[request.code] = response.key

    async with serving(on_key=save) as (server, client):
        await start(client)
    assert keys == server.authority.issued


async def test_on_key_sync_that_raises_hands_the_key_over() -> None:
    def fail(request: ExchangeAuthCodeForAPIKeyRequest, response: Exchanged) -> None:
        raise LookupError

    async with serving(on_key=fail) as (server, client):
        with pytest.raises(errors.KeyDeliveryError, match="on_key raised LookupError") as caught:
            await start(client)
    assert caught.value.response.key == server.authority.issued[code_of(1)]


async def test_on_key_that_hangs_is_ended_and_the_error_holds_the_key() -> None:
    safe = Safe()
    safe.open.clear()
    async with serving(on_key=safe, hook_timeout=0.01) as (server, client):
        with pytest.raises(errors.KeyDeliveryError, match=r"on_key took more than 0\.01 s") as caught:
            await start(client)
    assert caught.value.response.key == server.authority.issued[code_of(1)]


async def test_api_key_callable_that_hangs_is_ended_and_nothing_is_sent() -> None:
    async def hang_on() -> str:
        await asyncio.Event().wait()
        raise AssertionError("never reached")

    async with WireServer([]) as server:
        async with OpenRouter(
            hang_on, base_url=server.base_url, hook_timeout=0.01, authenticate_exchange=True
        ) as client:
            with pytest.raises(errors.RequestValidationError, match=r"api_key: its callable took more than 0\.01 s"):
                await start(client)
        assert server.requests == []


async def test_on_key_without_hook_timeout_is_waited_for() -> None:
    safe = Safe()
    async with serving(on_key=safe, hook_timeout=None) as (server, client):
        await start(client)
    assert safe.keys == server.authority.issued


async def test_on_key_that_exchanges_the_same_request_is_refused() -> None:
    clients: list[OpenRouter] = []

    async def again(request: ExchangeAuthCodeForAPIKeyRequest, response: Exchanged) -> None:
        await clients[0].oauth.exchange_auth_code_for_api_key(request)

    async with serving(on_key=again, hook_timeout=None) as (server, client):
        clients.append(client)
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(errors.KeyDeliveryError, match="on_key raised OpenRouterError") as caught:
                await start(client)
    assert "cannot wait for itself" in str(caught.value.__cause__)
    assert caught.value.response.key == server.authority.issued[code_of(1)]


async def test_on_key_whose_task_exchanges_the_same_request_ends_by_hook_timeout() -> None:
    clients: list[OpenRouter] = []

    async def again(request: ExchangeAuthCodeForAPIKeyRequest, response: Exchanged) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(clients[0].oauth.exchange_auth_code_for_api_key(request))

    async with serving(on_key=again, hook_timeout=0.01) as (server, client):
        clients.append(client)
        with pytest.raises(errors.KeyDeliveryError, match=r"on_key took more than 0\.01 s") as caught:
            await start(client)
    assert caught.value.response.key == server.authority.issued[code_of(1)]
    assert len(server.requests) == 1


async def test_on_key_that_closes_the_client_does_not_wait_for_itself() -> None:
    clients: list[OpenRouter] = []

    async def close(request: ExchangeAuthCodeForAPIKeyRequest, response: Exchanged) -> None:
        await clients[0].aclose()

    async with serving(on_key=close, hook_timeout=None) as (server, client):
        clients.append(client)
        async with asyncio.timeout(PATIENCE):
            assert (await start(client)).key == server.authority.issued[code_of(1)]


# --- closing outlives its caller -----------------------------------------------------------------------------------


async def test_aclose_cancelled_cuts_nothing_off() -> None:
    gate, safe = HeldAct(), Safe()
    async with serving(gate.act, on_key=safe) as (server, client):
        call = start(client)
        await gate.asked.wait()
        await cancel(call)
        closing = asyncio.ensure_future(client.aclose())
        await passes()
        await cancel(closing)
        gate.open.set()
        await safe.entered.wait()
    assert safe.keys == server.authority.issued


async def test_aclose_again_with_a_shorter_timeout_does_not_cut_the_first_off() -> None:
    gate = HeldAct()
    async with serving(gate.act) as (server, client):
        call = start(client)
        await gate.asked.wait()
        first = asyncio.ensure_future(client.aclose())
        await passes()
        second = asyncio.ensure_future(client.aclose(timeout=0))
        await passes(50)
        assert not second.done()
        gate.open.set()
        await asyncio.gather(first, second)
        assert (await call).key == server.authority.issued[code_of(1)]


async def test_aclose_again_with_a_longer_timeout_gives_more_time() -> None:
    gate = HeldAct()
    async with serving(gate.act) as (server, client):
        call = start(client)
        await gate.asked.wait()
        first = asyncio.ensure_future(client.aclose(timeout=0.05))
        await passes()
        second = asyncio.ensure_future(client.aclose(timeout=10))
        await asyncio.wait([first], timeout=0.2)
        assert not first.done()
        gate.open.set()
        await asyncio.gather(first, second)
        assert (await call).key == server.authority.issued[code_of(1)]


async def test_client_dropped_during_aclose_lives_until_its_end() -> None:
    gate, safe = HeldAct(), Safe()
    async with WireServer([gate.act]) as server:
        client = OpenRouter(BEARER, base_url=server.base_url, on_key=safe)
        call = start(client)
        await gate.asked.wait()
        await cancel(call)
        closing = asyncio.ensure_future(client.aclose())
        await passes()
        await cancel(closing)
        del client, call, closing
        gc.collect()
        gate.open.set()
        await safe.entered.wait()
        await server.until_closed()
    assert safe.keys == server.authority.issued


# uvloop gives a factory more than the one of Python 3.13.0 takes.
@pytest.mark.asyncio(loop_factories=["asyncio"])
@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
@pytest.mark.parametrize("fails", [False, True])
async def test_exchange_that_ends_at_once_with_eager_tasks_succeeds(fails: bool) -> None:
    async def cached(request: Request, call_next: Handler) -> Response:
        if fails:
            raise LookupError
        return Response(status_code=200, headers={}, body=b'{"key": "sk-or-v1-cached", "user_id": null}', elapsed=0)

    loop = asyncio.get_running_loop()
    factory: Callable[..., Any] = vars(asyncio)["eager_task_factory"]
    async with serving(middlewares=[cached]) as (_, client):
        loop.set_task_factory(factory)
        try:
            async with asyncio.timeout(PATIENCE):
                if fails:
                    with pytest.raises(LookupError):
                        await start(client)
                else:
                    assert (await start(client)).key == "sk-or-v1-cached"
        finally:
            loop.set_task_factory(None)
        assert client.stats().exchanges_in_flight == 0


async def test_exchanges_leave_no_task_and_no_entry_behind(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    before = asyncio.all_tasks()
    async with serving(*[OK, status(400), drop(after=True)] * 10) as (_, client):
        results = await asyncio.gather(*(start(client, number) for number in range(20)), return_exceptions=True)
        assert all(isinstance(result, (Exchanged, errors.OpenRouterError)) for result in results)
        assert client.stats().exchanges_in_flight == 0
        assert client._shared.flights._joinable == {}
        assert asyncio.all_tasks() - before == server_tasks()
    assert asyncio.all_tasks() == before
    assert caplog.records == []


def server_tasks() -> set[asyncio.Task[Any]]:
    return {task for task in asyncio.all_tasks() if "WireServer" in repr(task.get_coro())}
