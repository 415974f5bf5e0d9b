"""The progress of a batch."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import attrs

from openrouter_async._values.clock import Clock
from openrouter_async.batch._results import ExchangeResult
from openrouter_async.errors import Outcome
from openrouter_async.events import Event

logger = logging.getLogger("openrouter_async.batch")

MIN_INTERVAL: Final = 0.1
"""The minimum number of seconds between two reports."""


@attrs.frozen(kw_only=True)
class BatchProgress:
    """A snapshot of the progress of a batch.

    Attributes:
        taken: Requests taken from the input.
        succeeded: Results with a response.
        failed: Results with an error.
        unknown: Failed results whose outcome is unknown.
        repeated: Results that were shared with an equal request before.
        skipped: Requests that were not sent, as the journal has their final result.
        elapsed: Seconds since the first result was asked for.
        total: The number of requests in the input; None if it has no length.
        is_finished: Whether nothing more will come.
    """

    taken: int = 0
    succeeded: int = 0
    failed: int = 0
    unknown: int = 0
    repeated: int = 0
    skipped: int = 0
    elapsed: float = 0.0
    total: int | None = None
    is_finished: bool = False

    @property
    def finished(self) -> int:
        """The number of results, read or not."""
        return self.succeeded + self.failed

    @property
    def in_flight(self) -> int:
        """Requests that were taken and have no result yet."""
        return self.taken - self.finished - self.skipped

    @property
    def rate(self) -> float:
        """Results per second since the start."""
        return self.finished / self.elapsed if self.elapsed > 0 else 0.0


OnProgress: TypeAlias = Callable[[BatchProgress], object]
"""Called as a batch goes on. When it is a coroutine function, each call is awaited before the next one."""


class ProgressCounter:
    """Counts the results of a batch.

    Args:
        total: The number of requests in the input; None if it has no length.
        clock: The source of time.

    Attributes:
        repeated: Results that were shared with an equal request before.
        skipped: Requests without a result.
    """

    def __init__(self, total: int | None, clock: Clock) -> None:
        self.repeated = self.skipped = 0
        self._succeeded = self._failed = self._unknown = 0
        self._total = total
        self._clock = clock
        self._started: float | None = None
        self._elapsed = 0.0

    @property
    def is_started(self) -> bool:
        """Whether time is measured."""
        return self._started is not None

    def start(self) -> None:
        """Start measuring the time."""
        self._started = self._clock.monotonic()

    def add(self, result: ExchangeResult) -> None:
        """Count a result."""
        if result.error is None:
            self._succeeded += 1
        else:
            self._failed += 1
            self._unknown += result.outcome is Outcome.UNKNOWN

    def progress(self, *, taken: int, is_finished: bool) -> BatchProgress:
        """Return a snapshot of the progress.

        Args:
            taken: The number of requests taken so far.
            is_finished: Whether nothing more will come.
        """
        if self._started is not None and not is_finished:
            self._elapsed = self._clock.monotonic() - self._started
        return BatchProgress(
            taken=taken,
            succeeded=self._succeeded,
            failed=self._failed,
            unknown=self._unknown,
            repeated=self.repeated,
            skipped=self.skipped,
            elapsed=self._elapsed,
            total=self._total,
            is_finished=is_finished,
        )


class Reporter:
    """Calls an observer during a batch: not too often, one call at a time, and at the end.

    Exceptions of the observer are logged, and change nothing.
    """

    def __init__(self, observer: OnProgress, clock: Clock) -> None:
        self._observer = observer
        self._clock = clock
        self._due = clock.monotonic()
        self._under_way: asyncio.Task[None] | None = None

    def update(self, progress: Callable[[], BatchProgress]) -> None:
        """Report if `MIN_INTERVAL` has passed and the observer is done with the last report."""
        now = self._clock.monotonic()
        if now < self._due or (self._under_way is not None and not self._under_way.done()):
            return
        self._due = now + MIN_INTERVAL
        told = self._call(progress())
        if told is not None:
            self._under_way = asyncio.get_running_loop().create_task(_finish(told))

    async def close(self, progress: BatchProgress) -> None:
        """Report for the last time."""
        if self._under_way is not None:
            await asyncio.wait((self._under_way,))
        told = self._call(progress)
        if told is not None:
            await _finish(told)

    def _call(self, progress: BatchProgress) -> Awaitable[object] | None:
        try:
            told = self._observer(progress)
        except Exception:  # noqa: BLE001 - it is logged
            _log_failure()
            return None
        return told if inspect.isawaitable(told) else None


async def _finish(told: Awaitable[object]) -> None:
    try:
        await told
    except Exception:  # noqa: BLE001 - it is logged
        _log_failure()


def _log_failure() -> None:
    logger.exception("on_progress raised; the batch goes on", extra={"event": Event.HOOK_FAILED})
