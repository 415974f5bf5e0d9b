"""Exchanges on their way: equal ones share a request, and none is lost with its caller."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Hashable
from types import TracebackType
from typing import Any, Final, Generic, TypeVar

from openrouter_async._http.chain import SendState
from openrouter_async.errors import ClientClosedError, KeyDeliveryError, Outcome
from openrouter_async.events import Event

logger = logging.getLogger("openrouter_async")

T = TypeVar("T")

IF_NOT_SENT: Final = "unless it was sent"
"""The message of a cancellation that is meant only for an exchange that no server can have carried out yet."""

# Callers that are woken at once go on in step, and what is done in step takes the processor less time: a tenth less
# at 64 exchanges at a time. But what belongs to their exchanges is then dropped all at once, and made anew all at once.
# Python's garbage collector runs whenever enough was made and not dropped; with hundreds on their way it would run all
# the time, for a sixth of the CPU at 512. So of many, only a few are woken in each pass of the loop.
_MANY: Final = 100
_WOKEN_AT_ONCE: Final = 8

_CANCEL_TIMEOUT: Final = 1.0
"""Seconds that a cancelled exchange has for its end."""


class _Flight(SendState, Generic[T]):
    """An exchange on its way, and the callers that wait for it."""

    task: asyncio.Task[None]
    # On the class, as most of them keep what they begin with.
    error: Exception | None = None
    traceback: TracebackType | None = None
    result: T | None = None

    def __init__(self, key: Hashable, caller: asyncio.Future[None]) -> None:
        self.key = key
        self.callers = [caller]


class SingleFlight(Generic[T]):
    """The exchanges that a client has on their way, each in a task of its own."""

    def __init__(self) -> None:
        # Every flight is in one of the two until it lands; one that is being cancelled cannot be joined.
        self._joinable: dict[Hashable, _Flight[T]] = {}
        self._withdrawn: set[_Flight[T]] = set()
        # Callers whose exchange is over, until it is their turn to be woken.
        self._landed: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        return len(self._joinable) + len(self._withdrawn)

    async def join(self, key: Hashable, start: Callable[[SendState], Coroutine[Any, Any, T]]) -> T:
        """Wait for the exchange with this key; start it when there is none on its way.

        A caller that is cancelled leaves it running, unless nobody else waits for it and no server can have carried
        it out yet: then it is cancelled, too. One that is cancelled with the message `IF_NOT_SENT` waits all the same
        for an exchange that a server may have carried out, and gets its result instead of the cancellation.

        Args:
            key: What makes two exchanges equal.
            start: Makes the coroutine of a new exchange; it keeps the `SendState` up to date.

        Raises:
            ClientClosedError: The client was closed, and the exchange did not end in time.
        """
        loop = asyncio.get_running_loop()
        landed = loop.create_future()
        made: _Flight[T] = _Flight(key, landed)
        flight = self._joinable.setdefault(key, made)
        if flight is made:
            # It may be over when this returns: a loop can have an eager task factory.
            flight.task = loop.create_task(self._fly(flight, start), name="openrouter_async.exchange")
        else:
            flight.callers.append(landed)
        # A traceback that shows local variables would show the code in it.
        del key
        try:
            await landed
        except asyncio.CancelledError as cancelled:
            if not self._leave(flight, landed, patient=cancelled.args == (IF_NOT_SENT,)):
                raise
            if not flight.task.done():
                await self._stay(flight)
        if flight.error is not None:
            # Each caller raises the same error; the frames of one must not show in another.
            raise flight.error.with_traceback(flight.traceback)
        if flight.result is None:
            if not flight.cancelled:
                # Nobody cancelled it: something inside raised this, and callers get what was raised.
                raise asyncio.CancelledError
            raise ClientClosedError(
                "the client was closed before the exchange ended",
                outcome=Outcome.UNKNOWN if flight.maybe_processed else Outcome.NOT_SENT,
            )
        return flight.result

    def _leave(self, flight: _Flight[T], landed: asyncio.Future[None], *, patient: bool) -> bool:
        """Let a caller go that was cancelled; whether it stays all the same."""
        flight.callers.remove(landed)
        task = asyncio.current_task()
        # Two cancellations that come at once have the message of the first.
        if task is None or not patient or task.cancelling() > 1 or not (flight.task.done() or flight.maybe_processed):
            self._abandon(flight)
            return False
        task.uncancel()
        return True

    async def _stay(self, flight: _Flight[T]) -> None:
        landed = flight.task.get_loop().create_future()
        flight.callers.append(landed)
        try:
            await landed
        except asyncio.CancelledError:
            self._leave(flight, landed, patient=False)
            raise

    def _abandon(self, flight: _Flight[T]) -> None:
        """A caller is gone. When it was the last: what no server can have heard of ends, anything else runs on."""
        if flight.callers:
            return
        if flight.task.done():
            _log_lost_key(flight)
        elif not flight.maybe_processed:
            self._cancel(flight)

    def _cancel(self, flight: _Flight[T]) -> None:
        """End a flight before its time: it stays known until its task is over, and nobody can join it."""
        if not flight.cancelled:
            flight.cancelled = True
            del self._joinable[flight.key]
            self._withdrawn.add(flight)
        # A task that is cancelled before its first step never lands by itself.
        flight.task.add_done_callback(lambda _: self._land(flight))
        flight.task.cancel()

    def _land(self, flight: _Flight[T]) -> None:
        if flight.cancelled:
            self._withdrawn.discard(flight)
        else:
            del self._joinable[flight.key]
        for landed in flight.callers:
            if self._landed or len(self._joinable) >= _MANY:
                self._wake_in_turn(landed)
            else:
                _wake(landed)

    def _wake_in_turn(self, landed: asyncio.Future[None]) -> None:
        if not self._landed:
            landed.get_loop().call_soon(self._wake_more, landed.get_loop())
        self._landed.append(landed)

    def _wake_more(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wake those whose turn it is in this pass of the loop."""
        for _ in range(min(_WOKEN_AT_ONCE, len(self._landed))):
            _wake(self._landed.popleft())
        if self._landed:
            loop.call_soon(self._wake_more, loop)

    async def _fly(self, flight: _Flight[T], start: Callable[[SendState], Coroutine[Any, Any, T]]) -> None:
        try:
            flight.result = await start(flight)
        except Exception as error:  # noqa: BLE001 - it is raised in the callers
            flight.error, flight.traceback = error, error.__traceback__
        finally:
            if not flight.callers:
                _log_lost_key(flight)
            self._land(flight)

    async def drain(self, timeout: float) -> int:
        """Wait for all exchanges on their way, then cancel what is left.

        Args:
            timeout: Seconds to wait.

        Returns:
            How many did not end in time.
        """
        late = await self._end_flights(timeout) if len(self) else 0
        # The loop may be about to end.
        while self._landed:
            _wake(self._landed.popleft())
        return late

    def _all(self) -> list[_Flight[T]]:
        return [*self._joinable.values(), *self._withdrawn]

    async def _end_flights(self, timeout: float) -> int:
        try:
            _, late = await asyncio.wait([flight.task for flight in self._all()], timeout=timeout)
        finally:
            for flight in self._all():
                self._cancel(flight)
        if late:
            await asyncio.wait(late, timeout=_CANCEL_TIMEOUT)
            for flight in self._all():
                self._land(flight)
            logger.warning(
                "the client was closed with %d exchange(s) still on their way",
                len(late),
                extra={"event": Event.CUT_OFF, "exchanges": len(late)},
            )
        return len(late)


def _wake(landed: asyncio.Future[None]) -> None:
    if not landed.done():
        landed.set_result(None)


def _log_lost_key(flight: _Flight[Any]) -> None:
    """Log what an exchange came to when no caller is left to take it, unless that is taken care of."""
    if isinstance(flight.error, KeyDeliveryError):
        logger.error("a key is lost: its caller was cancelled, and %s", flight.error, extra={"event": Event.KEY_LOST})
    elif flight.error is not None:
        logger.warning(
            "an exchange whose caller was cancelled failed: %s", flight.error, extra={"event": Event.UNSEEN_FAILURE}
        )
    elif flight.result is not None and not flight.key_saved:
        logger.error(
            "a key is lost: its caller was cancelled while it was on its way, and no on_key is set",
            extra={"event": Event.KEY_LOST},
        )
