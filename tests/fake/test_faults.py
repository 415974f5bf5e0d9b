from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openrouter_async import OpenRouter, Outcome, RetryPolicy
from openrouter_async._values.clock import Clock
from openrouter_async.errors import (
    APIError,
    ForbiddenResponseError,
    OpenRouterError,
    RequestTimeoutError,
    RequestValidationError,
    ResponseValidationError,
    TooManyRequestsResponseError,
    TransportError,
)
from openrouter_async.testing import FakeOpenRouter, Fault
from openrouter_async.testing._app import FaultQueue
from openrouter_async.testing._authority import FAULT_PREFIX
from openrouter_async.testing._clock import MovableClock
from openrouter_async.testing._html import FAULTS
from openrouter_async.testing.faults import FaultKind
from tests.fake.support import create, exchange
from tests.kit.clocks import FROZEN
from tests.kit.servers import start_app
from tests.support import PATIENCE

ONCE = RetryPolicy.none()


@pytest.fixture
async def fake() -> AsyncIterator[FakeOpenRouter]:
    async with FakeOpenRouter(clock=FROZEN) as server:
        yield server


async def fail(fake: FakeOpenRouter, *, code: str | None = None, timeout: float = 5.0) -> OpenRouterError:
    """Exchange a code, without retries, and give the error."""
    async with OpenRouter(None, base_url=fake.base_url, retry=ONCE, timeout=timeout) as client:
        with pytest.raises(OpenRouterError) as caught:
            await client.oauth.exchange_auth_code_for_api_key(code=code or fake.issue_code())
    return caught.value


# Scripts.


@pytest.mark.parametrize(
    ("fault", "keys", "kind", "outcome"),
    [
        (Fault.status(500), 0, APIError, Outcome.UNKNOWN),
        (Fault.status(500, after=True), 1, APIError, Outcome.UNKNOWN),
        (Fault.status(429), 0, TooManyRequestsResponseError, Outcome.REFUSED),
        (Fault.status(418, body="tea", headers={"content-type": "text/plain"}), 0, APIError, Outcome.REFUSED),
        (Fault.status(599), 0, APIError, Outcome.UNKNOWN),
        (Fault.status(200, body="{}"), 0, ResponseValidationError, Outcome.UNKNOWN),
        (Fault.status(302, headers={"Location": "https://elsewhere.example/"}), 0, ResponseValidationError, None),
        (Fault.html(), 0, APIError, Outcome.UNKNOWN),
        (Fault.html(403, challenge=True), 0, ForbiddenResponseError, Outcome.REFUSED),
        (Fault.text(503), 0, APIError, Outcome.UNKNOWN),
        (Fault.empty(), 0, APIError, Outcome.UNKNOWN),
        (Fault.zod_error(), 0, APIError, Outcome.REFUSED),
        (Fault.drop(), 0, TransportError, Outcome.UNKNOWN),
        (Fault.drop(after=True), 1, TransportError, Outcome.UNKNOWN),
        (Fault.cut_body(), 1, TransportError, Outcome.UNKNOWN),
    ],
    ids=str,
)
async def test_fault_applies_to_one_request_only(
    fake: FakeOpenRouter, fault: Fault, keys: int, kind: type[OpenRouterError], outcome: Outcome | None
) -> None:
    fake.queue_faults(fault)
    error = await fail(fake)

    assert isinstance(error, kind)
    assert outcome in (None, error.outcome)
    assert len(fake.issued_keys) == keys
    assert fake.counters[f"fault {fault.kind}"] == 1
    assert fake.requests[-1].status == {
        FaultKind.STATUS: fault.status_code, FaultKind.CUT: 200, FaultKind.DROP: None
    }[fault.kind]  # fmt: skip
    assert (await exchange(fake, fake.issue_code())).status == 200


async def test_fault_bodies_have_the_observed_shapes(fake: FakeOpenRouter) -> None:
    fake.queue_faults(
        Fault.html(520), Fault.html(403, challenge=True), Fault.text(503, "no healthy upstream"), Fault.empty(504),
        Fault.zod_error(), Fault.status(429), Fault.status(599), Fault.status(400, message="Broken"),
    )  # fmt: skip
    page, challenge, text, empty, zod, busy, odd, broken = [await exchange(fake, "c") for _ in range(8)]

    assert page.headers["Content-Type"].startswith("text/html")
    assert {"CF-RAY", "Server"} <= set(page.headers)
    assert "520" in page.text
    assert challenge.headers["CF-Mitigated"] == "challenge"
    assert text.text == "no healthy upstream"
    assert (empty.status, empty.text) == (504, "")
    assert zod.json["error"]["name"] == "ZodError"
    assert [reply.message for reply in (busy, odd, broken)] == ["Rate limit exceeded", "Unknown Error", "Broken"]


async def test_fault_queue_is_used_in_order_by_any_operation(fake: FakeOpenRouter) -> None:
    fake.queue_faults(Fault.status(501).times(2), Fault.status(502))
    fake.queue_faults(Fault.status(503))
    replies = [await create(fake), await exchange(fake, "c"), await create(fake), await exchange(fake, "c")]

    assert [reply.status for reply in replies] == [501, 501, 502, 503]
    assert fake.counters["create 501"] == fake.counters["exchange 501"] == 1


async def test_fault_delay_follows_the_clock(fake: FakeOpenRouter) -> None:
    fake.queue_faults(Fault.delay(60))
    waiting = asyncio.create_task(exchange(fake, fake.issue_code()))
    await until(lambda: fake.issued_keys)
    assert fake.requests[-1].status is None
    fake.advance(59)
    await asyncio.wait((waiting,), timeout=0.02)
    assert not waiting.done()
    fake.advance(1)

    assert (await waiting).status == 200
    assert fake.requests[-1].status == 200


@pytest.mark.parametrize("after", [False, True])
async def test_fault_hang_ends_with_its_client(fake: FakeOpenRouter, after: bool) -> None:
    fake.queue_faults(Fault.hang(after=after))
    error = await fail(fake, timeout=0.05)

    assert isinstance(error, RequestTimeoutError)
    assert len(fake.issued_keys) == after
    assert fake.requests[-1].status is None


async def test_fault_hang_ends_with_the_server() -> None:
    async with FakeOpenRouter() as fake:
        fake.queue_faults(Fault.hang())
        waiting = asyncio.create_task(exchange(fake, "c"))
        await until(lambda: fake.counters["fault hang"])
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await waiting


async def test_fault_hang_in_another_server_ends_with_that_server() -> None:
    fake = FakeOpenRouter()
    runner, url = await start_app(fake.app)
    base_url = f"{url}/api/v1"
    fake.queue_faults(Fault.hang())
    async with OpenRouter(None, base_url=base_url, retry=ONCE, timeout=0.05) as client:
        with pytest.raises(RequestTimeoutError):
            await client.oauth.exchange_auth_code_for_api_key(code="c")
    async with asyncio.timeout(PATIENCE):
        await runner.cleanup()


async def test_client_retries_get_past_transient_faults(fake: FakeOpenRouter) -> None:
    async with OpenRouter(
        None, base_url=fake.base_url, clock=Clock(sleep=lambda _: asyncio.sleep(0)), retry=RetryPolicy(max_attempts=6)
    ) as client:
        fake.queue_faults(
            Fault.status(503), Fault.drop(), Fault.html(), Fault.status(429, headers={"Retry-After-Ms": "5"})
        )
        result = await client.oauth.exchange_auth_code_for_api_key(code=fake.issue_code())

    assert result.http_meta.attempts == 5
    assert result.key == fake.issued_keys[-1].key


# By code.


async def test_fault_named_by_a_code_is_applied(fake: FakeOpenRouter) -> None:
    code = fake.issue_code(fault="status-429.retry-7.x2")
    assert code.startswith("fault.status-429.retry-7.x2~auth_code_")
    replies = [await exchange(fake, code) for _ in range(4)]

    assert [reply.status for reply in replies] == [429, 429, 200, 403]
    assert [reply.headers.get("Retry-After") for reply in replies] == ["7", "7", None, None]


async def test_fault_may_be_prefixed_to_an_issued_code(fake: FakeOpenRouter) -> None:
    code = fake.issue_code()
    replies = [await exchange(fake, f"fault.status-500.after~{code}") for _ in range(2)]

    assert [reply.status for reply in replies] == [500, 403]
    assert fake.redeemed_codes == [code]


async def test_fault_of_a_code_applies_to_its_exchange_after_the_queue(fake: FakeOpenRouter) -> None:
    code = fake.issue_code(fault="status-503")
    fake.queue_faults(Fault.status(502))
    assert (await exchange(fake, code)).status == 502
    assert (await create(fake, key_label=code)).status == 200
    assert (await exchange(fake, code)).status == 503
    assert (await exchange(fake, code)).status == 200


async def test_fault_code_with_an_unknown_fault_is_refused(fake: FakeOpenRouter) -> None:
    code = fake.issue_code()
    reply = await exchange(fake, f"fault.statsu-503~{code}")

    assert (reply.status, reply.message) == (400, "The code asks for an unknown fault")
    assert not fake.issued_keys


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ("status-503", Fault.status(503)),
        ("status-500.after", Fault.status(500, after=True)),
        ("status-429.retry-2.x3", Fault.status(429, headers={"Retry-After": "2"}).times(3)),
        ("html-502.x2", Fault.html(502).times(2)),
        ("challenge-403", Fault.html(403, challenge=True)),
        ("text-500.after", Fault.text(500, after=True)),
        ("empty-504", Fault.empty(504)),
        ("zod-400", Fault.zod_error(400)),
        ("drop", Fault.drop()),
        ("drop.after.x2", Fault.drop(after=True).times(2)),
        ("cut", Fault.cut_body()),
        ("hang.after", Fault.hang(after=True)),
        ("delay-1500ms", Fault.delay(1.5)),
        ("delay-999999ms", Fault.delay(600)),
    ],
)
def test_fault_spec_is_parsed(spec: str, fault: Fault) -> None:
    assert Fault.from_spec(spec) == fault
    assert hash(Fault.from_spec(spec)) == hash(fault)
    assert FAULT_PREFIX.match(f"fault.{spec}~x")


@pytest.mark.parametrize(
    "spec",
    ["", "status", "status-99", "status-600", "status-503.x0", "status-503.x2.after", "drop-503", "drop.", "never"],
)
def test_fault_spec_without_a_fault_is_refused(spec: str) -> None:
    with pytest.raises(RequestValidationError) as caught:
        Fault.from_spec(spec)

    assert caught.value.field in ("fault", "status_code", "count")


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789.-~", max_size=40))
def test_fault_spec_of_any_text_is_a_fault_or_refused(spec: str) -> None:
    with contextlib.suppress(RequestValidationError):
        assert isinstance(Fault.from_spec(spec), Fault)


def test_fault_menu_of_the_consent_page_names_faults() -> None:
    assert [Fault.from_spec(spec).count for spec in FAULTS if spec] == [1] * (len(FAULTS) - 1)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Fault.status(100), "status_code"),
        (lambda: Fault.status(True), "status_code"),
        (lambda: Fault.delay(-1), "seconds"),
        (lambda: Fault.delay(float("inf")), "seconds"),
        (lambda: Fault.drop().times(0), "count"),
    ],
)
def test_fault_invalid_arguments_are_refused_by_name(make: Any, field: str) -> None:
    with pytest.raises(RequestValidationError) as caught:
        make()

    assert caught.value.field == field


def test_fault_counts_of_codes_are_bounded() -> None:
    script = FaultQueue()
    first = "fault.status-500~0"
    assert [script.next(first), script.next(first)] == [Fault.status(500), None]
    for number in range(1, 10_001):
        script.next(f"fault.status-500~{number}")
    assert script.next(first) == Fault.status(500)
    assert not len(script)
    script.add(Fault.drop().times(3), Fault.hang())
    assert len(script) == 4


# The rate limit.


async def test_rate_limit_client_that_waits_retry_after_is_let_in(fake: FakeOpenRouter) -> None:
    fake.rate_limit(5)
    replies = [await exchange(fake, "c") for _ in range(7)]
    assert [reply.status for reply in replies] == [403] * 5 + [429] * 2
    assert replies[-1].headers["Retry-After"] == "1"
    fake.advance(0.19)
    assert (await exchange(fake, "c")).status == 429
    fake.advance(0.01)
    assert (await exchange(fake, "c")).status == 403
    assert (await exchange(fake, "c")).status == 429
    fake.rate_limit(None)
    assert (await exchange(fake, "c")).status == 403


async def test_rate_limit_below_one_a_second_says_how_long_to_wait(fake: FakeOpenRouter) -> None:
    fake.rate_limit(0.1)
    assert (await exchange(fake, "c")).status == 403
    fake.advance(2.5)
    reply = await exchange(fake, "c")
    assert (reply.status, reply.headers["Retry-After"]) == (429, "8")
    fake.advance(7.4)
    assert (await exchange(fake, "c")).status == 429
    fake.advance(0.1)
    assert (await exchange(fake, "c")).status == 403


async def test_rate_limit_refused_request_meets_no_fault_and_redeems_nothing(fake: FakeOpenRouter) -> None:
    fake.rate_limit(1)
    code = fake.issue_code()
    await create(fake)
    fake.queue_faults(Fault.status(503))
    assert (await exchange(fake, code)).status == 429
    fake.advance(1)
    assert (await exchange(fake, code)).status == 503


@pytest.mark.parametrize("rate", [0, -1, float("nan"), "5", True])
def test_rate_limit_invalid_rate_is_refused(rate: Any) -> None:
    with pytest.raises(RequestValidationError, match="per_second"):
        FakeOpenRouter().rate_limit(rate)


# The clock.


async def test_fake_clock_with_autojump_off_wakes_sleepers_in_place() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    clock = MovableClock(Clock(monotonic=lambda: 0.0, sleep=sleep))
    await clock.sleep(5)
    await clock.sleep(0)
    assert slept == [5]


async def test_fake_clock_advanced_twice_wakes_each_sleeper() -> None:
    clock = MovableClock(FROZEN)
    sleeping = asyncio.create_task(clock.sleep(5))
    await asyncio.sleep(0)
    clock.advance(2)
    clock.advance(3)
    await sleeping


async def test_real_clock_is_waited_for() -> None:
    clock = MovableClock(Clock())
    started = clock.monotonic()
    await clock.sleep(0.01)
    assert clock.monotonic() - started >= 0.01


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), "1"])
def test_fake_clock_backwards_is_refused(seconds: Any) -> None:
    with pytest.raises(RequestValidationError, match="seconds"):
        FakeOpenRouter().advance(seconds)


async def until(condition: Any) -> None:
    """Run the event loop until a condition holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.001)
