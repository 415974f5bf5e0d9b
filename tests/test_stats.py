from __future__ import annotations

import asyncio
import logging

import pytest

from openrouter_async import OpenRouter, Outcome, RetryPolicy, errors
from openrouter_async.events import Event
from tests.kit.clocks import FakeClock, StoppedClock, until
from tests.kit.servers import RawServer, answering, json_answer
from tests.kit.wire import WireServer, code_of, drop, status

GRANTED = json_answer(200, b'{"key": "sk-or-v1-x", "user_id": null}')


async def exchange(client: OpenRouter, number: int = 1) -> None:
    await client.oauth.exchange_auth_code_for_api_key(code=code_of(number))


def test_stats_of_an_unused_client_are_zero() -> None:
    stats = OpenRouter(None).stats()
    assert (stats.calls, stats.attempts, stats.retries, stats.succeeded, sum(stats.failed.values())) == (0,) * 5
    assert (stats.exchanges_in_flight, stats.attempts_in_flight, stats.waiting_to_retry) == (0, 0, 0)
    assert (stats.connection_limit, stats.waiting_for_connection, stats.is_closed) == (0, 0, False)
    assert (stats.paused, stats.retry_budget) == ({}, {})


async def test_stats_count_calls_attempts_retries_and_outcomes() -> None:
    clock = FakeClock()
    script = [drop(after=False), status(503), status(403), status(500)]
    async with (
        WireServer(script) as server,
        OpenRouter(None, base_url=server.base_url, clock=clock.clock) as client,
    ):
        with pytest.raises(errors.ForbiddenResponseError):
            await exchange(client)
        with pytest.raises(errors.InternalServerResponseError):
            await client.with_options(retry=RetryPolicy.none()).oauth.exchange_auth_code_for_api_key(code=code_of(1))
        await exchange(client, 2)
        other = client.with_options(base_url="http://127.0.0.1:9", retry=RetryPolicy.none())
        with pytest.raises(errors.TransportError):
            await exchange(other, 3)
        stats = client.stats()
    assert (stats.calls, stats.attempts, stats.retries, stats.succeeded) == (4, 6, 2, 1)
    assert stats.failed == {Outcome.NOT_SENT: 1, Outcome.REFUSED: 0, Outcome.UNKNOWN: 2, Outcome.COMPLETED: 0}
    assert stats.retry_budget == {f"http://127.0.0.1:{server.port}": 491}
    assert client.stats().is_closed


async def test_stats_show_calls_in_flight_and_waiting_for_a_connection() -> None:
    async with RawServer(lambda _: b"") as server:
        client = OpenRouter(None, base_url=server.base_url, pool_size=2)
        calls = [asyncio.create_task(exchange(client, number)) for number in range(3)]
        await until(lambda: len(server.requests) == 2)
        stats = client.stats()
        await client.aclose(timeout=0)
        await asyncio.gather(*calls, return_exceptions=True)
    assert (stats.exchanges_in_flight, stats.attempts_in_flight) == (3, 3)
    assert (stats.connection_limit, stats.waiting_for_connection) == (2, 1)
    assert client.stats().exchanges_in_flight == 0


async def test_stats_show_a_pause_and_its_waiters_and_log_it_once(caplog: pytest.LogCaptureFixture) -> None:
    clock = StoppedClock()
    caplog.set_level(logging.INFO, "openrouter_async")
    async with (
        WireServer([status(429, "Retry-After: 20")] * 2) as server,
        OpenRouter(None, base_url=server.base_url, clock=clock.clock) as client,
    ):
        calls = [asyncio.create_task(exchange(client, number)) for number in range(2)]
        await until(lambda: clock.sleeping == 2)
        stats = client.stats()
        clock.advance(25)
        await asyncio.gather(*calls)
        assert client.stats().waiting_to_retry == 0
        assert client.stats().paused == {}
    origin = f"http://127.0.0.1:{server.port}"
    assert stats.waiting_to_retry == 2
    assert stats.paused == {origin: pytest.approx(20)}
    (pause,) = [record for record in caplog.records if record.__dict__["event"] == Event.PAUSE]
    assert pause.levelno == logging.INFO
    assert pause.getMessage() == f"{origin} answered 429: all calls to it wait for 20.00 s"
    assert (pause.__dict__["server"], pause.__dict__["status"], pause.__dict__["wait"]) == (origin, 429, 20.0)


async def test_stats_count_equal_exchanges_as_one_call() -> None:
    async with answering(GRANTED) as server, OpenRouter(None, base_url=server.base_url) as client:
        await asyncio.gather(*(exchange(client) for _ in range(5)))
        assert client.stats().calls == 1
        assert client.stats().succeeded == 1
