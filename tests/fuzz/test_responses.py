from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Final

import aiohttp
import pytest
from yarl import URL

from openrouter_async import (
    CreateAuthKeysCodeResponse,
    ExchangeAuthCodeForAPIKeyResponse,
    GetCurrentKeyResponse,
    HttpMeta,
    OpenRouter,
    Request,
    Response,
    RetryPolicy,
    errors,
)
from openrouter_async._http.responses import error_from_response
from openrouter_async._values import converter
from openrouter_async._values.clock import SYSTEM_CLOCK
from tests.fuzz.mutation import MAX_CPU_PER_KIB, Stopwatch, mutate, read_corpus
from tests.kit.clocks import FakeClock
from tests.support import STRESS

pytestmark = pytest.mark.unmeasured

RESPONSES: Final = 500_000 if STRESS else 2_000
"""Answers for each of the two ways in which aiohttp reads them."""
CONCURRENCY: Final = 64
SERVERS: Final = 16
"""The number of ports; one port alone would run out of connections, which stay in TIME_WAIT."""
MAX_PAUSE: Final = 600.0
"""Seconds for which a client heeds a pause at the most."""
TIMEOUT: Final = 5.0
MAX_SECONDS: Final = 120.0
"""Seconds after which an exchange counts as hanging, also on a busy machine."""

CORPUS: Final = read_corpus("responses")
REQUEST: Final = Request(
    method="POST",
    url=URL("https://openrouter.ai/api/v1/auth/keys"),
    headers={},
    body=b"{}",
    operation="exchangeAuthCodeForAPIKey",
    timeout=30,
    retry=RetryPolicy(),
    secrets=("auth/code+&-0123456789", "v" * 43),
)
MODELS: Final[Sequence[Any]] = (ExchangeAuthCodeForAPIKeyResponse, CreateAuthKeysCodeResponse, GetCurrentKeyResponse)
HTTP_META: Final = HttpMeta(status_code=200, headers={}, attempts=1, elapsed=0.0)


class FuzzServer(asyncio.Protocol):
    """Answers the request with code N by input N, and closes."""

    def __init__(self) -> None:
        self._request = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._request += data
        found = re.search(rb'"code":"(\d+)"', self._request)
        if found is not None:
            self._transport.write(mutate(CORPUS, int(found[1])))
            self._transport.close()


def check_error(error: errors.OpenRouterError) -> str:
    """Check the texts of an error, and return the category to count it in."""
    assert error.outcome is not errors.Outcome.COMPLETED
    assert len(str(error)) < 500
    assert str(error).isprintable()
    # The mutation may have changed the prefix of the key, so it is recognized by its length.
    assert re.search(r"[0-9a-f]{40}", str(error)) is None
    return f"{type(error).__name__}, {error.outcome}"


@pytest.mark.stress
@pytest.mark.parametrize("strictly", [False, True], ids=["as users read it", "in development mode"])
async def test_response_of_any_bytes_is_a_key_or_a_library_error_in_bounded_time(
    monkeypatch: pytest.MonkeyPatch, strictly: bool
) -> None:
    monkeypatch.setattr("aiohttp._http_parser.DEBUG", strictly)
    numbers = iter(range(RESPONSES))
    tally: Counter[str] = Counter()
    slowest = slowest_kib = 0.0

    async def work(client: OpenRouter, clock: FakeClock) -> None:
        nonlocal slowest, slowest_kib
        for number in numbers:
            # A pause of hours must not keep the answers that come after it from being met.
            clock.advance(MAX_PAUSE)
            started = time.perf_counter()
            try:
                async with asyncio.timeout(MAX_SECONDS):
                    result = await client.oauth.exchange_auth_code_for_api_key(code=str(number))
            except errors.OpenRouterError as error:
                tally[check_error(error)] += 1
            else:
                tally["a key"] += 1
                assert isinstance(result.key, str)
                assert result.key
                assert result.user_id is None or isinstance(result.user_id, str)
            taken = time.perf_counter() - started
            slowest = max(slowest, taken)
            slowest_kib = max(slowest_kib, taken / max(1.0, len(mutate(CORPUS, number)) / 1024))

    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(fuzzed_client()) for _ in range(SERVERS)]
        async with asyncio.TaskGroup() as group:
            for worker in range(CONCURRENCY):
                group.create_task(work(*clients[worker % SERVERS]))
    # 64 exchanges at a time share one processor, so this is far more than the CPU of one.
    print(
        f"\n{RESPONSES} answers, slowest {slowest:.2f} s, {slowest_kib:.2f} s for each KiB: {dict(tally.most_common())}"
    )
    assert sum(tally.values()) == RESPONSES
    assert tally["a key"] > RESPONSES * 0.02
    assert sum(count for name, count in tally.items() if name.endswith("not_sent")) < RESPONSES * 0.01


@pytest.mark.stress
def test_mutated_body_is_read_in_proportion_to_its_size() -> None:
    slowest = 0.0
    # The first body that is read compiles patterns and makes the converters.
    read_error_and_results(b"{}")
    for number in range(2 * RESPONSES):
        answer = mutate(CORPUS, number)
        body = answer.partition(b"\r\n\r\n")[2]
        with Stopwatch() as reading:
            read_error_and_results(body)
        slowest = max(slowest, reading.seconds / max(1.0, len(body) / 1024))
    print(f"\n{2 * RESPONSES} bodies, slowest {1000 * slowest:.2f} ms of CPU for each KiB")
    # Quadratic time would be seconds.
    assert slowest < MAX_CPU_PER_KIB


def read_error_and_results(body: bytes) -> None:
    error_from_response(REQUEST, Response(status_code=502, headers={}, body=body, elapsed=0.0), SYSTEM_CLOCK)
    for model in MODELS:
        with suppress(converter.MalformedBodyError):
            converter.load(model, body, HTTP_META)


@asynccontextmanager
async def fuzzed_client() -> AsyncIterator[tuple[OpenRouter, FakeClock]]:
    clock = FakeClock()
    server = await asyncio.get_running_loop().create_server(FuzzServer, "127.0.0.1", 0, backlog=1024)
    async with (
        server,
        # Each answer has a connection of its own, so that the rest of one is not read as the next one.
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session,
        OpenRouter(
            None,
            session=session,
            base_url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/api/v1",
            retry=RetryPolicy.none(),
            timeout=TIMEOUT,
            # Pauses that the answers ask for take no time.
            clock=clock.clock,
        ) as client,
    ):
        yield client, clock
