"""Where the results of a batch wait for the consumer, and how many may."""

from __future__ import annotations

import asyncio
from collections import deque

from openrouter_async.batch._results import ExchangeResult


class Outlet:
    """Results on their way to the consumer.

    Args:
        places: How many requests can be taken that have no result which the consumer took.
        ordered: Whether results come in the order of the input.

    Attributes:
        places: How many more can be taken now.
        results: What the consumer can take.
    """

    def __init__(self, *, places: int, ordered: bool) -> None:
        self.places = places
        self.results: deque[ExchangeResult] = deque()
        self._ordered = ordered
        # Those that wait for an earlier one; None for a request that has no result.
        self._early: dict[int, ExchangeResult | None] = {}
        self._next_index = 0
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._is_room_wanted = False

    def take(self) -> ExchangeResult | None:
        """A result that is there; None when there is none."""
        if not self.results:
            return None
        self.places += 1
        if self._is_room_wanted:
            self.tell_room()
        return self.results.popleft()

    async def wait_for_news(self) -> None:
        """Wait for a result, or for `tell_news`."""
        self._news.clear()
        await self._news.wait()

    def tell_news(self) -> None:
        """Let the consumer look again."""
        self._news.set()

    async def wait_for_room(self) -> None:
        """Wait for a place to become free, or for `tell_room`."""
        self._is_room_wanted = True
        self._room.clear()
        await self._room.wait()

    def tell_room(self) -> None:
        """Let who waits for a place look again."""
        self._is_room_wanted = False
        self._room.set()

    def put(self, index: int, result: ExchangeResult | None) -> None:
        """Hand over a result, or None for a request that has none."""
        if self._ordered:
            self._early[index] = result
            while self._next_index in self._early:
                self._hand_over(self._early.pop(self._next_index))
                self._next_index += 1
        else:
            self._hand_over(result)

    def _hand_over(self, result: ExchangeResult | None) -> None:
        if result is None:
            self.places += 1
            self.tell_room()
        else:
            self.results.append(result)
            self._news.set()
