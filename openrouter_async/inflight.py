"""Exchanges on their way: equal ones share a request, and none is lost with its caller."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from openrouter_async.chain import Delivery
from openrouter_async.errors import ClientClosedError, Outcome

logger = logging.getLogger(__name__)

T = TypeVar("T")


class _Flight(Generic[T]):
    """A task, and how many callers wait for it."""

    __slots__ = ("delivery", "task", "waiters")

    def __init__(self, task: asyncio.Task[T], delivery: Delivery) -> None:
        self.task = task
        self.delivery = delivery
        self.waiters = 0


class InFlight(Generic[T]):
    """The exchanges that a client has on their way, each in a task of its own."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight[T]] = {}
        self._tasks: set[asyncio.Task[T]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    async def join(self, key: Hashable, start: Callable[[Delivery], Coroutine[Any, Any, T]]) -> T:
        """Wait for the exchange with this key; start it when there is none on its way.

        A caller that is cancelled leaves it running, unless nobody else waits for it and no server can have carried
        it out yet: then it is cancelled, too.

        Args:
            key: What makes two exchanges equal.
            start: Makes the coroutine of a new exchange; it keeps the `Delivery` up to date.

        Raises:
            ClientClosedError: The client was closed, and the exchange did not end in time.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = self._start(key, start)
        flight.waiters += 1
        flight.delivery.abandoned = False
        landed = asyncio.get_running_loop().create_future()
        wake = _waker(landed)
        flight.task.add_done_callback(wake)
        try:
            await landed
        except asyncio.CancelledError:
            flight.task.remove_done_callback(wake)
            flight.delivery.abandoned = flight.waiters == 1
            if flight.delivery.abandoned and not flight.delivery.pending and not flight.task.done():
                self._flights.pop(key, None)
                flight.task.cancel()
            raise
        finally:
            flight.waiters -= 1
        if flight.task.cancelled():
            raise ClientClosedError(
                "the client was closed before the exchange ended",
                outcome=Outcome.UNKNOWN if flight.delivery.pending else Outcome.NOT_SENT,
            )
        return flight.task.result()

    def _start(self, key: Hashable, start: Callable[[Delivery], Coroutine[Any, Any, T]]) -> _Flight[T]:
        delivery = Delivery()
        task = asyncio.get_running_loop().create_task(start(delivery))
        flight = self._flights[key] = _Flight(task, delivery)
        self._tasks.add(task)

        def land(task: asyncio.Task[T]) -> None:
            self._tasks.discard(task)
            if self._flights.get(key) is flight:
                del self._flights[key]
            if not flight.waiters and not task.cancelled() and (error := task.exception()) is not None:
                # Fetched above, or asyncio would report it as never retrieved.
                logger.warning("an exchange whose caller was cancelled failed: %s", error)

        task.add_done_callback(land)
        return flight

    async def drain(self, timeout: float) -> int:
        """Wait for all exchanges on their way, then cancel what is left.

        Args:
            timeout: Seconds to wait.

        Returns:
            How many did not end in time.
        """
        if not self._tasks:
            return 0
        tasks = tuple(self._tasks)
        try:
            _, late = await asyncio.wait(tasks, timeout=timeout)
        finally:
            for task in tasks:
                task.cancel()
        if late:
            await asyncio.wait(late)
            logger.warning("the client was closed with %d exchange(s) still on their way", len(late))
        return len(late)


def _waker(landed: asyncio.Future[None]) -> Callable[[asyncio.Task[Any]], None]:
    def wake(_task: asyncio.Task[Any]) -> None:
        if not landed.done():
            landed.set_result(None)

    return wake
