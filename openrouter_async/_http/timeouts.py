"""Time limits for many requests behind one timer of the loop."""

from __future__ import annotations

import asyncio
from typing import Final

# A timer that fires this many seconds late was held up by a process that stood still, not by a busy loop.
_MIN_LATENESS: Final = 0.1
_MAX_GRACE: Final = 1.0


class Deadline:
    """A moment by which a task has to be done with something.

    Attributes:
        when: The moment, in the loop's time.
        expired: Whether it came, and the task was cancelled for it.
    """

    __slots__ = ("_cancelling", "_is_settled", "expired", "task", "when")

    def __init__(self, task: asyncio.Task[object], when: float) -> None:
        self.task = task
        self.when = when
        self.expired = False
        self._is_settled = False
        self._cancelling = task.cancelling()

    def settle(self) -> bool:
        """Take back the cancellation that the deadline asked for; whether it was the only one."""
        if not self.expired or self._is_settled:
            return False
        self._is_settled = True
        return self.task.uncancel() <= self._cancelling


class Deadlines:
    """The deadlines of one loop: what `asyncio.timeout` does, without a timer for each.

    The one timer is set to the earliest deadline that was known when it was set. As most requests are answered long
    before, it fires about once in the length of a timeout, looks at what is left, and is set anew.
    """

    def __init__(self) -> None:
        self._active: set[Deadline] = set()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._active)

    def start(self, seconds: float) -> Deadline:
        """Let a deadline run for the current task."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a deadline needs a running task")
        loop = task.get_loop()
        deadline = Deadline(task, loop.time() + seconds)
        self._active.add(deadline)
        if self._timer is None or deadline.when < self._timer.when():
            self._set_timer(loop, deadline.when)
        return deadline

    def stop(self, deadline: Deadline) -> None:
        """Forget a deadline, whether it came or not."""
        self._active.discard(deadline)
        if deadline.expired:
            deadline.settle()

    def close(self) -> None:
        """Stop the timer, unless a deadline still runs: over a borrowed session a call can outlive its client."""
        if not self._active:
            self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self, loop: asyncio.AbstractEventLoop, when: float) -> None:
        self._stop_timer()
        self._timer = loop.call_at(when, self._expire, loop, when)

    def _expire(self, loop: asyncio.AbstractEventLoop, due: float | None) -> None:
        self._timer = None
        late = 0.0 if due is None else loop.time() - due
        if late > _MIN_LATENESS:
            # The process stood still, and an answer may wait in a socket's buffer: let the loop read it first.
            self._timer = loop.call_later(min(late, _MAX_GRACE), self._expire, loop, None)
            return
        # The loop runs a timer up to its clock's resolution early; what is due then is due now.
        now = loop.time() + 1e-3
        for deadline in [deadline for deadline in self._active if deadline.when <= now]:
            self._active.discard(deadline)
            deadline.expired = True
            deadline.task.cancel()
        if self._active:
            self._set_timer(loop, min(deadline.when for deadline in self._active))
