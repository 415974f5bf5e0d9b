from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from openrouter_async import Clock, OpenRouter, Outcome, Request, Response, RetryPolicy, errors
from openrouter_async.middlewares import LoggingMiddleware, RateLimitMiddleware
from tests.kit.clocks import passes
from tests.kit.requests import make_request
from tests.kit.servers import RawServer, json_answer

SECRET = "5ec4e7"
KEY = f"sk-or-v1-{SECRET}"
ANSWER = json_answer(
    200, json.dumps({"key": KEY, "user_id": "user_1"}).encode(), f"X-Request-Id: r-1\r\nX-Private: {SECRET}"
)


def request_of(number: int = 1) -> Request:
    return make_request(attempt=number)


async def answer(request: Request) -> Response:
    return Response(status_code=200, headers={}, body=b"", elapsed=0.0)


# --- the log -------------------------------------------------------------------------------------------------------


def fields_of(record: logging.LogRecord) -> Mapping[str, Any]:
    names = ("event", "operation", "attempt", "server", "elapsed", "status", "request_id", "outcome", "error")
    return {name: vars(record)[name] for name in names if name in vars(record)}


async def test_logging_middleware_logs_each_attempt_without_secrets(caplog: pytest.LogCaptureFixture) -> None:
    answers = iter([json_answer(503), None, ANSWER])
    with caplog.at_level(logging.DEBUG, "openrouter_async"):
        async with (
            RawServer(lambda _: next(answers)) as server,
            OpenRouter(
                f"sk-or-v1-{SECRET}",
                base_url=server.base_url,
                retry=RetryPolicy(initial_interval=0),
                attempt_middlewares=[LoggingMiddleware()],
            ) as client,
        ):
            await client.oauth.exchange_auth_code_for_api_key(code=f"code-{SECRET}")
    attempts = [fields_of(record) for record in caplog.records if record.name == "openrouter_async.middlewares"]
    assert all(0 < fields["elapsed"] < 10 for fields in attempts)
    common = {"operation": "exchangeAuthCodeForAPIKey", "server": f"127.0.0.1:{server.port}"}
    assert [{name: value for name, value in fields.items() if name != "elapsed"} for fields in attempts] == [
        {**common, "event": "attempt_answered", "attempt": 1, "status": 503, "request_id": None},
        {**common, "event": "attempt_failed", "attempt": 2, "outcome": "unknown", "error": "TransportError"},
        {**common, "event": "attempt_answered", "attempt": 3, "status": 200, "request_id": "r-1"},
    ]
    assert [record.levelno for record in caplog.records if record.name == "openrouter_async.middlewares"] == [10] * 3
    assert "attempt 3: answered 200 after" in caplog.text
    assert SECRET not in caplog.text + str([vars(record) for record in caplog.records])


async def test_logging_middleware_logger_and_level_can_be_chosen(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("my.app")
    with caplog.at_level(logging.WARNING, "my.app"):
        await LoggingMiddleware(log, level=logging.WARNING)(request_of(), answer)
        await LoggingMiddleware(log, level=logging.INFO)(request_of(), answer)
    assert [(record.name, record.levelname) for record in caplog.records] == [("my.app", "WARNING")]


# --- the rate limit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_rate": 0.5}, "max_rate: must be a finite number of at least 1"),
        ({"max_rate": "10"}, "max_rate: must be"),
        ({"max_rate": 10, "time_period": 0}, "time_period: must be a finite number above 0"),
        ({"max_rate": 10, "max_wait": -1}, "max_wait: must be a finite number of at least 0"),
    ],
)
def test_rate_limit_invalid_values_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.RequestValidationError) as caught:
        RateLimitMiddleware(**options)
    assert str(caught.value).startswith(message)


async def test_rate_limit_calls_beyond_the_rate_wait() -> None:
    limit = RateLimitMiddleware(5, 3600)
    await asyncio.gather(*(limit(request_of(), answer) for _ in range(5)))
    sixth = asyncio.create_task(limit(request_of(), answer))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not sixth.done()
    sixth.cancel()
    await asyncio.wait([sixth])

    limit = RateLimitMiddleware(5, 0.1)
    await asyncio.gather(*(limit(request_of(), answer) for _ in range(10)))


async def test_rate_limit_shared_by_clients_counts_retries_per_attempt() -> None:
    answers = iter([json_answer(503), ANSWER])
    limit = RateLimitMiddleware(3, 3600, max_wait=0)
    async with RawServer(lambda _: next(answers, ANSWER)) as server:
        options: dict[str, Any] = {"base_url": server.base_url, "attempt_middlewares": [limit]}
        retry = RetryPolicy(initial_interval=0, max_attempts=2)
        async with OpenRouter(None, retry=retry, **options) as one, OpenRouter(None, retry=retry, **options) as other:
            await one.oauth.exchange_auth_code_for_api_key(code="code-1")
            await other.oauth.exchange_auth_code_for_api_key(code="code-2")
            with pytest.raises(errors.RequestTimeoutError, match="more than 0 s for its turn") as caught:
                await other.oauth.exchange_auth_code_for_api_key(code="code-3")
    assert caught.value.outcome is Outcome.NOT_SENT
    assert not caught.value.restart_login
    assert len(server.requests) == 3


async def test_rate_limit_cancelled_waiter_is_not_sent() -> None:
    limit = RateLimitMiddleware(1, 3600)
    async with RawServer(lambda _: ANSWER) as server:
        async with OpenRouter(None, base_url=server.base_url, middlewares=[limit]) as client:
            await client.oauth.exchange_auth_code_for_api_key(code="code-1")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await client.oauth.exchange_auth_code_for_api_key(code="code-2")
            await passes()
            assert client.stats().exchanges_in_flight == 0
    assert len(server.requests) == 1


def test_rate_limit_used_in_two_loops_one_after_another_is_one_limit() -> None:
    limit = RateLimitMiddleware(1, 3600, max_wait=0)
    assert asyncio.run(limit(request_of(), answer)).status_code == 200
    with pytest.raises(errors.RequestTimeoutError):
        asyncio.run(limit(request_of(), answer))


def test_rate_limit_shared_by_loops_in_two_threads_is_one_limit() -> None:
    now = 0.0
    lock = threading.Lock()
    times: list[float] = []

    async def sleep(seconds: float) -> None:
        nonlocal now
        wake_up = now + seconds
        await asyncio.sleep(0)
        with lock:
            now = max(now, wake_up)

    async def note(request: Request) -> Response:
        times.append(now)
        return await answer(request)

    async def call(start: threading.Barrier) -> None:
        start.wait()
        await asyncio.gather(*(limit(request_of(), note) for _ in range(100)))

    limit = RateLimitMiddleware(5, 1, clock=Clock(monotonic=lambda: now, sleep=sleep))
    start = threading.Barrier(2)
    threads = [threading.Thread(target=asyncio.run, args=(call(start),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(times) == 200
    # Five at once, and then five a second; with a limit for each loop it would be half the time.
    assert max(times) >= (200 - 5) / 5 - 1e-6
