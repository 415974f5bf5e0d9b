"""How the workers of a batch take requests from its input."""

from __future__ import annotations

import asyncio

from openrouter_async.batch._queues import Outlet
from openrouter_async.batch._source import END, Source


class Intake:
    """Gives requests to workers, to one at a time, and only while there is room for what they will come to.

    Args:
        source: The input.
        outlet: Where results go; a request takes a place of it.
        cancellable: The workers that the batch may cancel; who waits for the input is among them.

    Attributes:
        taken: How many requests were taken.
        is_over: Whether no more will be taken; set it to end the batch.
        failure: What the input raised.
    """

    def __init__(self, source: Source, outlet: Outlet, cancellable: set[asyncio.Task[None]]) -> None:
        self.taken = 0
        self.is_over = False
        self.failure: Exception | None = None
        self._source = source
        self._outlet = outlet
        self._cancellable = cancellable
        self._turn = asyncio.Lock()

    def take_at_once(self) -> tuple[int, object] | None:
        """Take a request when there is nothing to wait for, which costs less than to take turns."""
        if self._source.is_async or self.is_over or self._outlet.places <= 0 or self._turn.locked():
            return None
        try:
            return self._admit(self._source.next_at_once())
        except Exception as failure:  # noqa: BLE001 - it is raised in the consumer
            self._end(failure)
            return None

    async def take(self, worker: asyncio.Task[None]) -> tuple[int, object] | None:
        """The next request, and its place in the input; None when there are no more."""
        async with self._turn:
            while self._outlet.places <= 0 and not self.is_over:
                await self._outlet.wait_for_room()
            return None if self.is_over else await self._ask(worker)

    async def _ask(self, worker: asyncio.Task[None]) -> tuple[int, object] | None:
        self._cancellable.add(worker)
        try:
            return self._admit(await self._source.next())
        except asyncio.CancelledError:
            if not self.is_over:
                raise
            worker.uncancel()
            return None
        except Exception as failure:  # noqa: BLE001 - it is raised in the consumer
            self._end(failure)
            return None
        finally:
            self._cancellable.discard(worker)

    def _admit(self, item: object) -> tuple[int, object] | None:
        if item is END:
            self.is_over = True
            return None
        self._outlet.places -= 1
        index = self.taken
        self.taken = index + 1
        return index, item

    def _end(self, failure: Exception) -> None:
        """Take note that the input failed, which is no reason not to send what was taken from it."""
        self.failure = failure
        self.is_over = True
