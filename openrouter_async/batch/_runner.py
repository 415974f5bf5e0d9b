"""A batch under way: a fixed number of workers between the input and the consumer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from contextvars import ContextVar
from typing import TypeAlias

import attrs

from openrouter_async._http.single_flight import CallerGroup
from openrouter_async._values.clock import Clock
from openrouter_async._values.models import ExchangeAuthCodeForAPIKeyRequest, ExchangeAuthCodeForAPIKeyResponse
from openrouter_async.batch._dedup import Identity, Repeats, identify
from openrouter_async.batch._intake import Intake
from openrouter_async.batch._journal import Journal
from openrouter_async.batch._options import Plan
from openrouter_async.batch._progress import BatchProgress, ProgressCounter, Reporter
from openrouter_async.batch._queues import Outlet
from openrouter_async.batch._results import ExchangeResult, log_lost_keys, not_sent
from openrouter_async.batch._source import Source
from openrouter_async.batch._status import request_digest
from openrouter_async.errors import (
    ClientClosedError,
    JournalError,
    OpenRouterError,
    Outcome,
    RequestTimeoutError,
    RequestValidationError,
)

_inside: ContextVar[object] = ContextVar("openrouter_async.batch", default=None)
"""The mark of the batch that what runs is a part of."""

_Request: TypeAlias = ExchangeAuthCodeForAPIKeyRequest
_Response: TypeAlias = ExchangeAuthCodeForAPIKeyResponse

Exchange: TypeAlias = Callable[[_Request, CallerGroup], Awaitable[_Response]]
"""Exchanges one code for a caller of a group, which may withdraw it while it is not sent."""

NotSent: TypeAlias = Callable[[], OpenRouterError]
"""Makes the error for a request that was taken, but not sent."""


class Run:
    """A batch under way.

    The workers pull: each takes the next request when it is done with its last one, so that an endless input needs no
    more memory than a short one. They stop taking while twice as many requests as there are workers have no result that
    the consumer took. The batch cancels a worker only while it waits for input or for an exchange, and an exchange that
    was sent ends first: so nothing has to be repaired afterwards. Whoever else cancels one ends the batch at once.

    Attributes:
        take: Gives a result that is there; None when there is none yet, or no more.
    """

    def __init__(self, exchange: Exchange, source: Source, plan: Plan, clock: Clock) -> None:
        self._exchange = exchange
        self._source = source
        self._plan = plan
        self._clock = clock
        self._reporter = None if plan.on_progress is None else Reporter(plan.on_progress, clock)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._workers: list[asyncio.Task[None]] = []
        self._active = 0
        self._cancellable: set[asyncio.Task[None]] = set()
        self._group = CallerGroup()
        self._timer: asyncio.Task[None] | None = None
        self._outlet = Outlet(places=2 * plan.concurrency, ordered=plan.ordered)
        self.take = self._outlet.take
        self._intake = Intake(source, self._outlet, self._cancellable)
        self._repeats = Repeats(plan.remembered)
        self._not_sent: NotSent | None = None
        self._failure: BaseException | None = None
        self._is_finished = False
        self._is_abandoned = False
        self._tally = ProgressCounter(source.total, clock)
        # Not the run: connections outlive a batch, and keep the context in which they were made.
        self._mark = object()

    # The consumer's side.

    async def next(self) -> ExchangeResult | None:
        """The next result; None when no more will come.

        Raises:
            BaseException: What ended the batch, after its last result.
        """
        if not self._tally.is_started:
            self._start()
        while (result := self._outlet.take()) is None:
            if self._is_finished:
                failure = self._failure or self._intake.failure
                self._failure = self._intake.failure = None
                if failure is not None:
                    raise failure
                return None
            await self._outlet.wait_for_news()
        return result

    def stop(self, error: NotSent) -> None:
        """Take and send nothing more."""
        if self._not_sent is not None:
            return
        self._not_sent = error
        self._intake.is_over = True
        self._outlet.tell_room()
        if not self._tally.is_started:
            self._tally.start()
            self._is_finished = True
        for worker in self._cancellable:
            worker.cancel()
        self._group.withdraw_unsent(error)

    def close(self) -> None:
        """Stop, since nobody wants more."""
        self.stop(lambda: not_sent("the batch was closed"))

    async def drain(self) -> None:
        """Wait until what was sent is answered. It goes on when the caller is cancelled."""
        # What the batch itself calls, such as an on_key, would wait for its own end.
        if self._workers and _inside.get() is not self._mark:
            await asyncio.wait(self._workers)

    def abandon(self) -> None:
        """Stop, and take note that nobody will take the results. It may be called from any thread."""
        if self._loop is None or (self._is_finished and not self._outlet.results):
            return
        # When the loop is closed, nothing is under way any more.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._abandon)

    def warn_of_loss(self, results: Iterable[ExchangeResult]) -> None:
        """Say that the consumer will not get these results, if their keys are nowhere else."""
        if not self._plan.is_safe:
            log_lost_keys(results)

    @property
    def progress(self) -> BatchProgress:
        """How far the batch has come."""
        return self._tally.progress(taken=self._intake.taken, is_finished=self._is_finished)

    def _start(self) -> None:
        self._tally.start()
        self._loop = loop = asyncio.get_running_loop()
        self._active = self._plan.concurrency
        self._workers = [loop.create_task(self._work()) for _ in range(self._active)]
        if self._plan.timeout is not None:
            self._timer = loop.create_task(self._expire(self._plan.timeout))

    async def _expire(self, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self.stop(
            lambda: RequestTimeoutError(
                f"not sent: the batch's timeout of {seconds:g} s is over", outcome=Outcome.NOT_SENT, attempts=0
            )
        )

    def _abandon(self) -> None:
        self._is_abandoned = True
        self.close()
        self._forget_results()

    def _forget_results(self) -> None:
        self.warn_of_loss(self._outlet.results)
        self._outlet.results.clear()

    # The workers' side.

    async def _work(self) -> None:
        _inside.set(self._mark)
        worker = asyncio.current_task()
        assert worker is not None  # noqa: S101 - a coroutine of ours runs in a task
        try:
            while (taken := self._intake.take_at_once() or await self._intake.take(worker)) is not None:
                index, item = taken
                try:
                    request = item if isinstance(item, _Request) else _Request(code=item)  # type: ignore[arg-type]
                except RequestValidationError as invalid:
                    self._deliver(ExchangeResult(index=index, error=invalid.with_traceback(None)))
                    continue
                identity = identify(request)
                if self._repeats.claim(identity) or not await self._share(index, request, identity):
                    await self._carry_out(index, request, identity)
        except (Exception, asyncio.CancelledError) as failure:  # noqa: BLE001 - it is raised in the consumer
            self._fail(failure)
        self._active -= 1
        if not self._active:
            await self._finish()

    async def _share(self, index: int, request: _Request, identity: Identity) -> bool:
        """Deliver the result of an equal request; False when that had none, and this one is claimed instead."""
        while (result := await self._repeats.share(index, request, identity)) is None:
            if self._repeats.claim(identity):
                return False
        self._tally.repeated += 1
        self._deliver(result)
        return True

    async def _carry_out(self, index: int, request: _Request, identity: Identity) -> None:
        journal, digest, is_begun = self._plan.journal, "", False
        result: ExchangeResult | None = None
        outcome: _Response | Exception
        try:
            try:
                if journal is not None and self._not_sent is None:
                    digest = request_digest(request)
                    is_begun = await journal.begin(digest)
                    if not is_begun:
                        await self._skip(index)
                        return
                if self._not_sent is not None:
                    raise self._not_sent()
                outcome = await self._exchange(request, self._group)
            except Exception as error:  # noqa: BLE001 - it is the request's result
                outcome = error
            if journal is not None and is_begun:
                await self._record(journal, digest, outcome)
            if isinstance(outcome, Exception):
                result = made = ExchangeResult(index=index, request=request, error=self._apply_retry_after(outcome))
            else:
                result = made = ExchangeResult(index=index, request=request, response=outcome)
        finally:
            # However it ends: others may wait for it.
            self._repeats.land(identity, result)
            if journal is not None and is_begun and result is None:
                journal.abandon(digest)
        self._deliver(made)

    async def _skip(self, index: int) -> None:
        self._tally.skipped += 1
        self._outlet.put(index, None)
        # A long row of these must not keep the loop from its other work.
        await asyncio.sleep(0)

    async def _record(self, journal: Journal, digest: str, outcome: _Response | Exception) -> None:
        try:
            await journal.record(digest, outcome)
        except JournalError as failure:
            self._fail(failure)

    def _apply_retry_after(self, error: Exception) -> Exception:
        if isinstance(error, OpenRouterError):
            # It says by itself what happened, and frames are large.
            error.with_traceback(None)
        if isinstance(error, (ClientClosedError, JournalError)):
            # So would all others fail.
            self._fail(error)
        return error

    def _deliver(self, result: ExchangeResult) -> None:
        self._tally.add(result)
        self._outlet.put(result.index, result)
        if self._reporter is not None:
            self._reporter.update(lambda: self.progress)
        if self._plan.stop_on is not None and self._plan.is_stopped_by(result):
            self.stop(lambda: not_sent("stop_on ended the batch"))

    def _fail(self, failure: BaseException) -> None:
        self._failure = self._failure or failure
        self.stop(lambda: not_sent("the batch failed"))

    async def _finish(self) -> None:
        """What the last worker does."""
        try:
            if self._timer is not None:
                self._timer.cancel()
                await asyncio.wait((self._timer,))
            await self._source.aclose()
        except Exception as failure:  # noqa: BLE001 - it is raised in the consumer
            self._failure = self._failure or failure
        finally:
            last = attrs.evolve(self.progress, is_finished=True)
            try:
                if self._reporter is not None:
                    await self._reporter.close(last)
            finally:
                self._is_finished = True
                self._outlet.tell_news()
                if self._is_abandoned:
                    self._forget_results()
