from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Callable, Iterable
from email.utils import formatdate
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from yarl import URL

from openrouter_async import (
    Attempt,
    Handler,
    OpenRouter,
    Outcome,
    Request,
    RequestOptions,
    Response,
    RetryPolicy,
    errors,
)
from openrouter_async._http.chain import SendState, build_chain
from openrouter_async._http.responses import error_from_response, finalize_error
from openrouter_async._http.retry import OnRetry, RetryMiddleware
from openrouter_async._http.throttle import HostThrottle
from openrouter_async._values.clock import SYSTEM_CLOCK
from tests.kit.clocks import EPOCH, FakeClock, StoppedClock, passes, until
from tests.kit.requests import make_request
from tests.kit.servers import RawServer, json_answer

REQUEST = make_request()


def status(code: int, **headers: str) -> Response:
    named = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    return Response(status_code=code, headers=named, body=b"", elapsed=0.0)


def dropped() -> errors.TransportError:
    return errors.TransportError("dropped", outcome=Outcome.UNKNOWN)


def unreachable() -> errors.TransportError:
    return errors.TransportError("no route", outcome=Outcome.NOT_SENT)


def stale() -> errors.TransportError:
    return errors.TransportError("stale", outcome=Outcome.UNKNOWN, stale_connection=True)


def late() -> errors.RequestTimeoutError:
    return errors.RequestTimeoutError("late", outcome=Outcome.UNKNOWN)


class ScriptedHandler:
    """A handler in place of the server: answers as scripted, then with 200, and records each request with its time."""

    def __init__(self, clock: FakeClock, steps: Iterable[Response | Exception] = (), *, takes: float = 0.0) -> None:
        self._clock = clock
        self._steps = iter(steps)
        self._takes = takes
        self.requests: list[Request] = []
        self.times: list[float] = []

    async def __call__(self, request: Request) -> Response:
        self.requests.append(request)
        self.times.append(self._clock.now - 1000.0)
        self._clock.advance(self._takes)
        step = next(self._steps, status(200))
        if isinstance(step, Exception):
            raise step
        return step


def chain(
    clock: FakeClock, server: Handler, *, on_retry: OnRetry | None = None, throttle: HostThrottle | None = None
) -> Handler:
    return build_chain(
        "middlewares", [RetryMiddleware(clock=clock.clock, on_retry=on_retry, throttle=throttle)], server
    )


def with_retry(**options: Any) -> Request:
    return attrs.evolve(REQUEST, retry=RetryPolicy(**options))


def error_of(response: Response, clock: FakeClock) -> errors.OpenRouterError:
    """The error that a caller gets for an answer."""
    error = error_from_response(REQUEST, response, clock.clock)
    error.history = response.history
    finalize_error(error)
    return error


# --- attempts and waits --------------------------------------------------------------------------------------------


async def test_retry_middleware_works_in_any_chain() -> None:
    clock = FakeClock()
    server = ScriptedHandler(clock, [status(503), dropped()])
    response = await chain(clock, server)(REQUEST)
    assert response.status_code == 200
    assert [attempt.number for attempt in response.history] == [1, 2]
    assert [request.attempt for request in server.requests] == [1, 2, 3]
    assert clock.waits == [0.25, 0.5]


async def test_retry_success_passes_unchanged() -> None:
    clock = FakeClock()
    server = ScriptedHandler(clock)
    response = await chain(clock, server)(REQUEST)
    assert server.requests == [REQUEST]
    assert response.history == ()
    assert clock.waits == []


@pytest.mark.parametrize("code", [400, 401, 403, 404, 405, 409, 422, 425, 501, 505, 520, 301, 307, 201])
async def test_retry_other_statuses_are_not_retried(code: int) -> None:
    clock = FakeClock()
    server = ScriptedHandler(clock, [status(code)])
    assert (await chain(clock, server)(REQUEST)).status_code == code
    assert len(server.requests) == 1


async def test_retry_statuses_can_be_chosen() -> None:
    clock = FakeClock()
    server = ScriptedHandler(clock, [status(425), status(503)])
    assert (await chain(clock, server)(with_retry(statuses=[425]))).status_code == 503
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "failure",
    [
        errors.ResponseValidationError("200: empty", status_code=200),
        errors.ClientClosedError("closed"),
        errors.RequestValidationError("code", "must be there"),
    ],
    ids=lambda failure: type(failure).__name__,
)
async def test_retry_non_transport_errors_are_not_retried(failure: errors.OpenRouterError) -> None:
    clock = FakeClock()
    server = ScriptedHandler(clock, [failure])
    with pytest.raises(type(failure)) as caught:
        await chain(clock, server)(REQUEST)
    assert caught.value is failure
    assert len(server.requests) == 1


async def test_retry_foreign_exception_passes_unchanged() -> None:
    clock = FakeClock()
    server = ScriptedHandler(clock, [KeyError("mine")])
    with pytest.raises(KeyError):
        await chain(clock, server)(REQUEST)
    assert len(server.requests) == 1


async def test_retry_last_failure_carries_those_before_it() -> None:
    clock = FakeClock()
    response = await chain(clock, ScriptedHandler(clock, [dropped(), late(), status(502), status(504)]))(REQUEST)
    assert response.status_code == 504
    assert [type(attempt.error).__name__ for attempt in response.history] == [
        "TransportError",
        "RequestTimeoutError",
        "APIError",
    ]
    assert [attempt.wait for attempt in response.history] == clock.waits == [0.25, 0.5, 1.0]


async def test_attempt_records_its_duration() -> None:
    clock = FakeClock()
    response = await chain(clock, ScriptedHandler(clock, [status(503)], takes=3.0))(REQUEST)
    assert response.history[0].elapsed == pytest.approx(3.0)


async def test_retry_connection_errors_can_be_excluded() -> None:
    clock = FakeClock()
    server = ScriptedHandler(clock, [status(503), unreachable()])
    with pytest.raises(errors.TransportError) as caught:
        await chain(clock, server)(with_retry(retry_connection_errors=False))
    assert len(caught.value.history) == 1


async def test_retry_waits_the_longer_of_backoff_and_retry_after() -> None:
    clock = FakeClock()
    server = ScriptedHandler(
        clock, [status(500, Retry_After="0.1"), status(500, Retry_After="3"), status(500, Retry_After="0")]
    )
    await chain(clock, server)(REQUEST)
    assert clock.waits == [0.25, 3.0, 1.0]


headers = st.one_of(st.text(max_size=20), st.floats().map(str), st.integers().map(str))


@given(
    codes=st.lists(st.sampled_from([429, 500, 503]), min_size=1, max_size=6),
    name=st.sampled_from(["Retry-After", "Retry-After-Ms"]),
    texts=st.lists(headers, min_size=6, max_size=6),
    limit=st.floats(0.01, 100),
    chance=st.floats(0, 1, exclude_max=True),
)
async def test_retry_wait_is_never_negative_or_beyond_max_elapsed_time(
    codes: list[int], name: str, texts: list[str], limit: float, chance: float
) -> None:
    clock = FakeClock([chance])
    server = ScriptedHandler(
        clock,
        [
            Response(status_code=code, headers={name: text}, body=b"", elapsed=0)
            for code, text in zip(codes, texts, strict=False)
        ],
    )
    await chain(clock, server)(with_retry(max_elapsed_time=limit, max_attempts=9))
    assert all(wait >= 0 for wait in clock.waits)
    # In the clock's own numbers, as 1,000 s and more are rounded.
    assert clock.now <= 1000.0 + limit


# --- the time of the whole call ------------------------------------------------------------------------------------


async def test_max_elapsed_time_bounds_attempts_and_waits_together() -> None:
    clock = FakeClock()
    server = ScriptedHandler(clock, [status(503)] * 100, takes=7.0)
    response = await chain(clock, server)(with_retry(max_attempts=100, max_elapsed_time=20.0, jitter=False))
    # A third attempt would begin at 15.5 s, with less than ten seconds to read its answer.
    assert server.times == [0.0, 7.5]
    assert [request.timeout for request in server.requests] == [20.0, 12.5]
    assert len(response.history) == 1
    assert error_of(response, clock).__notes__[0] == (
        "not retried: a wait of 1 s leaves too little of the call's time for another attempt"
    )


async def test_retry_wait_that_does_not_fit_raises_at_once() -> None:
    clock = FakeClock()
    response = await chain(clock, ScriptedHandler(clock, [status(503, Retry_After="61")]))(REQUEST)
    assert clock.waits == []
    error = error_of(response, clock)
    assert error.retry_after == 61
    assert error.attempts == 1
    assert error.__notes__ == ["not retried: a wait of 61 s leaves too little of the call's time for another attempt"]


async def test_retry_wait_of_all_time_left_raises_at_once() -> None:
    clock = FakeClock()
    with pytest.raises(errors.TransportError):
        await chain(clock, ScriptedHandler(clock, [dropped()]))(with_retry(max_elapsed_time=0.5, jitter=False))
    assert clock.waits == []


@pytest.mark.parametrize("slept", [RetryPolicy().max_elapsed_time, 3600])
async def test_retry_after_a_suspended_machine_past_the_end_sends_nothing(slept: float) -> None:
    clock = StoppedClock()
    failure = dropped()
    server = ScriptedHandler(clock, [failure])
    call = asyncio.ensure_future(chain(clock, server)(REQUEST))
    await until(lambda: clock.sleeping == 1)
    clock.advance(slept)
    with pytest.raises(errors.TransportError) as caught:
        await call
    assert caught.value is failure
    # An attempt whose planned retry did not take place is not part of the history.
    assert caught.value.history == ()
    assert len(server.requests) == 1


# --- pauses --------------------------------------------------------------------------------------------------------


async def test_pause_holds_all_calls_of_a_client_and_spreads_their_release() -> None:
    clock = StoppedClock([0.0, 0.25, 0.5, 0.75, 0.99])
    server = ScriptedHandler(clock, [status(429, Retry_After="10")])
    handler = chain(clock, server)
    calls = [asyncio.ensure_future(handler(REQUEST))]
    await until(lambda: clock.sleeping == 1)
    calls += [asyncio.ensure_future(handler(REQUEST)) for _ in range(20)]
    await until(lambda: clock.sleeping == 21)
    assert server.times == [0.0]
    for _ in range(130):
        clock.advance(0.1)
        await passes(3)
    responses = await asyncio.gather(*calls)
    assert {response.status_code for response in responses} == {200}
    assert len(server.times) == 22
    left = sorted(server.times[1:])
    assert left[0] >= 10.0
    assert left[-1] <= 12.1
    # The spread is a fifth of ten seconds: in steps of a tenth, no step has more calls than chance allows.
    assert max(left.count(moment) for moment in left) <= 5
    assert len(set(left)) >= 5


@pytest.mark.parametrize("policy", [RetryPolicy(), RetryPolicy.none(), RetryPolicy(statuses=[500])])
async def test_pause_begins_whatever_the_policy_of_the_call_that_met_it(policy: RetryPolicy) -> None:
    clock = FakeClock()
    server = ScriptedHandler(clock, [status(429, Retry_After="10")])
    handler = chain(clock, server)
    await handler(attrs.evolve(REQUEST, retry=policy))
    await handler(REQUEST)
    assert server.times[-1] >= 10.0


async def test_pause_until_a_date_holds_where_its_status_is_not_retried() -> None:
    clock = FakeClock()
    server = ScriptedHandler(clock, [status(429, Retry_After=formatdate(EPOCH + 10, usegmt=True))])
    handler = chain(clock, server)
    await handler(with_retry(statuses=[500]))
    await handler(REQUEST)
    assert server.times[-1] >= 10.0


async def test_pause_is_per_host() -> None:
    clock = StoppedClock()
    server = ScriptedHandler(clock, [status(429, Retry_After="10")])
    handler = chain(clock, server)
    held = asyncio.ensure_future(handler(REQUEST))
    await until(lambda: clock.sleeping == 1)
    assert (await handler(attrs.evolve(REQUEST, url=URL("https://gateway.example/auth/keys")))).status_code == 200
    assert server.times == [0.0, 0.0]
    clock.advance(13)
    assert (await held).status_code == 200


async def test_pause_is_not_shortened_by_a_shorter_one() -> None:
    clock = FakeClock()
    throttle = HostThrottle(clock.clock)
    origin = REQUEST.url.origin()
    assert throttle.pause(origin, 10)
    assert not throttle.pause(origin, 1)
    assert throttle.pause_remaining(origin) == pytest.approx(10)
    clock.advance(9.5)
    assert throttle.pause_remaining(origin) == pytest.approx(0.5)
    assert throttle.pauses == {str(origin): pytest.approx(0.5)}
    clock.advance(0.5)
    assert throttle.pause_remaining(origin) == 0
    assert throttle.spread(origin) == 0


async def test_pause_of_equal_end_keeps_the_spread() -> None:
    clock = FakeClock([1.0])
    throttle = HostThrottle(clock.clock)
    throttle.pause(REQUEST.url.origin(), 10)
    clock.advance(5)
    throttle.pause(REQUEST.url.origin(), 5)
    assert throttle.spread(REQUEST.url.origin()) == pytest.approx(2)


async def test_pause_after_the_end_of_another_is_new() -> None:
    clock = FakeClock()
    throttle = HostThrottle(clock.clock)
    assert throttle.pause(REQUEST.url.origin(), 1)
    clock.advance(1)
    assert throttle.pause(REQUEST.url.origin(), 1)
    clock.advance(0.5)
    assert not throttle.pause(REQUEST.url.origin(), 1)


async def test_pause_extended_meanwhile_is_respected() -> None:
    clock = StoppedClock([0.0])
    server = ScriptedHandler(clock)
    throttle = HostThrottle(clock.clock)
    throttle.pause(REQUEST.url.origin(), 5)
    call = asyncio.ensure_future(chain(clock, server, throttle=throttle)(REQUEST))
    await until(lambda: clock.sleeping == 1)
    throttle.pause(REQUEST.url.origin(), 20)
    clock.advance(6)
    await passes()
    assert server.times == []
    clock.advance(20)
    assert (await call).status_code == 200


async def test_pause_longer_than_a_calls_time_fails_it_unsent_with_retry_after() -> None:
    clock = FakeClock()
    server = ScriptedHandler(clock, [status(429, Retry_After="300")])
    throttle = HostThrottle(clock.clock)
    handler = chain(clock, server, throttle=throttle)
    await handler(REQUEST)
    throttle.reserve_probe(REQUEST.url.origin())
    with pytest.raises(errors.TransportError) as caught:
        await handler(REQUEST)
    assert caught.value.outcome is Outcome.NOT_SENT
    assert caught.value.retry_after == pytest.approx(60)
    assert str(caught.value) == "not sent: the server asked for a pause, 60.0 s of which are left"
    assert not hasattr(caught.value, "__notes__")
    assert caught.value.attempts == 0
    assert caught.value.user_message == "OpenRouter is busy. Please try again in 60 seconds."
    assert not caught.value.restart_login
    assert len(server.requests) == 1


async def test_retry_prevented_by_a_pause_of_another_call_is_not_an_attempt() -> None:
    clock = StoppedClock()
    failure = dropped()
    server = ScriptedHandler(clock, [failure])
    throttle = HostThrottle(clock.clock)
    call = asyncio.ensure_future(chain(clock, server, throttle=throttle)(REQUEST))
    await until(lambda: clock.sleeping == 1)
    throttle.pause(REQUEST.url.origin(), 300)
    throttle.reserve_probe(REQUEST.url.origin())
    clock.advance(1)
    with pytest.raises(errors.TransportError) as caught:
        await call
    assert caught.value is failure
    assert caught.value.history == ()
    assert "not retried: the host's pause does not end in time" in caught.value.__notes__


async def test_pause_of_an_odd_retry_after_is_capped() -> None:
    clock = FakeClock()
    throttle = HostThrottle(clock.clock)
    throttle.pause(REQUEST.url.origin(), 1e300)
    assert throttle.pause_remaining(REQUEST.url.origin()) == pytest.approx(60)


async def test_spread_takes_only_the_time_beyond_a_useful_attempt() -> None:
    clock = FakeClock([0.99])
    server = ScriptedHandler(clock, [status(429, Retry_After="49")])
    await chain(clock, server)(REQUEST)
    assert server.times[-1] == pytest.approx(50)
    assert server.requests[-1].timeout == pytest.approx(10)


@pytest.mark.parametrize(("timeout", "latest"), [(30.0, 50.0), (4.0, 56.0)])
async def test_retry_without_useful_time_left_is_not_begun(timeout: float, latest: float) -> None:
    for wish, requests in ((latest, 2), (latest + 0.5, 1)):
        clock = FakeClock([0.0])
        server = ScriptedHandler(clock, [status(429, Retry_After=str(wish))])
        await chain(clock, server)(attrs.evolve(REQUEST, timeout=timeout))
        assert len(server.requests) == requests


async def test_first_attempt_is_begun_however_short_the_calls_time_is() -> None:
    clock = FakeClock()
    server = ScriptedHandler(clock, [stale()])
    assert (await chain(clock, server)(with_retry(max_elapsed_time=0.5))).status_code == 200
    assert [request.timeout for request in server.requests] == [0.5, 0.5]


async def test_pause_begins_with_the_third_503_in_a_row() -> None:
    clock = FakeClock()
    throttle = HostThrottle(clock.clock)
    sick = status(503, Retry_After="120")
    handler = chain(clock, ScriptedHandler(clock, [sick, sick, status(200), sick, sick, sick]), throttle=throttle)
    once = attrs.evolve(REQUEST, retry=RetryPolicy.none())
    for _ in range(5):
        await handler(once)
        assert throttle.pauses == {}
    await handler(once)
    assert throttle.pauses == {str(REQUEST.url.origin()): 60.0}


async def test_policy_without_retries_is_not_bound_by_a_pause() -> None:
    clock = FakeClock()
    throttle = HostThrottle(clock.clock)
    throttle.pause(REQUEST.url.origin(), 60)
    server = ScriptedHandler(clock)
    await chain(clock, server, throttle=throttle)(attrs.evolve(REQUEST, retry=RetryPolicy.none()))
    assert server.times == [0.0]
    assert throttle.pauses == {}


async def test_success_of_a_request_sent_before_the_pause_does_not_end_it() -> None:
    clock = FakeClock()
    throttle = HostThrottle(clock.clock)
    origin = REQUEST.url.origin()

    async def answer(_: Request) -> Response:
        clock.advance(1)
        throttle.pause(origin, 30)
        return status(200)

    await chain(clock, answer, throttle=throttle)(REQUEST)
    assert throttle.pause_remaining(origin) == 30


async def test_call_that_cannot_wait_probes_and_its_success_frees_the_others() -> None:
    clock = StoppedClock([0.0])
    server = ScriptedHandler(clock)
    throttle = HostThrottle(clock.clock)
    throttle.pause(REQUEST.url.origin(), 40)
    handler = chain(clock, server, throttle=throttle)
    patient = asyncio.ensure_future(handler(REQUEST))
    hasty = asyncio.ensure_future(handler(with_retry(max_elapsed_time=30)))
    await until(lambda: clock.sleeping == 2)
    with pytest.raises(errors.TransportError) as caught:
        await handler(with_retry(max_elapsed_time=30))
    assert (caught.value.outcome, caught.value.retry_after) == (Outcome.NOT_SENT, 40)
    clock.advance(1)
    assert (await hasty).status_code == 200
    clock.advance(9)
    assert (await patient).status_code == 200
    assert server.times == [1.0, 10.0]


async def test_probes_follow_at_growing_intervals_one_at_a_time() -> None:
    clock = FakeClock([0.0])
    throttle = HostThrottle(clock.clock)
    throttle.pause(REQUEST.url.origin(), 60)
    server = ScriptedHandler(clock, [dropped()] * 5)
    handler = chain(clock, server, throttle=throttle)
    for _ in range(5):
        with pytest.raises(errors.TransportError):
            await handler(with_retry(max_elapsed_time=25, retry_budget=0))
    assert server.times == [1.0, 3.0, 7.0, 15.0, 25.0]


async def test_cancelled_probe_lets_another_call_probe() -> None:
    clock = StoppedClock()
    throttle = HostThrottle(clock.clock)
    throttle.pause(REQUEST.url.origin(), 60)
    call = asyncio.ensure_future(chain(clock, ScriptedHandler(clock), throttle=throttle)(REQUEST))
    await until(lambda: clock.sleeping == 1)
    assert throttle.probe_delay(REQUEST.url.origin()) == math.inf
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert throttle.probe_delay(REQUEST.url.origin()) == 2.0


async def test_failure_that_cannot_heal_is_tried_once() -> None:
    clock = FakeClock()
    failure = errors.TransportError("bad certificate", outcome=Outcome.NOT_SENT, is_permanent=True)
    server = ScriptedHandler(clock, [failure])
    with pytest.raises(errors.TransportError):
        await chain(clock, server)(REQUEST)
    assert len(server.requests) == 1


# --- dead pooled connections ---------------------------------------------------------------------------------------


async def test_dead_pooled_connections_cost_no_time_attempts_or_budget() -> None:
    clock = FakeClock()
    server = ScriptedHandler(clock, [*(stale() for _ in range(50)), status(503), *(stale() for _ in range(50))])
    response = await chain(clock, server)(with_retry(max_attempts=2, retry_budget=5))
    assert response.status_code == 200
    assert len(response.history) == 101
    assert clock.waits == [0.25]


async def test_dead_pooled_connections_are_bounded_by_max_elapsed_time() -> None:
    clock = FakeClock()
    server = ScriptedHandler(clock, [stale() for _ in range(100)], takes=1.0)
    with pytest.raises(errors.TransportError):
        await chain(clock, server)(with_retry(max_elapsed_time=10))
    assert len(server.requests) == 10


# --- the retry budget ----------------------------------------------------------------------------------------------


def test_retry_budget_refill_is_capped_at_its_capacity() -> None:
    throttle, origin = HostThrottle(SYSTEM_CLOCK), URL("https://openrouter.ai")
    assert [throttle.spend(origin, 12, cost) for cost in (5, 5, 5, 2)] == [True, True, False, True]
    assert throttle.tokens_left(12) == {"https://openrouter.ai": 0}
    throttle.refund(origin, 100)
    assert [throttle.spend(origin, 12, cost) for cost in (5, 5, 5)] == [True, True, False]


async def test_retry_budget_bounds_the_traffic_to_a_server_that_is_down() -> None:
    clock = FakeClock()
    server = ScriptedHandler(clock, [status(503)] * 10_000)
    handler = chain(clock, server)
    for _ in range(999):
        await handler(with_retry(retry_budget=500))
    response = await handler(with_retry(retry_budget=500))
    # 500 tokens are a hundred retries at 5 each.
    assert len(server.requests) == 1000 + 100
    assert error_of(response, clock).__notes__ == ["not retried: the retry budget of 500 is used up"]


async def test_retry_budget_is_not_used_by_retries_with_retry_after() -> None:
    clock = FakeClock()
    steps = [status(429, retry_after="1")] * 3 + [status(200), status(503, retry_after="1"), status(200)]
    handler = chain(clock, ScriptedHandler(clock, steps))
    assert (await handler(with_retry(retry_budget=4))).status_code == 200
    response = await handler(with_retry(retry_budget=4))
    assert error_of(response, clock).__notes__ == ["not retried: the retry budget of 4 is used up"]


@pytest.mark.parametrize(("wish", "retries"), [("1", 1), ("0", 0), (None, 0)])
async def test_retry_budget_is_used_by_a_429_without_retry_after(wish: str | None, retries: int) -> None:
    clock = FakeClock()
    throttled = status(429) if wish is None else status(429, Retry_After=wish)
    response = await chain(clock, ScriptedHandler(clock, [throttled]))(with_retry(retry_budget=0))
    assert len(response.history) == retries


async def test_retry_budget_disabled_retries_every_call() -> None:
    clock = FakeClock()
    server = ScriptedHandler(clock, [status(503)] * 10_000)
    handler = chain(clock, server)
    for _ in range(200):
        await handler(with_retry(retry_budget=None))
    assert len(server.requests) == 200 * 4


async def test_retry_budget_timeout_costs_twice_and_exhaustion_is_named() -> None:
    clock = FakeClock()
    handler = chain(clock, ScriptedHandler(clock, [late(), late(), late()]))
    with pytest.raises(errors.RequestTimeoutError) as caught:
        await handler(with_retry(retry_budget=20, max_attempts=9))
    assert len(caught.value.history) == 2
    assert caught.value.__notes__ == ["not retried: the retry budget of 20 is used up"]


async def test_retry_budget_is_refilled_by_successes_and_retried_successes() -> None:
    clock = FakeClock()
    steps = [status(503), status(503), status(200), *[status(200)] * 5, status(503), status(503), status(503)]
    handler = chain(clock, ScriptedHandler(clock, steps))
    request = with_retry(retry_budget=10, max_attempts=9)
    assert len((await handler(request)).history) == 2  # empty, then 5 given back
    for _ in range(5):
        await handler(request)  # 1 given back by each
    assert len((await handler(request)).history) == 2


@pytest.mark.parametrize(("code", "tokens"), [(200, None), (299, None), (300, 5), (400, 5)])
async def test_retry_budget_is_not_refilled_by_failures(code: int, tokens: float | None) -> None:
    clock = FakeClock()
    throttle = HostThrottle(clock.clock)
    await chain(clock, ScriptedHandler(clock, [status(503), status(code)]), throttle=throttle)(
        with_retry(retry_budget=10)
    )
    # A full budget is forgotten, and the host is as healthy as any.
    assert throttle.tokens_left(10) == ({} if tokens is None else {"https://openrouter.ai": tokens})


async def test_retry_budget_is_one_for_each_host_whatever_the_capacity() -> None:
    clock = FakeClock()
    handler = chain(clock, ScriptedHandler(clock, [status(503)] * 100))
    one = with_retry(retry_budget=5, max_attempts=2)
    assert len((await handler(one)).history) == 1
    assert len((await handler(one)).history) == 0
    assert len((await handler(attrs.evolve(one, url=URL("https://gateway.example/auth/keys")))).history) == 1
    assert len((await handler(with_retry(retry_budget=9, max_attempts=2))).history) == 0
    assert len((await handler(with_retry(retry_budget=10, max_attempts=2))).history) == 1


# --- the hook and the log ------------------------------------------------------------------------------------------


async def test_on_retry_is_called_before_each_wait(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    told: list[tuple[Request, Attempt, int]] = []

    def hook(request: Request, attempt: Attempt) -> None:
        told.append((request, attempt, len(clock.waits)))

    with caplog.at_level(logging.INFO, "openrouter_async"):
        response = await chain(clock, ScriptedHandler(clock, [status(503), dropped()]), on_retry=hook)(REQUEST)
    assert [attempt for _, attempt, _ in told] == list(response.history)
    assert [request for request, _, _ in told] == [REQUEST, REQUEST]
    assert [waits for _, _, waits in told] == [0, 1]
    assert [
        (record.levelname, *(vars(record)[name] for name in ("event", "operation", "attempt", "wait", "outcome")))
        for record in caplog.records
    ] == [
        ("INFO", "retry", "exchangeAuthCodeForAPIKey", 1, 0.25, "unknown"),
        ("INFO", "retry", "exchangeAuthCodeForAPIKey", 2, 0.5, "unknown"),
    ]
    assert [record.getMessage() for record in caplog.records] == [
        "exchangeAuthCodeForAPIKey: retrying in 0.25 s after attempt 1: 503 Service Unavailable",
        "exchangeAuthCodeForAPIKey: retrying in 0.50 s after attempt 2: dropped",
    ]


async def test_on_retry_exception_is_logged_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def hook(request: Request, attempt: Attempt) -> None:
        raise LookupError("mine")

    clock = FakeClock()
    response = await chain(clock, ScriptedHandler(clock, [status(503)]), on_retry=hook)(REQUEST)
    assert response.status_code == 200
    (failure,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert vars(failure)["event"] == "hook_failed"
    assert failure.getMessage().startswith("on_retry raised LookupError at ")
    assert "mine" not in caplog.text


async def test_on_retry_async_is_awaited() -> None:
    told: list[int] = []

    async def hook(request: Request, attempt: Attempt) -> None:
        told.append(attempt.number)

    clock = FakeClock()
    await chain(clock, ScriptedHandler(clock, [status(503)]), on_retry=hook)(REQUEST)
    assert told == [1]


async def test_pause_is_announced_once_by_a_held_call_and_never_by_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = FakeClock([0.0])
    throttle = HostThrottle(clock.clock)
    handler = chain(clock, ScriptedHandler(clock), throttle=throttle)
    with caplog.at_level(logging.DEBUG, "openrouter_async"):
        await handler(REQUEST)
        throttle.pause(REQUEST.url.origin(), 0.5)
        await handler(REQUEST)
    (held,) = caplog.records
    assert held.levelname == "DEBUG"
    assert held.getMessage() == "exchangeAuthCodeForAPIKey: waiting 0.50 s, as the server asked of all calls"
    assert [vars(held)[name] for name in ("event", "operation", "wait")] == [
        "paused",
        "exchangeAuthCodeForAPIKey",
        0.5,
    ]


async def test_on_retry_delay_is_the_actual_wait() -> None:
    clock = FakeClock()
    response = await chain(clock, ScriptedHandler(clock, [status(429, Retry_After="10")]))(REQUEST)
    assert [attempt.wait for attempt in response.history] == clock.waits == [11.0]


# --- outcomes over several attempts --------------------------------------------------------------------------------


async def test_inner_middleware_that_resends_hides_no_ambiguous_attempt() -> None:
    clock = FakeClock()
    server = ScriptedHandler(clock, [dropped(), status(429), status(429), status(403)])
    inner = RetryMiddleware(clock=clock.clock)
    outer = RetryMiddleware(clock=clock.clock)
    handler = build_chain("middlewares", [outer, inner], server)
    response = await handler(with_retry(max_attempts=2))
    assert response.status_code == 403
    assert [attempt.is_ambiguous for attempt in response.history] == [True, False, False]
    assert error_of(response, clock).outcome is Outcome.UNKNOWN


@pytest.mark.parametrize(
    ("steps", "pending"),
    [
        ([status(429)], False),
        ([unreachable()], False),
        ([dropped()], True),
        ([status(503)], True),
        ([status(429), dropped()], True),
        ([dropped(), status(429)], True),
        ([status(429), status(429)], False),
    ],
)
async def test_send_state_is_unsettled_while_an_attempt_may_have_been_processed(
    steps: list[Response | Exception], pending: bool
) -> None:
    clock = StoppedClock()
    server = ScriptedHandler(clock, steps)

    async def send(request: Request) -> Response:
        request.send_state.maybe_processed = True  # as the transport does when it writes
        return await server(request)

    request = attrs.evolve(with_retry(initial_interval=1, jitter=False), send_state=SendState())
    call = asyncio.ensure_future(chain(clock, send)(request))
    await until(lambda: clock.sleeping == 1)
    for _ in steps[1:]:
        clock.advance(10)
        await until(lambda: clock.sleeping == 1)
    assert request.send_state.maybe_processed is pending
    clock.advance(10)
    assert (await call).status_code == 200


async def test_inner_middleware_exception_keeps_its_history() -> None:
    clock = FakeClock()
    failure = dropped()
    server = ScriptedHandler(clock, [failure, unreachable(), unreachable(), unreachable()])
    inner = RetryMiddleware(clock=clock.clock)
    outer = RetryMiddleware(clock=clock.clock)
    with pytest.raises(errors.TransportError) as caught:
        await build_chain("middlewares", [outer, inner], server)(with_retry(max_attempts=2))
    assert caught.value.history[0].error is failure
    finalize_error(caught.value)
    assert caught.value.outcome is Outcome.UNKNOWN


def answers(*steps: bytes | None) -> Callable[[bytes], bytes | None]:
    script = iter(steps)
    return lambda _: next(script)


def said(code: int, message: str, *headers: str) -> bytes:
    return json_answer(code, json.dumps({"error": {"code": code, "message": message}}).encode(), *headers)


@pytest.mark.parametrize(
    ("first", "then", "outcome", "restart", "user_message"),
    [
        (None, said(400, "Invalid code"), Outcome.UNKNOWN, True, "could not be confirmed"),
        (
            said(500, "boom"),
            said(403, "Invalid code or code_verifier"),
            Outcome.UNKNOWN,
            True,
            "could not be confirmed",
        ),
        (said(429, "slow"), said(400, "Invalid code"), Outcome.REFUSED, True, "no longer valid"),
        (said(429, "slow"), said(429, "slow"), Outcome.REFUSED, False, "busy"),
        (said(503, "down"), said(429, "slow"), Outcome.UNKNOWN, True, "could not be confirmed"),
        (said(429, "slow"), said(401, "Missing Authentication header"), Outcome.REFUSED, True, "operator"),
    ],
)
async def test_retry_error_says_what_became_of_the_code_and_what_to_do(
    first: bytes | None, then: bytes, outcome: Outcome, restart: bool, user_message: str
) -> None:
    clock = FakeClock()
    async with RawServer(answers(first, then)) as server:
        retry = RetryPolicy(max_attempts=2)
        async with OpenRouter(None, base_url=server.base_url, retry=retry, clock=clock.clock) as client:
            with pytest.raises(errors.OpenRouterError) as caught:
                await client.oauth.exchange_auth_code_for_api_key(code="code-1")
    error = caught.value
    assert error.outcome is outcome
    assert error.restart_login is restart
    assert user_message in error.user_message
    assert error.attempts == 2
    assert len(error.__notes__) == 1
    assert error.__notes__[0].startswith("attempt 1: ")
    if outcome is Outcome.UNKNOWN:
        assert error.__cause__ is error.history[0].error


# --- deadlines from outside ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [[], [said(503, "down")]], ids=["in an attempt", "in a wait"])
async def test_retry_callers_asyncio_timeout_propagates(script: list[bytes]) -> None:
    hanging = iter(script)
    async with RawServer(lambda _: next(hanging, b"")) as server:
        retry = RetryPolicy(initial_interval=30, max_interval=30, jitter=False)
        async with OpenRouter(None, base_url=server.base_url, retry=retry) as client:
            started = asyncio.get_running_loop().time()
            with pytest.raises(TimeoutError) as caught:
                async with asyncio.timeout(0.05):
                    await client.oauth.exchange_auth_code_for_api_key(code="code-1")
            assert not isinstance(caught.value, errors.OpenRouterError)
            assert asyncio.get_running_loop().time() - started < 5
            await client.aclose(timeout=0)


async def test_attempt_timeout_and_max_elapsed_time_both_apply() -> None:
    async with RawServer(lambda _: b"") as server, OpenRouter(None, base_url=server.base_url) as client:
        for timeout, limit, attempts in ((0.02, 30.0, 3), (30.0, 0.05, 1)):
            options = RequestOptions(
                timeout=timeout, retry=RetryPolicy(max_attempts=3, initial_interval=0, max_elapsed_time=limit)
            )
            started = asyncio.get_running_loop().time()
            with pytest.raises(errors.RequestTimeoutError) as caught:
                await client.oauth.exchange_auth_code_for_api_key(code="code-1", options=options)
            assert caught.value.attempts == attempts
            assert asyncio.get_running_loop().time() - started < 5
