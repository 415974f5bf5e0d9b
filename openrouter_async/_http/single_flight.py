"""Single flight: concurrent equal exchanges share one request, which outlives the caller that started it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Final, Generic, TypeAlias, TypeVar

from openrouter_async._http.chain import SendState
from openrouter_async._http.flight import Flight, log_unseen
from openrouter_async._http.wake_queue import WakeQueue, wake
from openrouter_async.errors import ClientClosedError, OpenRouterError, Outcome

T = TypeVar("T")

# Waking all callers in one pass of the loop saves a tenth of the CPU time at 64 concurrent exchanges. With hundreds of
# callers, freeing and allocating so many objects at once triggers Python's cyclic garbage collector, which takes a
# sixth of the CPU time at 512. Above this number of exchanges, only a few callers are woken in each pass.
_MANY: Final = 100

_CANCEL_TIMEOUT: Final = 1.0
"""Seconds that a cancelled exchange has to end."""

MAX_REMEMBERED: Final = 1024
"""How many exchanged codes are remembered, by a hash that changes with each process."""

NotSent: TypeAlias = Callable[[], OpenRouterError]
"""Returns the error for a request that is withdrawn before it was sent."""


class CallerGroup:
    """Callers that can be withdrawn together, such as those of a batch."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[None], tuple[SingleFlight[Any], Flight[Any]]] = {}
        self._error: NotSent | None = None

    def withdraw_unsent(self, error: NotSent) -> None:
        """Withdraw every exchange of the group that no server can have received, and start no more of them.

        An exchange that may have been sent continues, and its caller gets its result. So does an exchange that callers
        outside the group wait for.

        Args:
            error: Returns the error that each withdrawn caller gets.
        """
        self._error = error
        for waiter, (flights, flight) in list(self._waiting.items()):
            if not (flight.maybe_processed or flight.is_finished or waiter.done()):
                waiter.set_exception(error())
                # If the caller is cancelled before it sees the error, asyncio would log that nobody retrieved it.
                waiter.exception()
                flights.remove_waiter(flight, waiter)

    def check(self) -> None:
        """Raise the error of the group if it was withdrawn."""
        if self._error is not None:
            raise self._error()

    def enter(self, waiter: asyncio.Future[None], flights: SingleFlight[Any], flight: Flight[Any]) -> None:
        """Add a caller that starts to wait."""
        self._waiting[waiter] = flights, flight

    def leave(self, waiter: asyncio.Future[None]) -> None:
        """Remove a caller that no longer waits."""
        self._waiting.pop(waiter, None)


class SingleFlight(Generic[T]):
    """The exchanges of a client that are in flight, each in a task of its own."""

    def __init__(self) -> None:
        # Every flight is in exactly one of these two until it has finished. One that is being cancelled cannot be
        # joined.
        self._joinable: dict[Hashable, Flight[T]] = {}
        self._cancelled: set[Flight[T]] = set()
        self._wake_queue = WakeQueue()
        self._exchanged: OrderedDict[int, bool] = OrderedDict()
        # A client belongs to one loop. Before Python 3.12, asyncio makes a system call to find the running one.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False
        self._drain_until = 0.0

    def __len__(self) -> int:
        return len(self._joinable) + len(self._cancelled)

    async def run(
        self,
        key: tuple[Hashable, ...],
        variant: object,
        start: Callable[[SendState], Coroutine[Any, Any, T]],
        group: CallerGroup | None = None,
    ) -> T:
        """Wait for the exchange with this key, and start it if none is in flight.

        Cancelling a caller leaves the exchange running, unless nobody else waits for it and no server can have carried
        it out yet: then it is cancelled, too. A caller with another variant neither shares the result nor competes for
        the code: it starts an exchange of its own after this one.

        Args:
            key: The values that distinguish exchanges for the server: its address, the code, and the proof of
                possession.
            variant: The options that callers must have in common to share a result.
            start: Returns the coroutine of a new exchange, which keeps the `SendState` up to date.
            group: Callers to give up with.

        Returns:
            The result of the exchange.

        Raises:
            OpenRouterError: The exchange waits for itself, or was cancelled from inside.
            ClientClosedError: The client was closed, and the exchange did not end in time.
        """
        try:
            flight = self._joinable.get(key)
            if flight is not None:
                flight = await self._find_equal(flight, variant)
            if self._is_closed:
                raise ClientClosedError("the client is closed")
            if group is not None:
                group.check()
            if (loop := self._loop) is None:
                loop = self._loop = asyncio.get_running_loop()
            waiter = loop.create_future()
            if flight is None:
                flight = self._start(key, variant, start, waiter, is_batched=group is not None)
            else:
                flight.waiters.append(waiter)
        finally:
            # Tracebacks that show local variables would show the code in these.
            del key, start
        if group is not None:
            group.enter(waiter, self, flight)
        try:
            await waiter
        except asyncio.CancelledError:
            # It may have been withdrawn just before.
            if waiter in flight.waiters:
                self.remove_waiter(flight, waiter)
            raise
        finally:
            if group is not None:
                group.leave(waiter)
        if flight.error is not None:
            # All callers raise the same error object, so each starts with a traceback of its own.
            raise flight.error.with_traceback(flight.traceback)
        return flight.result

    def _start(
        self,
        key: tuple[Hashable, ...],
        variant: object,
        start: Callable[[SendState], Coroutine[Any, Any, T]],
        waiter: asyncio.Future[None],
        *,
        is_batched: bool,
    ) -> Flight[T]:
        flight = self._joinable[key] = Flight(key, variant, self._finish)
        if (before := self._exchanged.get(flight.key_hash)) is not None:
            flight.exchanged_before = before
        if is_batched:
            flight.is_batched = True
        flight.waiters.append(waiter)
        flight.task = waiter.get_loop().create_task(start(flight), name="openrouter_async.exchange")
        # With an eager task factory, the exchange may have finished already.
        if not flight.is_finished:
            flight.task.add_done_callback(flight.note_end)
        return flight

    async def _find_equal(self, flight: Flight[T], variant: object) -> Flight[T] | None:
        """Return the exchange under way that a caller can share, and wait for those that it cannot share.

        Raises:
            OpenRouterError: The exchange waits for itself.
        """
        found = flight
        while not found.is_current:
            if found.variant == variant:
                return found
            await asyncio.wait((found.task,))
            if (following := self._joinable.get(flight.key)) is None:
                return None
            found = following
        raise OpenRouterError(
            "an exchange cannot wait for itself: a hook or middleware exchanges the request that it belongs to",
            outcome=Outcome.UNKNOWN,
        )

    def remove_waiter(self, flight: Flight[T], waiter: asyncio.Future[None]) -> None:
        """Remove a caller; after the last one, cancel the exchange if no server can have received it."""
        flight.waiters.remove(waiter)
        if flight.waiters:
            return
        if flight.is_finished:
            log_unseen(flight)
        elif not flight.task.done() and not flight.maybe_processed:
            self._cancel(flight)

    def _cancel(self, flight: Flight[T]) -> None:
        """Cancel an exchange. It counts as in flight until its task has ended, but cannot be joined."""
        if not flight.cancelled and not flight.is_finished:
            flight.cancelled = True
            del self._joinable[flight.key]
            self._cancelled.add(flight)
        flight.task.cancel()

    def _finish(self, flight: Flight[T]) -> None:
        """Remember how an exchange ended, and wake its callers."""
        if flight.cancelled:
            self._cancelled.discard(flight)
        else:
            del self._joinable[flight.key]
        self._remember(flight)
        if not flight.waiters:
            log_unseen(flight)
        for waiter in flight.waiters:
            if self._wake_queue or len(self._joinable) >= _MANY:
                self._wake_queue.add(waiter)
            else:
                wake(waiter)

    def _remember(self, flight: Flight[T]) -> None:
        if flight.error is None:
            is_certain = True
        elif isinstance(flight.error, OpenRouterError):
            is_certain = flight.error.outcome is Outcome.COMPLETED
            if not is_certain and flight.error.outcome is not Outcome.UNKNOWN:
                return
        else:
            is_certain = False
            if not flight.maybe_processed:
                return
        self._exchanged[flight.key_hash] = is_certain
        if len(self._exchanged) > MAX_REMEMBERED:
            # In a plain dict, the search for the oldest entry passes the places of all that were deleted.
            self._exchanged.popitem(last=False)

    def close(self, timeout: float) -> None:
        """Refuse new exchanges, and let those in flight run until a moment; a later moment replaces an earlier one."""
        self._is_closed = True
        self._drain_until = max(self._drain_until, asyncio.get_running_loop().time() + timeout)

    @property
    def is_waited_for_inside(self) -> bool:
        """Whether the running code is in the task of an exchange, such as in its ``on_key``."""
        return any(flight.is_current for flight in self._all())

    async def drain(self) -> None:
        """Wait for the exchanges in flight, then cancel those that did not end in time."""
        loop = asyncio.get_running_loop()
        try:
            while len(self) and (left := self._drain_until - loop.time()) > 0:
                await asyncio.wait([flight.task for flight in self._all()], timeout=left)
        finally:
            late = self._all()
            for flight in late:
                self._cancel(flight)
        if late:
            await asyncio.wait([flight.task for flight in late], timeout=_CANCEL_TIMEOUT)
            for flight in late:
                flight.note_end(flight.task)
        # Do not wait for the next pass of the loop, which may be about to close.
        self._wake_queue.wake_all()

    def _all(self) -> list[Flight[T]]:
        return [*self._joinable.values(), *self._cancelled]
