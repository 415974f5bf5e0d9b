from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from openrouter_async import OpenRouter, Outcome, RetryPolicy, errors
from tests.kit.clocks import FakeClock, passes
from tests.kit.wire import BEARER, OK, Act, Wire, WireServer, code_of, cut_headers, drop, reset
from tests.support import STRESS

pytestmark = pytest.mark.unmeasured

COUNT = 10_000 if STRESS else 100


async def close_at_once(wire: Wire) -> None:
    """The FIN comes with the answer or right behind it."""
    wire.close()


async def reset_when_used(wire: Wire) -> None:
    """Lose the connection as a firewall does: its next use finds out that it is closed."""
    await wire.reader.readexactly(1)
    wire.reset()


async def close_when_used(wire: Wire) -> None:
    await wire.reader.readexactly(1)
    wire.close()


@pytest.mark.stress
@pytest.mark.parametrize("idle_act", [close_at_once, reset_when_used, close_when_used], ids=lambda act: act.__name__)
async def test_stale_connections_do_not_fail_successive_exchanges(
    idle_act: Callable[[Wire], Awaitable[None]],
) -> None:
    clock = FakeClock()
    # Neither an attempt nor a token is there to be spent on it.
    retry = RetryPolicy(max_attempts=1, retry_budget=0)
    attempts = 0
    async with WireServer() as server:
        server.idle_act = idle_act
        async with OpenRouter(BEARER, base_url=server.base_url, retry=retry, clock=clock.clock) as client:
            for number in range(COUNT):
                response = await client.oauth.exchange_auth_code_for_api_key(code=code_of(number))
                assert response.key == server.authority.issued[code_of(number)]
                attempts += response.http_meta.attempts
        await server.until_closed()
    print(
        f"\n{COUNT} exchanges, {idle_act.__name__}: {len(server.authority.issued)} keys, {attempts} attempts, "
        f"{server.connections} connections, {len(clock.waits)} waits"
    )
    assert len(server.authority.issued) == len(server.requests) == COUNT
    assert clock.waits == []
    if idle_act is not close_at_once:
        assert attempts == 2 * COUNT - 1


async def test_stale_pool_costs_a_caller_nothing() -> None:
    clock = FakeClock()
    retry = RetryPolicy(max_attempts=1, retry_budget=0)
    async with WireServer() as server:
        server.idle_act = reset_when_used
        async with OpenRouter(BEARER, base_url=server.base_url, retry=retry, clock=clock.clock) as client:
            calls = (client.oauth.exchange_auth_code_for_api_key(code=code_of(number)) for number in range(50))
            await asyncio.gather(*calls)
            await passes()
            response = await client.oauth.exchange_auth_code_for_api_key(code=code_of(50))
            assert response.http_meta.attempts == 51
        await server.until_closed()
    assert clock.waits == []


@pytest.mark.parametrize("act", [drop(after=False), reset(after=False)], ids=lambda act: act.name)
async def test_stale_error_needs_a_connection_that_was_used_before(act: Act) -> None:
    clock = FakeClock()
    async with WireServer(lambda _: act) as server:
        async with OpenRouter(BEARER, base_url=server.base_url, clock=clock.clock) as client:
            with pytest.raises(errors.TransportError) as caught:
                await client.oauth.exchange_auth_code_for_api_key(code=code_of(1))
        await server.until_closed()
    assert caught.value.attempts == 4
    assert not caught.value.stale_connection
    assert len(clock.waits) == 3


@pytest.mark.parametrize(
    "act", [drop(after=True), reset(after=True), cut_headers(after=True)], ids=lambda act: act.name
)
async def test_used_connection_lost_after_the_key_was_issued_is_unknown(act: Act) -> None:
    # It looks the same as one that died while it was idle, so it is tried again at once, and nothing is claimed.
    clock = FakeClock()
    async with WireServer([OK, act]) as server:
        async with OpenRouter(BEARER, base_url=server.base_url, clock=clock.clock) as client:
            await client.oauth.exchange_auth_code_for_api_key(code=code_of(1))
            with pytest.raises(errors.BadRequestResponseError) as caught:
                await client.oauth.exchange_auth_code_for_api_key(code=code_of(2))
        await server.until_closed()
    assert caught.value.outcome is Outcome.UNKNOWN
    assert caught.value.attempts == 2
    assert isinstance(caught.value.__cause__, errors.TransportError)
    assert clock.waits == []
