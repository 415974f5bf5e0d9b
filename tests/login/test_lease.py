"""The lease runner, with workers that stall, die and are overtaken, over memory and Valkey."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from openrouter_async import ExchangeAuthCodeForAPIKeyResponse, Outcome
from openrouter_async._values.clock import Clock
from openrouter_async.encryption import generate_encryption_key
from openrouter_async.errors import ForbiddenResponseError, TransportError
from openrouter_async.login import LoginStoreError, MemoryStore, RedisStore
from openrouter_async.login._lease import LeaseResult, LeaseRunner
from openrouter_async.login.stores import Claim, ClaimRequest, ClaimStatus, LeaseItem, LoginStore
from tests.login.support import NOW

SECRET: Final = generate_encryption_key()
LEASE: Final = 1000.0
"""Seconds, longer than any test: a lease ends only when a test ends it."""


class Site:
    """A store with one item, whose code OpenRouter accepts once. It counts its calls in flight."""

    def __init__(self, store: LoginStore, end_lease: Callable[[str], Awaitable[None]]) -> None:
        self.store = store
        self.item = LeaseItem(id=secrets.token_hex(8), value=b"content", binding="", expires_at=NOW + LEASE)
        self.key: str | None = None
        self.calls = 0
        self.is_down = False
        self._end_lease = end_lease

    async def end_lease(self) -> None:
        """Let the time of the current lease pass."""
        await self._end_lease(self.item.id)

    async def wait_until_idle(self) -> None:
        """Wait until all workers wait for the test."""
        idle = 0
        while idle < 10:
            await asyncio.sleep(0)
            idle = 0 if self.calls else idle + 1

    def redeem(self) -> ExchangeAuthCodeForAPIKeyResponse:
        if self.key is not None:
            raise ForbiddenResponseError("Invalid code or code_verifier", status_code=403, outcome=Outcome.REFUSED)
        self.key = secrets.token_hex(8)
        return ExchangeAuthCodeForAPIKeyResponse(key=self.key, user_id=None)

    async def put(self, item: LeaseItem, *, now: float) -> None:
        await self.store.put(item, now=now)

    async def claim(self, claim_request: ClaimRequest, *, now: float, claim_ttl: float) -> Claim:
        with self._counted():
            return await self.store.claim(claim_request, now=now, claim_ttl=claim_ttl)

    async def release(self, claim_request: ClaimRequest, *, now: float) -> None:
        with self._counted():
            await self.store.release(claim_request, now=now)

    async def finish(self, claim_request: ClaimRequest, result: bytes | None, *, now: float, result_ttl: float) -> None:
        with self._counted():
            await self.store.finish(claim_request, result, now=now, result_ttl=result_ttl)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self.calls += 1
        try:
            if self.is_down:
                raise LoginStoreError("out of reach")
            yield
        finally:
            self.calls -= 1


class Worker:
    """A worker whose exchange waits until the test lets it continue."""

    def __init__(
        self, site: Site, *, retry_uncertain: bool = False, busy_timeout: float = 0.0, claim_ttl: float = LEASE
    ) -> None:
        self._site = site
        loop = asyncio.get_running_loop()
        self._sent: asyncio.Future[str] = loop.create_future()
        self._answered: asyncio.Future[None] = loop.create_future()
        self.is_exchanging = asyncio.Event()
        self.pauses: asyncio.Queue[asyncio.Future[None]] = asyncio.Queue()
        runner = LeaseRunner(
            site,
            Clock(time=lambda: NOW, monotonic=lambda: 0.0, sleep=self._pause),
            claim_ttl=claim_ttl,
            result_ttl=60,
            busy_timeout=busy_timeout,
            retry_uncertain=retry_uncertain,
        )
        request = ClaimRequest(id=site.item.id, binding="", is_bound=True, token=secrets.token_urlsafe(8))
        self.task: asyncio.Task[LeaseResult] = loop.create_task(runner.run(request, self))

    async def _pause(self, _seconds: float) -> None:
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.pauses.put_nowait(waiting)
        await waiting

    async def exchange(self, value: bytes, /) -> ExchangeAuthCodeForAPIKeyResponse:
        assert value == self._site.item.value
        self.is_exchanging.set()
        how = await self._sent
        if how == "not sent":
            raise TransportError("no connection", outcome=Outcome.NOT_SENT)
        try:
            response = self._site.redeem()
        finally:
            await self._answered
        if how == "answer lost":
            raise TransportError("no answer", outcome=Outcome.UNKNOWN)
        return response

    def to_result(self, response: ExchangeAuthCodeForAPIKeyResponse, *, delivered: bool) -> bytes:
        assert delivered
        return response.key.encode()

    def send(self, how: str = "") -> None:
        if not self._sent.done():
            self._sent.set_result(how)

    def answer(self) -> None:
        if not self._answered.done():
            self._answered.set_result(None)

    async def finish(self, how: str = "") -> LeaseResult:
        self.send(how)
        self.answer()
        return await self.task


async def begin(site: Site, **settings: float) -> Worker:
    """Return a worker that has the lease."""
    worker = Worker(site, **settings)  # type: ignore[arg-type]
    exchanging = asyncio.ensure_future(worker.is_exchanging.wait())
    await asyncio.wait((exchanging, worker.task), return_when=asyncio.FIRST_COMPLETED)
    assert exchanging.done(), "the worker did not get the lease"
    return worker


@contextlib.asynccontextmanager
async def opened(kind: str, url: str) -> AsyncIterator[Site]:
    async with contextlib.AsyncExitStack() as stack:
        if kind == "memory":
            memory = MemoryStore()

            async def end_in_memory(name: str) -> None:
                if (entry := memory._pending.get(name)) is not None:
                    entry.lease_ends_at = 0.0

            site = Site(memory, end_in_memory)
        else:
            connection = await stack.enter_async_context(Redis.from_url(url))

            store = RedisStore(connection, encryption_keys=SECRET)

            async def end_in_valkey(name: str) -> None:
                (key,) = await connection.keys(f"*:login:{name}")
                if await connection.hexists(key, "lease_ends_at"):
                    await connection.hset(key, "lease_ends_at", "0")

            site = Site(store, end_in_valkey)
        await site.put(site.item, now=NOW)
        yield site


@pytest.fixture(params=["memory", "valkey"])
async def site(request: pytest.FixtureRequest, valkey_url: str) -> AsyncIterator[Site]:
    async with opened(request.param, valkey_url) as made:
        yield made


async def test_lease_runner_second_worker_waits_and_gets_the_same_result(site: Site) -> None:
    first = await begin(site)
    second = Worker(site, busy_timeout=30)
    waiting = await second.pauses.get()

    own = await first.finish()
    waiting.set_result(None)
    replay = await second.task

    assert not own.is_replay
    assert replay.is_replay
    assert own.claim.value == replay.claim.value == str(site.key).encode()
    assert not second.is_exchanging.is_set()


async def test_lease_runner_second_worker_that_does_not_wait_is_busy(site: Site) -> None:
    first = await begin(site)

    assert (await Worker(site).task).claim.status is ClaimStatus.BUSY
    assert (await first.finish()).claim.status is ClaimStatus.FINISHED


async def test_lease_runner_after_a_request_not_sent_releases_the_item(site: Site) -> None:
    first = await begin(site)
    with pytest.raises(TransportError):
        await first.finish("not sent")

    second = await begin(site)
    result = await second.finish()

    assert (result.claim.value, result.claim.lost) == (str(site.key).encode(), False)


async def test_lease_runner_rejected_after_a_stall_gets_the_key_of_the_other_worker(site: Site) -> None:
    stalled = await begin(site)
    await site.end_lease()
    heir = await begin(site)

    own = await heir.finish()
    explained = await stalled.finish()

    assert explained.is_replay
    assert explained.claim.value == own.claim.value
    assert explained.rejection is not None


async def test_lease_runner_rejected_after_a_worker_was_lost_is_unknown(site: Site) -> None:
    dying = await begin(site)
    dying.send()
    await site.wait_until_idle()
    dying.task.cancel()
    await asyncio.wait((dying.task,))
    await site.end_lease()

    result = await (await begin(site)).finish()

    assert result.claim.lost
    assert result.rejection is not None
    assert result.rejection.outcome is Outcome.UNKNOWN
    assert (await Worker(site).task).claim.status is ClaimStatus.CONSUMED


@pytest.mark.parametrize("is_lost", [False, True])
async def test_lease_runner_rejected_while_the_store_is_down_keeps_its_outcome(site: Site, is_lost: bool) -> None:
    if is_lost:
        await begin(site)
        await site.end_lease()
    worker = await begin(site)
    site.redeem()
    site.is_down = True

    result = await worker.finish()

    assert result.rejection is not None
    assert result.rejection.outcome is (Outcome.UNKNOWN if is_lost else Outcome.REFUSED)


async def test_lease_runner_rejected_while_another_worker_exchanges_is_busy(site: Site) -> None:
    stalled = await begin(site)
    await site.end_lease()
    heir = await begin(site)
    heir.send()

    result = await stalled.finish()

    assert result.claim.status is ClaimStatus.BUSY
    assert (await heir.finish()).claim.value == str(site.key).encode()


async def test_lease_runner_rejected_after_another_worker_ended_unknown_is_unknown(site: Site) -> None:
    stalled = await begin(site)
    await site.end_lease()
    heir = await begin(site)
    with pytest.raises(TransportError):
        await heir.finish("answer lost")

    result = await stalled.finish()

    assert result.rejection is not None
    assert result.rejection.outcome is Outcome.UNKNOWN


async def test_lease_runner_expiring_item_is_lost_to_the_next_worker(site: Site) -> None:
    first = Worker(site, retry_uncertain=True)
    with pytest.raises(TransportError):
        await first.finish("answer lost")
    assert (await Worker(site).task).claim.status is ClaimStatus.BUSY
    await site.end_lease()

    result = await Worker(site, retry_uncertain=True).finish()

    assert result.claim.lost
    assert result.rejection is not None
    assert result.rejection.outcome is Outcome.UNKNOWN


async def test_lease_runner_waits_for_a_renewal_before_it_records(site: Site) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()
    order: list[str] = []
    claim, finish = site.store.claim, site.store.finish

    class Slow(Site):
        async def claim(self, claim_request: ClaimRequest, *, now: float, claim_ttl: float) -> Claim:
            if order:
                reached.set()
                await go_on.wait()
            order.append("claim")
            return await claim(claim_request, now=now, claim_ttl=claim_ttl)

        async def finish(
            self, claim_request: ClaimRequest, result: bytes | None, *, now: float, result_ttl: float
        ) -> None:
            order.append("finish")
            await finish(claim_request, result, now=now, result_ttl=result_ttl)

    slow = Slow(site.store, site._end_lease)
    slow.item = site.item
    worker = await begin(slow, claim_ttl=0.003)
    await reached.wait()
    worker.send()
    worker.answer()
    await slow.wait_until_idle()
    assert order == ["claim"]
    go_on.set()
    await worker.task

    assert order[-1] == "finish"


STEPS: Final = ("start", "send", "send unsent", "send and lose the answer", "answer", "end the lease", "kill")
histories = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 3)), max_size=25)


async def play(site: Site, history: list[tuple[str, int]], retry_uncertain: bool) -> list[Worker]:
    """Run a history of up to four concurrent workers, and then let all that are alive finish."""
    workers: list[Worker] = [Worker(site, retry_uncertain=retry_uncertain)]
    for step, number in history:
        await site.wait_until_idle()
        worker = workers[number % len(workers)]
        if step == "start":
            workers.append(Worker(site, retry_uncertain=retry_uncertain))
        elif step == "send":
            worker.send()
        elif step == "send unsent":
            worker.send("not sent")
        elif step == "send and lose the answer":
            worker.send("answer lost")
        elif step == "answer":
            worker.answer()
        elif step == "end the lease":
            await site.end_lease()
        else:
            worker.task.cancel()
    await site.wait_until_idle()
    for worker in workers:
        worker.send()
        worker.answer()
        await asyncio.wait((worker.task,))
    return workers


async def check(site: Site, history: list[tuple[str, int]], retry_uncertain: bool) -> None:
    workers = await play(site, history, retry_uncertain)
    own = 0
    for worker in workers:
        if worker.task.cancelled():
            continue
        if (failure := worker.task.exception()) is not None:
            assert isinstance(failure, TransportError)
            continue
        result = worker.task.result()
        if result.claim.status is ClaimStatus.FINISHED:
            # Whoever gets a key gets the only one.
            assert result.claim.value == str(site.key).encode()
            own += not result.is_replay
        elif result.claim.status is not ClaimStatus.BUSY and result.rejection is not None:
            # The code was valid, so no worker reports that it was refused.
            assert result.rejection.outcome is Outcome.UNKNOWN
    assert own <= 1
    if own:
        # The next request gets the result.
        assert (await Worker(site).task).claim.value == str(site.key).encode()


@settings(max_examples=300, deadline=None)
@given(history=histories, retry_uncertain=st.booleans())
@example(history=[("send", 0), ("end the lease", 0), ("start", 0), ("send", 1)], retry_uncertain=False)
def test_lease_runner_in_memory_loses_no_key_and_no_outcome_is_wrong(
    history: list[tuple[str, int]], retry_uncertain: bool
) -> None:
    async def run() -> None:
        async with opened("memory", "") as site:
            await check(site, history, retry_uncertain)

    # The debug mode keeps a stack for each callback, which takes most of the time.
    asyncio.run(run(), debug=False)


@pytest.mark.hypothesis
@pytest.mark.unmeasured
def test_lease_runner_in_valkey_loses_no_key_and_no_outcome_is_wrong(valkey_url: str) -> None:
    @settings(max_examples=60, deadline=None)
    @given(history=histories, retry_uncertain=st.booleans())
    def holds(history: list[tuple[str, int]], retry_uncertain: bool) -> None:
        async def run() -> None:
            async with opened("valkey", valkey_url) as site:
                await check(site, history, retry_uncertain)

        asyncio.run(run(), debug=False)

    holds()
