"""Time limits of many requests that share one timer of the event loop."""

from __future__ import annotations

import asyncio
import functools
import math
from types import TracebackType
from typing import Final, Self

# A timer that fires this many seconds late was delayed by a suspended process, not by a busy loop.
_MIN_LATENESS: Final = 0.1
_MAX_GRACE: Final = 1.0


class DeadlineExpiredError(Exception):
    """The work in a ``with`` block was cancelled by its deadline."""


class Deadline:
    """A moment at which a task is cancelled unless it has finished its work.

    As a context manager, it stops at the end of the block, and raises `DeadlineExpiredError` in place of the
    cancellation that it requested.

    Attributes:
        when: The moment, in the loop's time.
        expired: Whether the moment came, and the task was cancelled for it.
    """

    __slots__ = ("_active", "_cancelling", "_is_absorbed", "expired", "task", "when")

    def __init__(self, task: asyncio.Task[object], when: float, active: set[Deadline]) -> None:
        self._active = active
        self.task = task
        self.when = when
        self.expired = False
        self._is_absorbed = False
        self._cancelling = task.cancelling()

    def absorb_cancellation(self) -> bool:
        """Absorb the cancellation that the deadline requested.

        Returns:
            Whether it was the only one.
        """
        if not self.expired or self._is_absorbed:
            return False
        self._is_absorbed = True
        return self.task.uncancel() <= self._cancelling

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._active.discard(self)
        if self.expired and self.absorb_cancellation() and kind is asyncio.CancelledError:
            raise DeadlineExpiredError from None


class Deadlines:
    """The deadlines of one loop. They work as `asyncio.timeout` does, without a timer for each.

    The timer is set to the earliest deadline known at that time. Because most requests are answered long before theirs,
    it fires about once per timeout, checks the remaining deadlines, and is set again.
    """

    def __init__(self) -> None:
        self._active: set[Deadline] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = math.inf
        self._loop: asyncio.AbstractEventLoop | None = None

    def __len__(self) -> int:
        return len(self._active)

    def start(self, seconds: float | None) -> Deadline:
        """Start a deadline for the current task; None stands for one that never comes."""
        # Before Python 3.12, asyncio makes a system call to find the running loop.
        task = asyncio.current_task(self._loop)
        if task is None:
            raise RuntimeError("a deadline needs a running task")
        if (loop := self._loop) is None:
            loop = self._loop = task.get_loop()
        deadline = Deadline(task, math.inf if seconds is None else loop.time() + seconds, self._active)
        self._active.add(deadline)
        if deadline.when < self._timer_due:
            self._set_timer(loop, deadline.when)
        return deadline

    def stop(self, deadline: Deadline) -> None:
        """Stop a deadline, whether it expired or not."""
        self._active.discard(deadline)
        if deadline.expired:
            deadline.absorb_cancellation()

    def close(self) -> None:
        """Stop the timer, unless a deadline still runs: with a borrowed session, a call can outlive its client."""
        if not self._active:
            self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._timer_due = math.inf

    def _set_timer(self, loop: asyncio.AbstractEventLoop, when: float) -> None:
        self._stop_timer()
        self._timer_due = when
        self._timer = loop.call_at(when, self._expire, loop)

    def _expire(self, loop: asyncio.AbstractEventLoop, *, has_grace: bool = True) -> None:
        late = loop.time() - self._timer_due
        self._stop_timer()
        if has_grace and late > _MIN_LATENESS:
            # The process was suspended, and an answer may be in a socket's buffer: let the loop read it first.
            self._timer_due = loop.time() + min(late, _MAX_GRACE)
            self._timer = loop.call_at(self._timer_due, functools.partial(self._expire, loop, has_grace=False))
            return
        # The loop may run a timer early by the resolution of its clock; deadlines within that are due now.
        now = loop.time() + 1e-3
        for deadline in [deadline for deadline in self._active if deadline.when <= now]:
            self._active.discard(deadline)
            deadline.expired = True
            deadline.task.cancel()
        next_due = min((deadline.when for deadline in self._active), default=math.inf)
        if next_due < math.inf:
            self._set_timer(loop, next_due)
