"""One exchange under way: its callers, how it ended, and what is logged when nobody is left to be told."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Hashable
from types import TracebackType
from typing import Any, Generic, TypeVar

from openrouter_async._http.chain import SendState
from openrouter_async._values.frames import describe
from openrouter_async.errors import ClientClosedError, KeyDeliveryError, OpenRouterError, Outcome
from openrouter_async.events import Event

logger = logging.getLogger("openrouter_async")

T = TypeVar("T")


class Flight(SendState, Generic[T]):
    """An exchange in flight, and the callers that wait for it."""

    task: asyncio.Task[T]
    result: T
    # On the class, as most flights keep the initial value.
    error: BaseException | None = None
    traceback: TracebackType | None = None
    is_finished = False

    def __init__(self, key: tuple[Hashable, ...], variant: object, on_end: Callable[[Flight[T]], None]) -> None:
        self.key = key
        self.key_hash = hash(key)
        self.variant = variant
        self.waiters: list[asyncio.Future[None]] = []
        self._on_end = on_end

    @property
    def is_current(self) -> bool:
        """Whether the running code is in the task of this exchange, as its hooks and middlewares are.

        Tasks that these start are not recognised.
        """
        # Without a task, this is the first step of an eager one: `create_task` has not returned yet.
        task = getattr(self, "task", None)
        return task is None or task is asyncio.current_task()

    @property
    def digest(self) -> str:
        """The SHA-256 of the authorization code, shortened: it identifies the exchange in log records."""
        return hashlib.sha256(str(self.key[1]).encode(errors="surrogatepass")).hexdigest()[:16]

    def finish(self, result: Any) -> None:
        """Take the result from within the task: its callback would cost one more pass of the loop."""
        if self.is_finished:
            return
        self.is_finished = True
        # Without a task, this is the first step of an eager one.
        if (task := getattr(self, "task", None)) is not None:
            task.remove_done_callback(self.note_end)
        self.result = result
        self._on_end(self)

    def note_end(self, task: asyncio.Task[T]) -> None:
        """Note the end of the task, or that it could not be cancelled in time: then it ends later, and unnoticed."""
        if self.is_finished:
            return
        self.is_finished = True
        if not task.done() or task.cancelled():
            self.error = _error_of_cancelled(self, task)
        elif (error := task.exception()) is None:
            self.result = task.result()
        else:
            self.error, self.traceback = _error_for_callers(error)
        self._on_end(self)


def _error_for_callers(error: BaseException) -> tuple[BaseException, TracebackType | None]:
    """Return the error for the callers of an exchange that ended with this one, and its traceback."""
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        # asyncio stops the loop for these already; raising them in each caller would stop it again.
        return OpenRouterError(f"the exchange was ended by {type(error).__name__}", outcome=Outcome.UNKNOWN), None
    return error, error.__traceback__


def _error_of_cancelled(flight: Flight[Any], task: asyncio.Task[Any]) -> OpenRouterError:
    """Return the error for the callers of an exchange whose task was cancelled; log one that was cut off."""
    is_from_inside = task.done() and not task.cancelling()
    if flight.maybe_processed and not is_from_inside:
        logger.warning(
            "an exchange was cut off before its answer came; whether a key was issued is unknown (code digest %s)",
            flight.digest,
            extra={"event": Event.CUT_OFF, "code_digest": flight.digest},
        )
    if flight.cancelled:
        return ClientClosedError(
            "the client was closed before the exchange ended",
            outcome=Outcome.UNKNOWN if flight.maybe_processed else Outcome.NOT_SENT,
        )
    # A middleware may have sent the request by other means, so even an exchange that the transport did not send is
    # uncertain.
    place = "something inside the exchange" if is_from_inside else "the task of the exchange"
    return OpenRouterError(f"{place} was cancelled", outcome=Outcome.UNKNOWN)


def log_unseen(flight: Flight[Any]) -> None:
    """Log how an exchange ended if no caller is left to learn it, unless the key is saved."""
    error = flight.error
    if isinstance(error, KeyDeliveryError):
        logger.error(
            "a key is lost: its caller was cancelled, and %s (code digest %s)",
            error,
            flight.digest,
            extra={"event": Event.KEY_LOST, "code_digest": flight.digest},
        )
    elif error is not None:
        # An exchange that was cancelled before it was sent has nothing to report, and one that was cut off is logged
        # already.
        if not (flight.task.done() and flight.task.cancelled()) and not isinstance(error, ClientClosedError):
            logger.warning(
                "an exchange whose caller was cancelled failed: %s (code digest %s)",
                describe(error),
                flight.digest,
                extra={"event": Event.UNSEEN_FAILURE, "code_digest": flight.digest},
            )
    elif not flight.key_saved:
        logger.error(
            "a key is lost: its caller was cancelled while it was on its way, and no on_key is set (code digest %s)",
            flight.digest,
            extra={"event": Event.KEY_LOST, "code_digest": flight.digest},
        )
