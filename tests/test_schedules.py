"""Clients, single flight, batches and journals by random schedules, against a model of where each key is.

Each key that the server issued is in one place at least: the result of a caller, ``on_key``, the journal, an error that
holds it, an error of unknown outcome, or a log record that tells of its loss. No caller is told that a code was refused
or not sent while its key exists.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import logging
import os
import random
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from openrouter_async import (
    Clock,
    ExchangeAuthCodeForAPIKeyRequest,
    ExchangeAuthCodeForAPIKeyResponse,
    ExchangeResult,
    Journal,
    OpenRouter,
    Outcome,
    RetryPolicy,
    errors,
)
from openrouter_async.batch import Batch, JournalEntry, RequestStatus, request_digest
from openrouter_async.encryption import generate_encryption_key
from tests.descriptors import open_files
from tests.kit.clocks import VirtualLoop, fast_clock, loop_clock, passes
from tests.kit.wire import BEARER, FAULTS, WireServer, by_chance, code_of
from tests.support import LOOPS, STRESS, missing

logger = logging.getLogger("openrouter_async")

pytestmark = pytest.mark.stress

STEPS = 100_000 if STRESS else 2_000
STEPS_OF_A_RUN = 40
SEED = 20270115
KEY = generate_encryption_key()
# Real seconds on uvloop, where time is not virtual: most of a run there is waiting.
TIMEOUT = 0.02


def eager_loop() -> asyncio.AbstractEventLoop:
    loop = VirtualLoop(patience=0.0002)
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
    return loop


def loop_factory(kind: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if kind == "eager":
        if not hasattr(asyncio, "eager_task_factory"):
            pytest.skip("eager tasks came with Python 3.12")
        return eager_loop
    if kind == "uvloop":
        return LOOPS["uvloop"] if "uvloop" in LOOPS else missing("uvloop")
    return lambda: VirtualLoop(patience=0.0002)


class Model:
    """The results of each code that callers, hooks, the journal and the log received."""

    def __init__(self, issued: dict[str, str]) -> None:
        self.issued = issued
        self.callers: Counter[str] = Counter()
        self.without_journal: set[str] = set()
        self.held: dict[str, dict[str, str]] = {"result": {}, "on_key": {}, "error": {}, "journal": {}}
        self.unknown: set[str] = set()
        self.logged: set[str] = set()
        self.lost_in_batches = 0
        self.tally: Counter[str] = Counter()

    def note(self, code: str, outcome: Outcome, key: str | None, place: str) -> None:
        if key is not None:
            self.held[place][code] = key
        if outcome is Outcome.UNKNOWN:
            self.unknown.add(code)
        if self.callers[code] == 1 and code in self.issued:
            assert outcome not in (Outcome.REFUSED, Outcome.NOT_SENT), (code, outcome)

    def read(self, entries: list[JournalEntry]) -> None:
        codes = {request_digest(code): code for code in self.issued}
        for entry in entries:
            if (code := codes.get(entry.request)) is not None:
                if entry.key is not None:
                    self.held["journal"][code] = entry.key
                if entry.status in (RequestStatus.UNCERTAIN, RequestStatus.LOST):
                    self.unknown.add(code)
        # An intent is on the disk before its request is sent.
        assert codes.keys() - {entry.request for entry in entries} <= set(map(request_digest, self.without_journal))

    def account(self) -> None:
        missed = 0
        self.tally["keys"] += len(self.issued)
        for code, key in self.issued.items():
            digest = hashlib.sha256(code.encode()).hexdigest()[:16]
            places = [place for place, held in self.held.items() if held.get(code) == key]
            if code in self.unknown:
                places.append("UNKNOWN")
            if digest in self.logged:
                places.append("log")
            missed += not places
            self.tally.update(places or ["log of a batch"])
        # A record of a batch that was left says how many keys it had.
        assert missed <= self.lost_in_batches, (missed, self.lost_in_batches)


class Log(logging.Handler):
    """Records the lost keys of log records in the model."""

    def __init__(self, model: Model) -> None:
        super().__init__(logging.WARNING)
        self._model = model

    def emit(self, record: logging.LogRecord) -> None:
        told = vars(record)
        if "code_digest" in told:
            self._model.logged.add(told["code_digest"])
        self._model.lost_in_batches += told.get("keys", 0) + told.get("results", 0)


class Schedule:
    """A random run of a client and its journal."""

    def __init__(self, seed: int, server: WireServer, clock: Clock, path: Path) -> None:
        self.chance = random.Random(seed)
        self.model = Model(server.authority.issued)
        self.number = 0
        self.tasks: list[asyncio.Task[None]] = []
        self.batches: list[Batch] = []
        self.journal = Journal(path, encryption_keys=KEY)
        self.client = OpenRouter(
            BEARER,
            base_url=server.base_url,
            timeout=TIMEOUT,
            retry=self.chance.choice([RetryPolicy(max_attempts=3, initial_interval=0.01), RetryPolicy.none()]),
            on_key=self.on_key if self.chance.random() < 0.7 else None,
            hook_timeout=TIMEOUT,
            clock=clock,
        )

    def next_code(self) -> str:
        if self.chance.random() > 0.15:
            self.number += 1
        return code_of(self.number)

    async def on_key(
        self, request: ExchangeAuthCodeForAPIKeyRequest, response: ExchangeAuthCodeForAPIKeyResponse
    ) -> None:
        behaviour = self.chance.choice(["save"] * 5 + ["raise", "hang", "close", "exchange", "cancel"])
        if behaviour == "raise":
            raise LookupError
        if behaviour == "hang":
            await asyncio.get_running_loop().create_future()
        if behaviour == "close":
            await self.client.aclose(timeout=0)
        if behaviour == "exchange":
            with contextlib.suppress(errors.OpenRouterError):
                await self.client.oauth.exchange_auth_code_for_api_key(request)
        if behaviour == "cancel":
            raise asyncio.CancelledError
        self.model.note(request.code, Outcome.COMPLETED, response.key, "on_key")

    # The callers.

    async def call(self, code: str, timeout: float | None) -> None:
        try:
            async with asyncio.timeout(timeout):
                response = await self.client.oauth.exchange_auth_code_for_api_key(code=code)
        except errors.OpenRouterError as error:
            key = error.response.key if isinstance(error, errors.KeyDeliveryError) else None
            self.model.note(code, error.outcome, key, "error")
        except TimeoutError:
            pass
        else:
            self.model.note(code, Outcome.COMPLETED, response.key, "result")

    async def read(self, batch: Batch) -> None:
        with contextlib.suppress(errors.OpenRouterError):
            async for result in batch:
                self.note(result)

    def note(self, result: ExchangeResult) -> None:
        assert result.request is not None
        self.model.note(result.request.code, result.outcome, result.key, "result" if result.error is None else "error")

    # The steps.

    async def step(self) -> None:
        steps: list[tuple[float, Callable[[], Awaitable[None] | None]]] = [
            (10, self.start_call),
            (3, self.start_batch),
            (4, self.cancel),
            (2, self.cancel_repeatedly),
            (2, self.close_batch),
            (6, lambda: passes(self.chance.randrange(12))),
            (2, lambda: asyncio.sleep(self.chance.choice([0.001, TIMEOUT / 2, TIMEOUT]))),
            (0.3, self.close),
            (0.3, self.close_journal),
            (0.3, self.open_journal),
        ]
        result = self.chance.choices([step for _, step in steps], [weight for weight, _ in steps])[0]()
        if result is not None:
            await result

    def start(self, work: Any) -> None:
        self.tasks.append(asyncio.ensure_future(work))

    def start_call(self) -> None:
        code = self.next_code()
        self.model.callers[code] += 1
        self.model.without_journal.add(code)
        self.start(self.call(code, self.chance.choice([None, None, None, TIMEOUT / 5])))

    def start_batch(self) -> None:
        codes = [self.next_code() for _ in range(self.chance.randint(1, 6))]
        self.model.callers.update(codes)
        journal = self.journal if self.journal.is_open and self.chance.random() < 0.5 else None
        if journal is None:
            self.model.without_journal.update(codes)
        batch = self.client.oauth.exchange_many(
            codes,
            concurrency=self.chance.randint(1, 4),
            journal=journal,
            timeout=self.chance.choice([None, None, TIMEOUT / 2]),
        )
        self.batches.append(batch)
        self.start(self.read(batch))

    def cancel(self) -> None:
        if self.tasks:
            self.chance.choice(self.tasks).cancel()

    def cancel_repeatedly(self) -> None:
        """Cancel a task again and again until it ends, as anyio does."""
        if self.tasks:
            self.start(self.cancel_until_done(self.chance.choice(self.tasks)))

    async def cancel_until_done(self, task: asyncio.Task[None]) -> None:
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)

    def close_batch(self) -> None:
        if self.batches:
            self.start(self.batches.pop(self.chance.randrange(len(self.batches))).aclose())

    def close(self) -> None:
        self.start(self.client.aclose(timeout=self.chance.choice([0, TIMEOUT / 3, 10 * TIMEOUT])))

    def close_journal(self) -> None:
        self.start(self.journal.aclose(timeout=self.chance.choice([0, TIMEOUT])))

    async def open_journal(self) -> None:
        if not self.journal.is_open:
            await self.journal.open()

    async def run(self) -> None:
        await self.journal.open()
        for _ in range(STEPS_OF_A_RUN):
            await self.step()
        await asyncio.wait([*self.tasks, asyncio.ensure_future(asyncio.sleep(0))])
        for batch in self.batches:
            await batch.aclose()
            await self.read(batch)
        self.batches.clear()
        await self.client.aclose()
        await self.journal.aclose()
        # Cancelled readers, in cycles with their exceptions, hold batches that log their unread results at the end.
        self.tasks.clear()
        gc.collect()
        await passes()


async def run(seed: int, *, is_virtual: bool) -> Counter[str]:
    """Run schedules with one server until all steps are done."""
    total: Counter[str] = Counter()
    before = len(asyncio.all_tasks())
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").exists() else None) as folder:
        for number in range(0, STEPS, STEPS_OF_A_RUN):
            path = Path(folder) / f"{number}.db"
            async with WireServer(by_chance(0.3, seed + number, FAULTS)) as server:
                clock = loop_clock(number) if is_virtual else fast_clock(50)
                schedule = Schedule(seed + number, server, clock, path)
                log = Log(schedule.model)
                logger.addHandler(log)
                try:
                    await schedule.run()
                finally:
                    logger.removeHandler(log)
                await server.until_closed()
            entries = [entry async for entry in Journal(path, encryption_keys=KEY).entries()]
            try:
                schedule.model.read(entries)
                schedule.model.account()
            except AssertionError as failure:
                raise AssertionError(f"seed {seed + number}") from failure
            total += schedule.model.tally
            await passes()
            assert len(asyncio.all_tasks()) == before, (seed + number, asyncio.all_tasks())
    return total


def count_files() -> int:
    # uvloop keeps a file in reserve, for a server that has no descriptor left.
    return sum(file != os.devnull for file in open_files())


# From Python 3.12 on, aiohttp leaves a connection to the garbage collector when a request is cancelled at a certain
# moment; it is closed then, and the count of files shows that.
@pytest.mark.filterwarnings("ignore:.*Connection.__del__:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ["asyncio", "eager", "uvloop"])
def test_each_key_is_accounted_for_in_any_schedule(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The records of so many runs are read by the model only.
    monkeypatch.setattr(logger, "propagate", False)
    make_loop = loop_factory(kind)
    # The first loop of a kind opens files that the next ones share.
    with asyncio.Runner(loop_factory=make_loop, debug=False) as runner:
        runner.run(passes())
    gc.collect()
    files = count_files()
    with asyncio.Runner(loop_factory=make_loop, debug=False) as runner:
        tally = runner.run(run(SEED, is_virtual=kind != "uvloop"))
    gc.collect()
    print(f"\n{kind}: {STEPS} steps, seed {SEED}, {tally.pop('keys')} keys: {dict(tally)}")
    assert count_files() == files
    # In real time, requests on a busy machine end by their timeouts, and not in every way.
    assert kind == "uvloop" or {"result", "on_key", "error", "journal", "UNKNOWN", "log"} <= set(tally)
