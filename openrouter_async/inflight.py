"""Exchanges on their way: equal ones share a request, and none is lost with its caller."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Hashable
from types import TracebackType
from typing import Any, Generic, TypeVar

from openrouter_async.chain import Delivery
from openrouter_async.errors import ClientClosedError, Outcome

logger = logging.getLogger(__name__)

T = TypeVar("T")


class _Flight(Generic[T]):
    """An exchange on its way, and the callers that wait for it."""

    __slots__ = ("callers", "delivery", "error", "key", "result", "task", "traceback")

    task: asyncio.Task[None]

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.callers: list[asyncio.Future[None]] = []
        self.delivery = Delivery()
        self.error: Exception | None = None
        self.traceback: TracebackType | None = None
        self.result: T | None = None


class InFlight(Generic[T]):
    """The exchanges that a client has on their way, each in a task of its own."""

    def __init__(self) -> None:
        # Flights that can be joined; one that is being cancelled is only among the others.
        self._joinable: dict[Hashable, _Flight[T]] = {}
        self._flights: set[_Flight[T]] = set()

    def __len__(self) -> int:
        return len(self._flights)

    async def join(
        self, key: Hashable, start: Callable[[Delivery], Coroutine[Any, Any, T]], *, patient: bool = False
    ) -> T:
        """Wait for the exchange with this key; start it when there is none on its way.

        A caller that is cancelled leaves it running, unless nobody else waits for it and no server can have carried
        it out yet: then it is cancelled, too.

        Args:
            key: What makes two exchanges equal.
            start: Makes the coroutine of a new exchange; it keeps the `Delivery` up to date.
            patient: Whether a caller that is cancelled once waits all the same for an exchange that a server may have
                carried out, and gets its result instead of the cancellation.

        Raises:
            ClientClosedError: The client was closed, and the exchange did not end in time.
        """
        flight = self._joinable.get(key)
        if flight is None:
            flight = self._joinable[key] = _Flight(key)
            flight.task = asyncio.get_running_loop().create_task(self._fly(flight, start))
            self._flights.add(flight)
        flight.delivery.abandoned = False
        await self._wait(flight, patient=patient)
        if flight.error is not None:
            # Each caller raises the same error; the frames of one must not show in another.
            raise flight.error.with_traceback(flight.traceback)
        if flight.result is None:
            raise ClientClosedError(
                "the client was closed before the exchange ended",
                outcome=Outcome.UNKNOWN if flight.delivery.pending else Outcome.NOT_SENT,
            )
        return flight.result

    async def _wait(self, flight: _Flight[T], *, patient: bool) -> None:
        task = asyncio.current_task()
        landed: asyncio.Future[None] = flight.task.get_loop().create_future()
        flight.callers.append(landed)
        try:
            await landed
        except asyncio.CancelledError:
            flight.callers.remove(landed)
            has_landed = flight.task.done()
            if task is None or not patient or not (has_landed or flight.delivery.pending):
                self._abandon(flight)
                raise
            task.uncancel()
            if not has_landed:
                await self._wait(flight, patient=False)

    def _abandon(self, flight: _Flight[T]) -> None:
        """The last caller is gone: a flight that no server can have heard of ends, any other runs on."""
        if flight.callers or flight.task.done():
            return
        flight.delivery.abandoned = True
        if not flight.delivery.pending:
            flight.task.cancel()
            self._land(flight)

    def _land(self, flight: _Flight[T]) -> None:
        self._flights.discard(flight)
        if self._joinable.get(flight.key) is flight:
            del self._joinable[flight.key]
        for landed in flight.callers:
            if not landed.done():
                landed.set_result(None)

    async def _fly(self, flight: _Flight[T], start: Callable[[Delivery], Coroutine[Any, Any, T]]) -> None:
        try:
            flight.result = await start(flight.delivery)
        except Exception as error:  # noqa: BLE001 - it is raised in the callers
            flight.error, flight.traceback = error, error.__traceback__
            if not flight.callers:
                logger.warning("an exchange whose caller was cancelled failed: %s", error)
        finally:
            self._land(flight)

    async def drain(self, timeout: float) -> int:
        """Wait for all exchanges on their way, then cancel what is left.

        Args:
            timeout: Seconds to wait.

        Returns:
            How many did not end in time.
        """
        flights = tuple(self._flights)
        if not flights:
            return 0
        tasks = [flight.task for flight in flights]
        try:
            _, late = await asyncio.wait(tasks, timeout=timeout)
        finally:
            for task in tasks:
                task.cancel()
        if late:
            await asyncio.wait(late)
            logger.warning("the client was closed with %d exchange(s) still on their way", len(late))
        for flight in flights:
            # A task that is cancelled before its first step never lands by itself.
            self._land(flight)
        return len(late)
