from __future__ import annotations

import asyncio
import itertools
import random
import selectors
import time
from collections.abc import Callable, Iterable

from openrouter_async import Clock

EPOCH = 1_800_000_000.0
"""The time of day at which a `FakeClock` starts: 2027-01-15 08:00:00 UTC."""


class FakeClock:
    """A clock that moves when somebody sleeps, and remembers for how long each slept.

    Args:
        chances: What ``random`` gives, over and over.
    """

    def __init__(self, chances: Iterable[float] = (0.5,)) -> None:
        self.now = 1000.0
        self.waits: list[float] = []
        self._chances = itertools.cycle(chances)
        self.clock = Clock(
            monotonic=lambda: self.now,
            time=lambda: EPOCH + self.now - 1000.0,
            sleep=self.sleep,
            random=lambda: next(self._chances),
        )

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        wake_up = self.now + seconds
        await asyncio.sleep(0)
        self.now = max(self.now, wake_up)

    def advance(self, seconds: float) -> None:
        self.now += seconds


class StoppedClock(FakeClock):
    """A clock that stands still: who sleeps goes on when the test says so."""

    def __init__(self, chances: Iterable[float] = (0.5,)) -> None:
        super().__init__(chances)
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        awake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + seconds, awake))
        await awake

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        for due, awake in self._sleepers:
            if due <= self.now and not awake.done():
                awake.set_result(None)
        self._sleepers = [sleeper for sleeper in self._sleepers if not sleeper[1].done()]

    @property
    def sleeping(self) -> int:
        return sum(not awake.done() for _, awake in self._sleepers)


def fast_clock(factor: float) -> Clock:
    """The real clock, running so many times faster."""
    return Clock(
        monotonic=lambda: time.monotonic() * factor,
        time=lambda: EPOCH + time.monotonic() * factor,
        sleep=lambda seconds: asyncio.sleep(seconds / factor),
    )


class _Selector(selectors.DefaultSelector):
    """A selector that moves the time on instead of waiting, when no socket is ready."""

    now = 1000.0
    patience = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(None if timeout is None else min(timeout, self.patience))
        if not ready and timeout:
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which no time passes but that which everybody waits for.

    Args:
        patience: Real seconds to wait for threads, which do not know that the time is not real, before it moves on.
    """

    def __init__(self, patience: float = 0.0) -> None:
        self._virtual = _Selector()
        self._virtual.patience = patience
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


def loop_clock(seed: int) -> Clock:
    """The time of the running loop, with chances that a seed determines."""
    loop = asyncio.get_running_loop()
    return Clock(
        monotonic=loop.time,
        time=lambda: EPOCH + loop.time() - 1000.0,
        sleep=asyncio.sleep,
        random=random.Random(seed).random,
    )


async def passes(count: int = 10) -> None:
    """Let the loop run some passes, in which it also reads from its sockets."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until something is the case."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - there is no event for everything
            await asyncio.sleep(0)
