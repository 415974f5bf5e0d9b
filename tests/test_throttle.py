"""The rate that a host accepts from a batch, in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from openrouter_async import Handler, OpenRouter, Outcome, Request, Response, errors
from openrouter_async._http.pace import INITIAL_RATE, MIN_RATE, LeakyBucket, Pace
from tests.kit.clocks import VirtualLoop, loop_clock

T = TypeVar("T")
ANSWER = b'{"key": "sk-or-v1-0", "user_id": "user_1"}'


def run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine in virtual time, without asyncio's debug mode, which keeps a stack for each callback."""
    with asyncio.Runner(loop_factory=VirtualLoop, debug=False) as runner:
        return runner.run(main())


def answer(code: int, **headers: str) -> Response:
    named = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    return Response(status_code=code, headers=named, body=ANSWER if code == 200 else b"", elapsed=0.0)


class LimitReq:
    """A middleware that stands in for nginx with ``limit_req``.

    Args:
        rate: Requests per second that are let through; evenly, when there is no burst.
        burst: Requests that may come at once beyond that.
        code: The status of the others.
        latency: Seconds that an answer takes.
    """

    def __init__(self, rate: float, *, burst: int = 0, code: int = 503, latency: float = 0.02) -> None:
        self._bucket = LeakyBucket(rate, 1 + burst)
        self._refusal = answer(code)
        self._latency = latency
        self.arrivals: list[tuple[float, bytes]] = []

    async def __call__(self, request: Request, call_next: Handler) -> Response:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._latency / 2)
        self.arrivals.append((loop.time(), request.body))
        is_refused = self._bucket.take(loop.time()) > 0
        await asyncio.sleep(self._latency / 2)
        return self._refusal if is_refused else answer(200)


async def keys_of_batch(client: OpenRouter, count: int, concurrency: int = 16) -> tuple[int, float]:
    """Exchange codes.

    Returns:
        The number of keys, and the seconds that it took.
    """
    loop = asyncio.get_running_loop()
    started = loop.time()
    batch = client.oauth.exchange_many((f"code-{number}" for number in range(count)), concurrency=concurrency)
    keys = [result.key async for result in batch if result.key is not None]
    return len(keys), loop.time() - started


@given(st.floats(0.1, 1000), st.integers(1, 50), st.lists(st.floats(0, 10), max_size=100))
def test_bucket_takes_at_most_its_rate_and_capacity_in_any_time(rate: float, size: int, waits: list[float]) -> None:
    bucket, now, taken = LeakyBucket(rate, size), 0.0, list[float]()
    for wait in waits:
        now += wait
        if (delay := bucket.take(now)) > 0:
            now += delay
            assert bucket.take(now) == 0
        taken.append(now)
    for first, start in enumerate(taken):
        for last in range(first, len(taken)):
            assert last - first + 1 <= size + (taken[last] - start) * rate + 1e-6


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), max_size=200))
def test_pace_rises_by_successes_and_falls_by_rejections_only(answers: list[tuple[bool, float]]) -> None:
    now = 0.0
    pace = Pace(now)
    for is_success, wait in answers:
        before, now = pace.rate, now + wait
        if pace.is_limiting:
            while (delay := pace.take_turn(now)) > 0:
                now += delay
        if is_success:
            pace.note_success()
            assert pace.rate >= before
        else:
            is_reduced = pace.note_rejection(now, now)
            assert pace.rate < before if is_reduced and before > MIN_RATE else pace.rate == before
        assert pace.rate >= MIN_RATE


def test_rejection_sent_before_a_reduction_does_not_reduce_again() -> None:
    pace = Pace(0.0)
    assert pace.note_rejection(0.0, 1.0)
    assert not pace.note_rejection(0.5, 1.1)
    # A clock may be coarse: that of Windows has steps of 16 ms.
    assert not pace.note_rejection(1.0, 1.1)
    assert pace.rate == INITIAL_RATE
    assert pace.note_rejection(1.2, 1.3)
    assert pace.rate < INITIAL_RATE


def test_pace_that_nobody_waits_for_does_not_rise_and_ends() -> None:
    pace = Pace(0.0)
    pace.note_rejection(0.0, 0.0)
    for second in range(100):
        assert pace.take_turn(float(second)) == 0
        assert not pace.is_over(second)
        pace.note_success()
    assert pace.rate == INITIAL_RATE
    assert pace.is_over(99.0)


@pytest.mark.unmeasured
@pytest.mark.parametrize(
    ("limit", "concurrency", "least"),
    [
        pytest.param(LimitReq(20), 16, 15, id="as nginx without a burst"),
        pytest.param(LimitReq(20, latency=0.2), 16, 15, id="slow answers"),
        pytest.param(LimitReq(20, latency=0.001), 200, 15, id="many at a time"),
        pytest.param(LimitReq(20), 1, 15, id="one at a time"),
        pytest.param(LimitReq(20, burst=20, code=429), 16, 18, id="429 after a burst"),
        pytest.param(LimitReq(100), 16, 60, id="a higher rate"),
    ],
)
def test_batch_finds_the_rate_that_a_host_accepts(limit: LimitReq, concurrency: int, least: float) -> None:
    async def main() -> tuple[int, float]:
        async with OpenRouter(None, clock=loop_clock(1), attempt_middlewares=[limit]) as client:
            return await keys_of_batch(client, 300, concurrency)

    keys, seconds = run(main)
    print(f"\n{keys} keys in {seconds:.1f} virtual s, {keys / seconds:.1f} a second, {len(limit.arrivals)} requests")
    assert keys == 300
    assert keys / seconds >= least


@pytest.mark.unmeasured
@pytest.mark.parametrize("headers", [{}, {"Retry_After": "120"}])
def test_one_sick_node_of_fifty_does_not_slow_a_batch(headers: dict[str, str]) -> None:
    chance = random.Random(1)

    async def sometimes_sick(request: Request, call_next: Handler) -> Response:
        await asyncio.sleep(0.02)
        return answer(503, **headers) if chance.random() < 0.02 else answer(200)

    async def main() -> tuple[int, float]:
        async with OpenRouter(None, clock=loop_clock(1), attempt_middlewares=[sometimes_sick]) as client:
            return await keys_of_batch(client, 600)

    keys, seconds = run(main)
    # A wait of two minutes is not retried, as no call has that much time.
    assert keys >= 580
    assert keys / seconds > 100


def test_call_outside_of_a_batch_does_not_wait_for_its_turn() -> None:
    async def main() -> float:
        limit = LimitReq(20)
        async with OpenRouter(None, clock=loop_clock(1), attempt_middlewares=[limit]) as client:
            batch = asyncio.create_task(keys_of_batch(client, 200, 200))
            await asyncio.sleep(5)
            started = asyncio.get_running_loop().time()
            # The call may be refused, as the batch uses up the rate of the host.
            with contextlib.suppress(errors.APIError):
                await client.oauth.exchange_auth_code_for_api_key(code="alone")
            batch.cancel()
            await asyncio.wait([batch])
        return next(time for time, body in limit.arrivals if b"alone" in body) - started

    assert run(main) < 0.05


def test_request_that_waits_for_its_turn_can_be_withdrawn() -> None:
    async def main() -> set[Outcome]:
        async with OpenRouter(None, clock=loop_clock(1), attempt_middlewares=[LimitReq(1)]) as client:
            codes = [f"code-{number}" for number in range(50)]
            results = await client.oauth.exchange_all(codes, concurrency=50, timeout=4)
            assert client.stats().waiting_to_retry == 0
            return {result.outcome for result in results}

    # Those that a 503 answered may have been carried out for all that the client knows.
    assert run(main) <= {Outcome.COMPLETED, Outcome.NOT_SENT, Outcome.UNKNOWN}


def test_throttle_forgets_a_rate_that_is_not_used() -> None:
    async def main() -> bool:
        async with OpenRouter(None, clock=loop_clock(1), attempt_middlewares=[LimitReq(20)]) as client:
            await keys_of_batch(client, 50)
            throttle = client._shared.throttle
            assert not throttle.is_idle
            await asyncio.sleep(100)
            await client.oauth.exchange_auth_code_for_api_key(code="alone")
            return not throttle._paces

    assert run(main)


def test_rates_are_infinite_until_a_second_rejection() -> None:
    pace = Pace(0.0)
    assert pace.rate == math.inf
    for _ in range(5):
        pace.note_success()
    assert not pace.note_rejection(0.0, 0.0)
    assert pace.rate == math.inf
