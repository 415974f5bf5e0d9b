"""Run a client for a long time against a faulty server: its memory, tasks and files must not grow.

::

    python -m tests.soak --seconds 600 --concurrency 200

The fake OpenRouter runs in a process of its own, because it remembers its requests. One code in ten meets a fault, one
call in a hundred is left by its caller, one in ten creates a code instead of exchanging one. Before each measurement
all workers pause until nothing is under way, so that the measurements can be compared with each other.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import os
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from openrouter_async import OpenRouter, RetryPolicy, errors
from openrouter_async.pkce import PKCEPair
from openrouter_async.testing import FakeOpenRouter
from tests.descriptors import open_files

FAULTY: Final = 0.1
LEFT: Final = 0.01
CREATED: Final = 0.1
FAULTS: Final = (
    *("status-500", "status-503", "status-429", "html-502", "text-500", "empty-504", "status-500.after", "drop"),
    *("drop.after", "cut", "delay-100ms", "status-400", "challenge-403", "zod-400", "status-200", "html-502.x9"),
    *("drop.x9", "hang.after"),
)
"""What a code with a fault meets; ``x9`` is more often than a call is tried."""
RARE_FAULT: Final = "status-429.retry-1"
"""It holds all calls up for a second, so that one in a thousand faults is enough."""
POLICY: Final = RetryPolicy(initial_interval=0.05, max_interval=0.4, max_elapsed_time=10)
_CODES_AT_ONCE: Final = 500
_LINE: Final = 1 << 20


@attrs.frozen(kw_only=True)
class Sample:
    """The resources of a process while no call is in flight.

    Attributes:
        seconds: When it was taken, from the start.
        calls: How many calls were over by then.
        rss: Resident memory in MiB.
        blocks: Blocks of memory that Python holds, in thousands.
        tasks: Tasks of the loop.
        files: Open file descriptors, sockets included.
        sockets: Those of them that are sockets.
    """

    seconds: float
    calls: int
    rss: float
    blocks: float
    tasks: int
    files: int
    sockets: int

    def __str__(self) -> str:
        return (
            f"{self.seconds:7.0f} {self.calls:9,} {self.rss:9.1f} {self.blocks:9.1f} "
            f"{self.tasks:6} {self.files:6} {self.sockets:8}"
        )


HEADING: Final = "seconds     calls   RSS MiB  k blocks  tasks  files  sockets"


@attrs.frozen
class Limit:
    """How much more of something there may be at the end than there was when the client had warmed up."""

    name: str
    factor: float
    slack: float


LIMITS: Final = (
    Limit("rss", 1.05, 4.0),
    Limit("blocks", 1.02, 2.0),
    Limit("tasks", 1.0, 0.0),
    # Faults close connections, so the size of the pool depends on the last ones.
    Limit("files", 1.0, 20.0),
    Limit("sockets", 1.0, 20.0),
)


def growth(samples: Sequence[Sample]) -> list[str]:
    """Return the resources that grow: the median of the last third of the samples is above that of the second."""
    third = len(samples) // 3
    if third < 1:
        raise ValueError("there must be three samples or more")
    found = []
    for limit in LIMITS:
        early, late = (
            statistics.median(float(getattr(sample, limit.name)) for sample in part)
            for part in (samples[-2 * third : -third], samples[-third:])
        )
        if late > early * limit.factor + limit.slack:
            found.append(f"{limit.name} grew from {early:g} to {late:g}")
    return found


class Server:
    """The fake OpenRouter in a process of its own, and codes from it."""

    def __init__(self, process: asyncio.subprocess.Process, address: dict[str, str]) -> None:
        self._process = process
        self._codes: list[str] = []
        self._lock = asyncio.Lock()
        self.base_url = address["base_url"]
        self.token = address["token"]

    @classmethod
    @contextlib.asynccontextmanager
    async def run(cls) -> AsyncIterator[Server]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.soak", "--serve"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE,
        )
        try:
            assert process.stdout is not None
            yield cls(process, json.loads(await process.stdout.readline()))
        finally:
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()

    async def code(self) -> str:
        async with self._lock:
            if not self._codes:
                self._codes = await self._ask(_CODES_AT_ONCE)
            return self._codes.pop()

    async def redeemed(self) -> int:
        async with self._lock:
            found: int = await self._ask(0)
            return found

    async def _ask(self, count: int) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"%d\n" % count)
        return json.loads(await self._process.stdout.readline())


PKCE: Final = PKCEPair(code_verifier="a-verifier-that-all-codes-of-the-soak-have-in-common")


async def serve() -> None:
    """Be the server: print where it is, then as many codes as each line asks for, for 0 how many were redeemed."""
    chance = random.Random(0)
    loop = asyncio.get_running_loop()
    async with FakeOpenRouter() as fake:
        print(json.dumps({"base_url": fake.base_url, "token": fake.token}), flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            count = int(line)
            codes = [
                fake.issue_code(
                    code_challenge=PKCE.code_challenge, code_challenge_method="S256", fault=choose_fault(chance)
                )
                for _ in range(count)
            ]
            print(json.dumps(codes if count else fake.counters["redeemed"]), flush=True)


def choose_fault(chance: random.Random) -> str | None:
    """A fault for one code in ten."""
    if chance.random() >= FAULTY:
        return None
    return RARE_FAULT if chance.random() < 0.001 else chance.choice(FAULTS)


@attrs.define
class Soak:
    """Workers that call, and measurements between their calls."""

    client: OpenRouter
    server: Server
    concurrency: int
    tally: Counter[str] = attrs.field(factory=Counter)
    calls: int = 0
    _chance: random.Random = attrs.field(factory=lambda: random.Random(1))
    _open: asyncio.Event = attrs.field(factory=asyncio.Event)
    _at_rest: int = 0

    async def run(self, seconds: float, samples: int, least_calls: int) -> list[Sample]:
        """Work for a time, or until a number of calls was made if that is later, and take a number of samples."""
        taken: list[Sample] = []
        started = time.monotonic()
        workers = [asyncio.create_task(self._work()) for _ in range(self.concurrency)]
        try:
            for number in range(1, samples + 1):
                self._open.set()
                await asyncio.wait(workers, timeout=seconds / samples, return_when=asyncio.FIRST_EXCEPTION)
                while self.calls < least_calls * number // samples and not any(worker.done() for worker in workers):
                    await asyncio.wait(workers, timeout=0.05, return_when=asyncio.FIRST_EXCEPTION)
                await self._rest(workers)
                taken.append(self._measure(time.monotonic() - started))
                print(taken[-1], flush=True)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        return taken

    async def _rest(self, workers: list[asyncio.Task[None]]) -> None:
        self._open.clear()
        async with asyncio.timeout(60):
            while self._at_rest < self.concurrency or self.client.stats().exchanges_in_flight:
                for worker in workers:
                    if worker.done():
                        worker.result()
                await asyncio.sleep(0.01)

    async def _work(self) -> None:
        while True:
            self._at_rest += 1
            await self._open.wait()
            self._at_rest -= 1
            self.tally[await self._call()] += 1
            self.calls += 1

    async def _call(self) -> str:
        oauth = self.client.oauth
        try:
            if self._chance.random() < CREATED:
                await oauth.create_auth_code(callback_url="https://app.example/callback", limit=self._chance.random())
                return "a code"
            code = await self.server.code()
            async with asyncio.timeout(self._chance.random() * 0.05 if self._chance.random() < LEFT else None):
                await oauth.exchange_auth_code_for_api_key(
                    code=code, code_verifier=PKCE.code_verifier, code_challenge_method="S256"
                )
        except errors.OpenRouterError as error:
            return f"{type(error).__name__}, {error.outcome}"
        except TimeoutError:
            return "left"
        return "a key"

    def _measure(self, seconds: float) -> Sample:
        gc.collect()
        files = open_files()
        return Sample(
            seconds=seconds,
            calls=self.calls,
            rss=int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20,
            blocks=sys.getallocatedblocks() / 1000,
            tasks=len(asyncio.all_tasks()),
            files=len(files),
            sockets=sum(file.startswith("socket:") for file in files),
        )


async def soak(
    seconds: float, *, concurrency: int, samples: int, timeout: float, least_calls: int = 0
) -> tuple[list[Sample], Counter[str]]:
    """Run it; the measurements, and how the calls ended."""
    stored = 0

    async def keep(_request: object, _response: object) -> None:
        nonlocal stored
        stored += 1

    print(HEADING, flush=True)
    async with Server.run() as server:
        async with OpenRouter(
            server.token, base_url=server.base_url, timeout=timeout, retry=POLICY, on_key=keep
        ) as client:
            run = Soak(client, server, concurrency)
            taken = await run.run(seconds, samples, least_calls)
        run.tally["redeemed by the server"] = await server.redeemed()
        run.tally["kept by on_key"] = stored
    return taken, run.tally


def main() -> int:
    """Run it from the command line; 1 when something is not flat."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0, help="duration (%(default)s)")
    parser.add_argument("--concurrency", type=int, default=200, help="workers (%(default)s)")
    parser.add_argument("--samples", type=int, default=10, help="measurements, from 3 (%(default)s)")
    parser.add_argument("--timeout", type=float, default=2.0, help="seconds for one attempt (%(default)s)")
    parser.add_argument("--least-calls", type=int, default=0, help="calls, also if they take longer (%(default)s)")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve())
        return 0
    if not Path("/proc/self/statm").exists():
        parser.error("what a process holds is read from /proc, which is not here")
    # Some of the remaining calls fail, and their errors are not retrieved.
    logging.getLogger("openrouter_async").addHandler(logging.NullHandler())
    taken, tally = asyncio.run(
        soak(
            options.seconds,
            concurrency=options.concurrency,
            samples=options.samples,
            timeout=options.timeout,
            least_calls=options.least_calls,
        )
    )
    print(*(f"{count:9,} {name}" for name, count in tally.most_common()), sep="\n")
    grown = growth(taken)
    print("flat" if not grown else f"not flat: {'; '.join(grown)}")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
