from __future__ import annotations

import asyncio
import gc
import itertools
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from openrouter_async import (
    Batch,
    BatchProgress,
    ExchangeAuthCodeForAPIKeyRequest,
    ExchangeResult,
    Handler,
    OpenRouter,
    Outcome,
    Request,
    Response,
    RetryPolicy,
    errors,
)
from openrouter_async.pkce import PKCEPair
from openrouter_async.testing import FakeOpenRouter, Fault
from tests.batch.support import Safe, issue, read
from tests.kit.clocks import FROZEN, FakeClock, StoppedClock, passes, until
from tests.kit.gates import Gate
from tests.support import PATIENCE

REFUSED = Fault.status(403, message="Invalid code or code_verifier")


def connect(fake: FakeOpenRouter, **options: Any) -> OpenRouter:
    return OpenRouter(None, base_url=fake.base_url, **options)


async def each(codes: list[str]) -> AsyncIterator[str]:
    for code in codes:
        await asyncio.sleep(0)
        yield code


async def test_exchange_many_gives_each_request_a_result_with_its_index(
    fake: FakeOpenRouter, client: OpenRouter
) -> None:
    codes = issue(fake, 20)
    results = [result async for result in client.oauth.exchange_many(codes, concurrency=3)]
    assert sorted(result.index for result in results) == list(range(20))
    for result in results:
        assert result.request is not None
        assert result.request.code == codes[result.index]
        assert result.outcome is Outcome.COMPLETED
        assert result.unwrap().key == result.key
    assert {result.key for result in results} == {issued.key for issued in fake.issued_keys}


async def test_exchange_many_accepts_any_iterable_of_codes_and_requests(
    fake: FakeOpenRouter, client: OpenRouter
) -> None:
    pair = PKCEPair.generate()
    with_verifier = ExchangeAuthCodeForAPIKeyRequest(
        code=fake.issue_code(code_challenge=pair.code_challenge, code_challenge_method="S256"),
        code_verifier=pair.code_verifier,
        code_challenge_method="S256",
    )
    for requests in ([with_verifier], iter(issue(fake, 2)), each(issue(fake, 2)), (code for code in issue(fake, 2))):
        results = await client.oauth.exchange_all(requests)
        assert results
        assert all(result.error is None for result in results)


async def test_exchange_all_returns_results_in_input_order(fake: FakeOpenRouter, client: OpenRouter) -> None:
    codes = issue(fake, 30)
    results = await client.oauth.exchange_all(each(codes), concurrency=7)
    assert [result.request and result.request.code for result in results] == codes


async def test_ordered_batch_holds_back_early_results(fake: FakeOpenRouter) -> None:
    codes = [fake.issue_code(fault="delay-60000ms"), *issue(fake, 11)]
    async with connect(fake) as client:
        batch = client.oauth.exchange_many(codes, concurrency=2, ordered=True)
        first = asyncio.ensure_future(anext(batch))
        # The second worker goes on until there are twice as many unread results as workers.
        await until(lambda: batch.progress.finished == 3)
        assert not first.done()
        assert batch.progress.taken == 4
        fake.advance(60)
        assert (await first).index == 0
        assert [result.index async for result in batch] == list(range(1, 12))


async def test_batch_has_no_more_exchanges_in_flight_than_its_concurrency(fake: FakeOpenRouter) -> None:
    gate = Gate()
    async with connect(fake, middlewares=[gate]) as client:
        collecting = asyncio.ensure_future(client.oauth.exchange_all(issue(fake, 40), concurrency=5))
        for _ in range(40):
            await until(lambda: gate.waiting > 0)
            gate.let(1)
        await collecting
    assert gate.most == 5


async def test_batch_with_slow_consumer_pauses_its_workers(fake: FakeOpenRouter, client: OpenRouter) -> None:
    asked = 0

    def codes() -> Iterator[str]:
        nonlocal asked
        while True:
            asked += 1
            yield fake.issue_code()

    batch = client.oauth.exchange_many(codes(), concurrency=4)
    await anext(batch)
    await until(lambda: batch.progress.finished == 9)
    for _ in range(50):
        await asyncio.sleep(0)
    # Nine: the one that was read, and twice as many as there are workers.
    assert (asked, batch.progress.taken, batch.progress.in_flight) == (9, 9, 0)
    await anext(batch)
    await until(lambda: batch.progress.finished == 10)
    assert asked == 10
    await batch.aclose()


async def test_batch_with_slow_producer_delivers_finished_results(fake: FakeOpenRouter, client: OpenRouter) -> None:
    queue: asyncio.Queue[str] = asyncio.Queue()

    async def codes() -> AsyncIterator[str]:
        while code := await queue.get():
            yield code

    batch = client.oauth.exchange_many(codes(), concurrency=4)
    for code in issue(fake, 3):
        queue.put_nowait(code)
        assert (await anext(batch)).unwrap().key
    queue.put_nowait("")
    assert [result async for result in batch] == []


async def test_batch_failure_of_one_request_leaves_the_others(fake: FakeOpenRouter, client: OpenRouter) -> None:
    codes = issue(fake, 9)
    results = await client.oauth.exchange_all([*codes[:4], "used", *codes[4:]])
    assert [result.index for result in results if result.error] == [4]
    failed = results[4]
    assert isinstance(failed.error, errors.ForbiddenResponseError)
    assert (failed.key, failed.outcome) == (None, Outcome.REFUSED)
    with pytest.raises(errors.ForbiddenResponseError):
        failed.unwrap()


async def test_batch_invalid_request_is_a_result_and_sends_nothing(fake: FakeOpenRouter, client: OpenRouter) -> None:
    code = fake.issue_code()
    invalid: list[Any] = [code, "", 7, None]
    results = await client.oauth.exchange_all(invalid)
    assert [type(result.error) for result in results] == [type(None), *[errors.RequestValidationError] * 3]
    assert [result.outcome for result in results[1:]] == [Outcome.NOT_SENT] * 3
    assert [result.request for result in results[1:]] == [None] * 3
    assert len(fake.requests) == 1


async def test_batch_middleware_exception_is_a_result_of_unknown_outcome(fake: FakeOpenRouter) -> None:
    async def fail(request: Request, call_next: Handler) -> Response:
        raise ZeroDivisionError

    async with connect(fake, middlewares=[fail]) as client:
        (result,) = await client.oauth.exchange_all(["c"])
    assert isinstance(result.error, errors.OpenRouterError)
    assert str(result.error) == "the exchange raised ZeroDivisionError"
    assert isinstance(result.error.__cause__, ZeroDivisionError)
    assert result.error.outcome is result.outcome is Outcome.UNKNOWN
    with pytest.raises(errors.OpenRouterError):
        result.unwrap()


async def test_batch_cancellation_inside_one_exchange_is_the_result_of_that_one(fake: FakeOpenRouter) -> None:
    first, second = issue(fake, 2)

    async def cancel(request: Request, call_next: Handler) -> Response:
        await asyncio.sleep(0)
        if first.encode() in request.body:
            raise asyncio.CancelledError
        return await call_next(request)

    async with connect(fake, middlewares=[cancel]) as client:
        results = await client.oauth.exchange_all([first, first, second], concurrency=2)
    assert [result.outcome for result in results] == [Outcome.UNKNOWN, Outcome.UNKNOWN, Outcome.COMPLETED]
    assert str(results[0].error) == "something inside the exchange was cancelled"


@pytest.mark.parametrize("number", [0, 1])
async def test_batch_cancelled_worker_ends_the_batch_and_waiters_for_its_code(
    fake: FakeOpenRouter, number: int
) -> None:
    gate = Gate()
    async with connect(fake, middlewares=[gate]) as client:
        batch = client.oauth.exchange_many([fake.issue_code()] * 3, concurrency=3)
        results: list[ExchangeResult] = []
        reading = asyncio.ensure_future(read(batch, results))
        await until(lambda: batch.progress.taken == 3 and gate.waiting == 1)
        batch._runner._workers[number].cancel()
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(asyncio.CancelledError):
                await reading
        assert all(worker.done() for worker in batch._runner._workers)
    # The equal request that waited was started in place of the cancelled one, and was too late as well.
    assert [result.outcome for result in results] == [Outcome.NOT_SENT] * 2
    assert len(fake.requests) == 0


async def test_batch_with_all_tasks_cancelled_sends_nothing_more(fake: FakeOpenRouter) -> None:
    fake.queue_faults(Fault.delay(0), Fault.hang().times(9))
    client = connect(fake)
    before = asyncio.all_tasks()
    batch = client.oauth.exchange_many(issue(fake, 9), concurrency=2)
    assert (await anext(batch)).error is None
    await until(lambda: len(fake.requests) == 3)
    ours = asyncio.all_tasks() - before
    # Exchanges under way are also tasks that others find, as `asyncio.run` does at its end.
    for task in ours:
        task.cancel()
    async with asyncio.timeout(PATIENCE):
        await asyncio.wait(ours & {*batch._runner._workers})
    assert len(fake.requests) == 3
    with pytest.raises(asyncio.CancelledError):
        await anext(batch)
    await client.aclose(timeout=0)


async def test_batch_result_has_the_key_even_if_on_key_fails(fake: FakeOpenRouter) -> None:
    async def refuse(*_: object) -> None:
        raise OSError

    async with connect(fake, on_key=refuse) as client:
        (result,) = await client.oauth.exchange_all(issue(fake, 1))
    assert isinstance(result.error, errors.KeyDeliveryError)
    assert (result.key, result.outcome) == (fake.issued_keys[0].key, Outcome.COMPLETED)


async def test_batch_equal_requests_are_sent_once(fake: FakeOpenRouter, client: OpenRouter) -> None:
    one, two = issue(fake, 2)
    results = await client.oauth.exchange_all([one, two, one, one, "bad", "bad", two], concurrency=2)
    assert len(fake.requests) == 3
    assert results[0].response == results[2].response
    assert results[0].key == results[2].key == results[3].key
    assert results[1].key == results[6].key
    assert results[4].error is results[5].error
    assert [result.index for result in results] == list(range(7))


async def test_batch_equal_request_waits_for_the_one_in_flight(fake: FakeOpenRouter) -> None:
    gate = Gate()
    async with connect(fake, middlewares=[gate]) as client:
        batch = client.oauth.exchange_many([fake.issue_code()] * 3, concurrency=3)
        first = asyncio.ensure_future(anext(batch))
        await until(lambda: batch.progress.taken == 3)
        await until(lambda: gate.waiting > 0)
        assert (gate.waiting, batch.progress.repeated) == (1, 0)
        gate.let(1)
        results = [await first, *[result async for result in batch]]
    assert len({result.key for result in results}) == 1
    assert batch.progress.repeated == 2


async def test_batch_requests_with_different_verifiers_are_not_shared(fake: FakeOpenRouter, client: OpenRouter) -> None:
    code = fake.issue_code()
    requests = [ExchangeAuthCodeForAPIKeyRequest(code=code, code_verifier=letter * 43) for letter in "ab"]
    await client.oauth.exchange_all(requests)
    assert len(fake.requests) == 2


async def test_exchange_many_forgets_old_requests_and_exchange_all_does_not(
    fake: FakeOpenRouter, client: OpenRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = issue(fake, 6)
    first = codes[0]
    monkeypatch.setattr("openrouter_async._client.oauth.DEDUP_CACHE_SIZE", 3)
    batch = client.oauth.exchange_many([*codes[:3], first, *codes[3:], first], concurrency=1)
    results = [result async for result in batch]
    assert results[3].key == results[0].key
    assert isinstance(results[-1].error, errors.ForbiddenResponseError)
    first, *others = issue(fake, 5)
    results = await client.oauth.exchange_all([first, *others, first], concurrency=1)
    assert results[-1].key == results[0].key


@pytest.mark.parametrize(
    "stop_on",
    [
        errors.APIError,
        (errors.TransportError, errors.APIError),
        lambda result: result.error is not None,
    ],
)
async def test_batch_stop_on_ends_the_batch(fake: FakeOpenRouter, client: OpenRouter, stop_on: Any) -> None:
    codes = issue(fake, 10)
    results = await client.oauth.exchange_all([*codes[:3], "bad", *codes[3:]], concurrency=1, stop_on=stop_on)
    assert [result.error is None for result in results] == [True, True, True, False]
    assert len(fake.requests) == 4


async def test_batch_stopped_by_stop_on_drains_sent_and_reports_rest_not_sent(
    fake: FakeOpenRouter,
) -> None:
    gate = Gate()
    codes = issue(fake, 4)
    async with connect(fake, attempt_middlewares=[gate], retry=RetryPolicy.none()) as client:
        fake.queue_faults(Fault.delay(60), REFUSED)
        collecting = asyncio.ensure_future(client.oauth.exchange_all(codes, concurrency=3, stop_on=errors.APIError))
        gate.let(1)
        await until(lambda: len(fake.redeemed_codes) == 1)
        gate.let(1)
        await until(lambda: len(fake.requests) == 2 and not gate.waiting)
        fake.advance(60)
        results = await collecting
    assert sorted(result.outcome for result in results) == [Outcome.COMPLETED, Outcome.NOT_SENT, Outcome.REFUSED]
    (not_sent,) = [result for result in results if result.outcome is Outcome.NOT_SENT]
    assert str(not_sent.error) == "not sent: stop_on ended the batch"
    assert len(fake.requests) == 2


async def test_batch_stop_on_that_raises_ends_the_batch(fake: FakeOpenRouter, client: OpenRouter) -> None:
    def fail(result: ExchangeResult) -> bool:
        raise ZeroDivisionError

    batch = client.oauth.exchange_many(issue(fake, 3), concurrency=1, stop_on=fail)
    assert (await anext(batch)).error is None
    with pytest.raises(ZeroDivisionError):
        await anext(batch)
    with pytest.raises(StopAsyncIteration):
        await anext(batch)


async def test_batch_timeout_ends_the_batch_but_not_sent_requests(fake: FakeOpenRouter) -> None:
    time = StoppedClock()
    gate = Gate()
    fake.queue_faults(Fault.delay(60))
    async with connect(fake, attempt_middlewares=[gate], clock=time.clock) as client:
        collecting = asyncio.ensure_future(client.oauth.exchange_all(each(issue(fake, 9)), concurrency=2, timeout=30))
        gate.let(1)
        await until(lambda: len(fake.redeemed_codes) == 1 and gate.waiting == 1)
        time.advance(30)
        await until(lambda: gate.waiting == 0)
        fake.advance(60)
        results = await collecting
    assert [result.outcome for result in results] == [Outcome.COMPLETED, Outcome.NOT_SENT]
    assert isinstance(results[1].error, errors.RequestTimeoutError)
    assert str(results[1].error) == "not sent: the batch's timeout of 30 s is over"


async def test_batch_timeout_ends_the_wait_for_input(fake: FakeOpenRouter) -> None:
    time = StoppedClock()

    async def codes() -> AsyncIterator[str]:
        yield fake.issue_code()
        await asyncio.Event().wait()

    async with connect(fake, clock=time.clock) as client:
        batch = client.oauth.exchange_many(codes(), timeout=30)
        assert (await anext(batch)).error is None
        time.advance(30)
        assert [result async for result in batch] == []
    assert batch.progress.is_finished


async def test_batch_that_ends_in_time_does_not_wait_for_its_timeout(fake: FakeOpenRouter) -> None:
    time = StoppedClock()
    async with connect(fake, clock=time.clock) as client:
        await client.oauth.exchange_all(issue(fake, 2), timeout=30)
    assert time.sleeping == 0


async def test_batch_break_out_of_loop_loses_no_key(fake: FakeOpenRouter) -> None:
    safe, gate = Safe(), Gate()
    async with connect(fake, on_key=safe, attempt_middlewares=[gate]) as client:
        gate.let(3)
        fake.queue_faults(Fault.delay(0), Fault.delay(60).times(2))
        async for result in client.oauth.exchange_many((fake.issue_code() for _ in itertools.count()), concurrency=4):
            assert result.error is None
            break
        await until(lambda: gate.waiting == 0)
        fake.advance(60)
    assert len(fake.issued_keys) == 3
    assert sorted(safe.keys.values()) == sorted(issued.key for issued in fake.issued_keys)


async def test_batch_break_without_on_key_logs_lost_keys(
    fake: FakeOpenRouter, client: OpenRouter, caplog: pytest.LogCaptureFixture
) -> None:
    fake.queue_faults(Fault.delay(0), Fault.delay(60))
    async for _ in client.oauth.exchange_many(issue(fake, 2), concurrency=2):
        break
    await until(lambda: len(fake.redeemed_codes) == 2)
    fake.advance(60)
    await until(lambda: len(caplog.records) > 0)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "1 key(s) of a batch are lost: it was left before its end, and no on_key kept them"
    ]


@pytest.mark.parametrize("is_safe", [True, False])
async def test_batch_dropped_with_an_unread_unknown_result_logs_it(
    fake: FakeOpenRouter, caplog: pytest.LogCaptureFixture, *, is_safe: bool
) -> None:
    fake.queue_faults(Fault.delay(0), Fault.status(500, message="Broken", after=True))
    async with connect(fake, retry=RetryPolicy.none(), on_key=Safe() if is_safe else None) as client:
        batch = client.oauth.exchange_many(issue(fake, 2), concurrency=1)
        assert (await anext(batch)).error is None
        runner = batch._runner
        await until(lambda: runner.progress.finished == 2)
        del batch
        gc.collect()
        await until(lambda: len(caplog.records) > 0)
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.getMessage().startswith(
        "1 unread result(s) of a batch have the outcome unknown: keys may exist that nobody has. The first: 500 Broken"
    )


async def test_batch_dropped_with_a_key_that_on_key_did_not_keep_logs_it(
    fake: FakeOpenRouter, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object) -> None:
        raise OSError

    async with connect(fake, on_key=fail) as client:
        batch = client.oauth.exchange_many(issue(fake, 2), concurrency=1)
        assert isinstance((await anext(batch)).error, errors.KeyDeliveryError)
        runner = batch._runner
        await until(lambda: runner.progress.finished == 2)
        del batch
        gc.collect()
        await until(lambda: len(caplog.records) > 0)
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.getMessage() == "1 key(s) of a batch are lost: it was left before its end, and no on_key kept them"


async def test_stop_on_matches_the_class_that_a_middleware_raised(fake: FakeOpenRouter) -> None:
    async def fail(request: Request, call_next: Handler) -> Response:
        raise ZeroDivisionError

    async with connect(fake, middlewares=[fail]) as client:
        results = await client.oauth.exchange_all(issue(fake, 3), concurrency=1, stop_on=ZeroDivisionError)
    assert len(results) == 1


async def test_batch_read_to_the_end_logs_no_loss(
    fake: FakeOpenRouter, client: OpenRouter, caplog: pytest.LogCaptureFixture
) -> None:
    batch = client.oauth.exchange_many(issue(fake, 3))
    assert len([result async for result in batch]) == 3
    del batch
    gc.collect()
    await asyncio.sleep(0)
    assert caplog.records == []


async def test_batch_never_started_sends_nothing(fake: FakeOpenRouter, client: OpenRouter) -> None:
    batch = client.oauth.exchange_many(issue(fake, 3))
    assert repr(batch) == "<Batch 0 results, 0 under way>"
    del batch
    batch = client.oauth.exchange_many(issue(fake, 3))
    async with batch:
        pass
    assert [result async for result in batch] == []
    assert repr(batch) == "<Batch 0 results, finished>"
    assert len(fake.requests) == 0


async def test_batch_exit_drains_and_leaves_results_readable(fake: FakeOpenRouter, client: OpenRouter) -> None:
    fake.queue_faults(Fault.delay(0), Fault.delay(60).times(2))
    async with client.oauth.exchange_many((fake.issue_code() for _ in itertools.count()), concurrency=3) as batch:
        async for result in batch:
            first = result
            break
        await until(lambda: len(fake.redeemed_codes) >= 3)
        fake.advance(60)
    rest = [result async for result in batch]
    keys = {result.key for result in (first, *rest) if result.error is None}
    assert keys == {issued.key for issued in fake.issued_keys}
    assert all(result.outcome is Outcome.NOT_SENT for result in rest if result.error)


async def test_batch_closed_at_any_moment_loses_no_key(fake: FakeOpenRouter) -> None:
    async def dawdle(request: Request, call_next: Handler) -> Response:
        await passes(5)
        return await call_next(request)

    sent = not_sent = 0
    async with connect(fake, attempt_middlewares=[dawdle]) as client:
        for moment in range(40):
            # On open connections, only the moment decides how far a request gets.
            await client.oauth.exchange_all(issue(fake, 4))
            codes = issue(fake, 4)
            async with client.oauth.exchange_many(codes, concurrency=4) as batch:
                reading = asyncio.ensure_future(anext(batch))
                for _ in range(moment):
                    await asyncio.sleep(0)
                reading.cancel()
            await asyncio.wait((reading,))
            results = [result async for result in batch]
            if not reading.cancelled():
                results.append(reading.result())
            redeemed = set(codes) & set(fake.redeemed_codes)
            assert {result.request.code for result in results if result.key and result.request} == redeemed
            sent += len(redeemed)
            not_sent += sum(result.outcome is Outcome.NOT_SENT for result in results)
    assert sent > 0
    assert not_sent > 0


async def test_batch_closed_with_a_timeout_returns_and_its_results_come_later(fake: FakeOpenRouter) -> None:
    gate = Gate(after=True)
    async with connect(fake, middlewares=[gate]) as client:
        batch = client.oauth.exchange_many(issue(fake, 3), concurrency=1)
        reading = asyncio.create_task(anext(batch))
        await gate.reached.wait()
        await batch.aclose(timeout=0)
        assert batch.progress.finished == 0
        gate.let()
        results = [await reading, *[result async for result in batch]]
    assert [result.key for result in results if result.key] == [issued.key for issued in fake.issued_keys]
    assert len(fake.issued_keys) == 1


@pytest.mark.parametrize("place", ["on_key", "on_progress", "requests"])
async def test_batch_closed_from_a_hook_ends(fake: FakeOpenRouter, place: str) -> None:
    async def close(*_: object) -> None:
        await batch.aclose()

    async def codes() -> AsyncIterator[str]:
        yield fake.issue_code()
        if place == "requests":
            await close()
        while True:
            yield fake.issue_code()

    on_key = close if place == "on_key" else Safe()
    async with connect(fake, on_key=on_key) as client, asyncio.timeout(PATIENCE):
        on_progress = close if place == "on_progress" else None
        batch = client.oauth.exchange_many(codes(), concurrency=2, on_progress=on_progress)
        results = [result async for result in batch]
    assert 1 <= len(results) <= 5
    assert {result.key for result in results if result.key} == {issued.key for issued in fake.issued_keys}
    assert all(worker.done() for worker in batch._runner._workers)


async def test_batch_cancelled_consumer_waits_for_sent_requests(fake: FakeOpenRouter, client: OpenRouter) -> None:
    fake.queue_faults(Fault.delay(60))
    batch = client.oauth.exchange_many(issue(fake, 5), concurrency=1)
    reading = asyncio.ensure_future(anext(batch))
    await until(lambda: len(fake.redeemed_codes) == 1)
    reading.cancel()
    for _ in range(20):
        await asyncio.sleep(0)
    assert not reading.done()
    fake.advance(60)
    with pytest.raises(asyncio.CancelledError):
        await reading
    (left,) = [result async for result in batch]
    assert left.key == fake.issued_keys[0].key
    assert len(fake.requests) == 1


async def test_batch_consumer_cancelled_twice_leaves_at_once_and_loses_no_key(fake: FakeOpenRouter) -> None:
    safe = Safe()
    fake.queue_faults(Fault.delay(60))
    async with connect(fake, on_key=safe) as client:
        reading = asyncio.ensure_future(client.oauth.exchange_all(issue(fake, 5), concurrency=1))
        await until(lambda: len(fake.redeemed_codes) == 1)
        for _ in range(2):
            reading.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await reading
        fake.advance(60)
    assert list(safe.keys.values()) == [fake.issued_keys[0].key]


async def test_exchange_all_that_fails_logs_lost_results(
    fake: FakeOpenRouter, client: OpenRouter, caplog: pytest.LogCaptureFixture
) -> None:
    def codes() -> Iterator[str]:
        yield from issue(fake, 2)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await client.oauth.exchange_all(codes())
    assert [record.getMessage()[:29] for record in caplog.records] == ["2 key(s) of a batch are lost:"]


async def test_batch_input_exception_is_raised_after_the_last_result(fake: FakeOpenRouter, client: OpenRouter) -> None:
    async def codes() -> AsyncIterator[str]:
        for code in issue(fake, 3):
            yield code
        raise ZeroDivisionError

    batch = client.oauth.exchange_many(codes(), concurrency=2)
    results: list[ExchangeResult] = []
    with pytest.raises(ZeroDivisionError):
        await read(batch, results)
    assert [result.error for result in results] == [None] * 3


async def test_batch_input_that_is_cancelled_cancels_the_consumer(fake: FakeOpenRouter, client: OpenRouter) -> None:
    async def codes() -> AsyncIterator[str]:
        yield fake.issue_code()
        raise asyncio.CancelledError

    batch = client.oauth.exchange_many(codes(), concurrency=2)
    results: list[ExchangeResult] = []
    with pytest.raises(asyncio.CancelledError):
        await read(batch, results)
    assert len(results) == 1


class Codes:
    """An async iterable whose generator tells when it is closed."""

    def __init__(self, fake: FakeOpenRouter, *, failing: bool = False) -> None:
        self._fake = fake
        self._failing = failing
        self.is_closed = False

    async def __aiter__(self) -> AsyncIterator[str]:
        try:
            while True:
                yield self._fake.issue_code()
        finally:
            self.is_closed = True
            if self._failing:
                raise ZeroDivisionError


async def test_batch_closes_the_generator_it_made(fake: FakeOpenRouter, client: OpenRouter) -> None:
    codes = Codes(fake)
    async with client.oauth.exchange_many(codes, concurrency=2) as batch:
        await anext(batch)
    assert codes.is_closed


async def test_batch_leaves_a_passed_generator_open(fake: FakeOpenRouter, client: OpenRouter) -> None:
    codes = Codes(fake)
    generator: Any = aiter(codes)
    async with client.oauth.exchange_many(generator, concurrency=2) as batch:
        await anext(batch)
    assert not codes.is_closed
    await generator.aclose()


async def test_batch_exception_from_closing_the_input_is_raised(fake: FakeOpenRouter, client: OpenRouter) -> None:
    batch = client.oauth.exchange_many(Codes(fake, failing=True), concurrency=1, stop_on=lambda _: True)
    assert (await anext(batch)).error is None
    with pytest.raises(ZeroDivisionError):
        await anext(batch)


async def test_client_aclose_ends_its_batches(fake: FakeOpenRouter) -> None:
    client = connect(fake)
    batch = client.oauth.exchange_many((fake.issue_code() for _ in itertools.count()), concurrency=2)
    await anext(batch)
    await client.aclose()
    results: list[ExchangeResult] = []
    with pytest.raises(errors.ClientClosedError):
        await read(batch, results)
    assert len(results) <= 4
    assert {result.outcome for result in results} <= {Outcome.COMPLETED, Outcome.NOT_SENT}


async def test_batch_retry_after_pauses_the_whole_batch(fake: FakeOpenRouter) -> None:
    time = FakeClock()
    fake.queue_faults(Fault.status(429, headers={"Retry-After": "7"}))
    async with connect(fake, clock=time.clock) as client:
        results = await client.oauth.exchange_all(issue(fake, 6), concurrency=3)
    assert all(result.error is None for result in results)
    # One was refused, and everything that had not been sent by then waited.
    assert fake.counters["exchange"] == 7
    assert time.now >= 1007


async def test_batch_options_apply_to_each_exchange(fake: FakeOpenRouter) -> None:
    from openrouter_async import RequestOptions

    async with OpenRouter(None) as client:
        options = RequestOptions(server_url=fake.base_url, headers={"X-App": "1"})
        results = await client.oauth.exchange_all(issue(fake, 2), options=options)
    assert all(result.error is None for result in results)
    assert [request.headers["X-App"] for request in fake.requests] == ["1", "1"]


async def test_batch_progress_is_counted(fake: FakeOpenRouter) -> None:
    time = FakeClock()
    reports: list[BatchProgress] = []

    def observe(progress: BatchProgress) -> None:
        reports.append(progress)
        time.advance(1)

    one = fake.issue_code()
    fake.queue_faults(Fault.delay(0), Fault.status(500, after=True))
    async with connect(fake, clock=time.clock, retry=RetryPolicy.none()) as client:
        codes = [one, fake.issue_code(), "bad", one]
        batch = client.oauth.exchange_many(codes, concurrency=1, on_progress=observe)
        assert len([result async for result in batch]) == 4
    last = reports[-1]
    assert last == BatchProgress(
        taken=4, succeeded=2, failed=2, unknown=1, repeated=1, skipped=0, elapsed=4.0, total=4, is_finished=True
    )
    assert (last.finished, last.in_flight, last.rate) == (4, 0, 1.0)
    assert [progress.finished for progress in reports] == [1, 2, 3, 4, 4]
    assert batch.progress == last
    assert BatchProgress().rate == 0.0


async def test_on_progress_is_called_at_most_ten_times_a_second_and_at_the_end(fake: FakeOpenRouter) -> None:
    time = FakeClock()
    reports: list[BatchProgress] = []
    async with connect(fake, clock=time.clock) as client:
        await client.oauth.exchange_all(iter(issue(fake, 20)), on_progress=reports.append)
    assert [progress.finished for progress in reports] == [1, 20]
    assert [progress.is_finished for progress in reports] == [False, True]
    # An iterator of a list knows how long it is; a generator does not.
    assert reports[-1].total == 20


async def test_on_progress_async_is_awaited_and_never_concurrent(fake: FakeOpenRouter) -> None:
    time = FakeClock()
    seen: list[int] = []
    go_on = asyncio.Event()

    async def observe(progress: BatchProgress) -> None:
        time.advance(1)
        seen.append(progress.finished)
        await go_on.wait()

    async with connect(fake, clock=time.clock) as client:
        batch = client.oauth.exchange_many((code for code in issue(fake, 5)), concurrency=1, on_progress=observe)
        await anext(batch)
        await until(lambda: len(seen) > 0)
        for _ in range(4):
            await anext(batch)
        assert seen == [1]
        go_on.set()
        assert [result async for result in batch] == []
    assert seen == [1, 5]
    assert batch.progress.total is None


async def test_on_progress_exception_is_logged_and_changes_nothing(
    fake: FakeOpenRouter, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(progress: BatchProgress) -> None:
        raise ZeroDivisionError

    async def fail_later(progress: BatchProgress) -> None:
        raise ZeroDivisionError

    # After the first report, the next one is due when the clock has moved, or at the end.
    async with OpenRouter(None, base_url=fake.base_url, clock=FROZEN) as client:
        for observe in (fail, fail_later):
            caplog.clear()
            results = await client.oauth.exchange_all(issue(fake, 3), on_progress=observe)
            assert [result.error for result in results] == [None] * 3
            assert [record.getMessage() for record in caplog.records] == ["on_progress raised; the batch goes on"] * 2


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("requests", {"requests": "a-single-code"}),
        ("requests", {"requests": b"a-single-code"}),
        ("requests", {"requests": 7}),
        ("concurrency", {"concurrency": 0}),
        ("concurrency", {"concurrency": True}),
        ("concurrency", {"concurrency": 1.5}),
        ("stop_on", {"stop_on": 7}),
        ("stop_on", {"stop_on": (7,)}),
        ("stop_on", {"stop_on": int}),
        ("timeout", {"timeout": 0}),
        ("timeout", {"timeout": float("nan")}),
        ("journal", {"journal": "path"}),
        ("on_progress", {"on_progress": 7}),
    ],
)
async def test_batch_bad_arguments_are_refused_unsent(
    client: OpenRouter, field: str, arguments: dict[str, Any]
) -> None:
    requests = arguments.pop("requests", ["code"])
    with pytest.raises(errors.RequestValidationError, match=f"^{field}: must be"):
        client.oauth.exchange_many(requests, **arguments)
    with pytest.raises(errors.RequestValidationError, match=f"^{field}: must be"):
        await client.oauth.exchange_all(requests, **arguments)


def test_batch_whose_loop_ends_midway_ends(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> Batch:
        async with FakeOpenRouter() as fake:
            fake.queue_faults(Fault.hang().times(9))
            client = connect(fake)
            batch = client.oauth.exchange_many((fake.issue_code() for _ in itertools.count()), concurrency=3)
            reading = asyncio.ensure_future(anext(batch))
            await until(lambda: len(fake.requests) == 3)
            reading.cancel()
            await asyncio.sleep(0)
            await client.aclose(timeout=0)
            return batch

    batch = asyncio.run(main())
    assert batch.progress.succeeded == 0
    # Its loop is closed by now.
    del batch
    gc.collect()


def test_batch_whose_loop_is_stopped_leaves_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> Batch:
        gate = Gate()
        client = OpenRouter(None, middlewares=[gate])
        batch = client.oauth.exchange_many(itertools.cycle(["one", "one", "two"]), concurrency=3)
        held.append(asyncio.ensure_future(anext(batch)))
        await until(lambda: batch.progress.taken == 3 and gate.waiting == 2)
        # asyncio.run cancels the remaining tasks. Only the pool is closed explicitly.
        await client._shared.transport.aclose()
        return batch

    held: list[asyncio.Future[ExchangeResult]] = []
    batch = asyncio.run(main())
    assert held[0].cancelled()
    assert batch.progress.is_finished
    assert caplog.records == []
