"""The runner of a batch: a fixed number of workers between the input and the consumer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from contextvars import ContextVar
from typing import TypeAlias

import attrs

from openrouter_async._http.single_flight import CallerGroup, NotSent
from openrouter_async._values.clock import Clock
from openrouter_async._values.models import ExchangeAuthCodeForAPIKeyRequest, ExchangeAuthCodeForAPIKeyResponse
from openrouter_async.batch._dedup import DedupCache
from openrouter_async.batch._journal import Journal
from openrouter_async.batch._options import Options
from openrouter_async.batch._progress import BatchProgress, ProgressCounter, Reporter
from openrouter_async.batch._queues import InputQueue, ResultBuffer
from openrouter_async.batch._results import (
    ExchangeFailure,
    ExchangeResult,
    ExchangeSuccess,
    Requests,
    log_lost_results,
    log_unknown_results,
    not_sent,
    to_failure,
)
from openrouter_async.batch._status import request_digest
from openrouter_async.errors import (
    ClientClosedError,
    JournalError,
    Outcome,
    RequestTimeoutError,
    RequestValidationError,
)

_inside: ContextVar[object] = ContextVar("openrouter_async.batch", default=None)
"""The mark of the batch that the running code belongs to."""

_Request: TypeAlias = ExchangeAuthCodeForAPIKeyRequest
_Response: TypeAlias = ExchangeAuthCodeForAPIKeyResponse

Exchange: TypeAlias = Callable[[_Request, CallerGroup], Awaitable[_Response]]
"""Exchanges one code for a caller of a group, which may be withdrawn as long as the code is not sent."""


class Runner:
    """A running batch.

    Each worker takes the next request when it has finished the previous one, so an endless input needs no more memory
    than a short one. Workers pause while the requests whose results the consumer has not taken are twice as many as the
    workers. The batch itself cancels a worker only while it waits for input; exchanges that were not sent are
    withdrawn. If anything else cancels a worker, the batch ends at once.

    Attributes:
        take: Returns a result, or None when none is ready.
    """

    def __init__(self, exchange: Exchange, requests: Requests, options: Options, clock: Clock) -> None:
        self._exchange = exchange
        self._options = options
        self._clock = clock
        self._reporter = None if options.on_progress is None else Reporter(options.on_progress, clock)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._workers: list[asyncio.Task[None]] = []
        self._active = 0
        self._group = CallerGroup()
        self._timer: asyncio.Task[None] | None = None
        self._buffer = ResultBuffer(capacity=2 * options.concurrency, ordered=options.ordered)
        self.take = self._buffer.take
        self._input = InputQueue(requests, self._buffer)
        self._dedup = DedupCache(options.dedup_size)
        self._not_sent: NotSent | None = None
        self._failure: BaseException | None = None
        self._is_finished = False
        self._is_abandoned = False
        self._tally = ProgressCounter(self._input.total, clock)
        # A mark instead of the runner itself: connections outlive a batch, and keep the context in which they were
        # opened.
        self._mark = object()

    # The consumer's side.

    async def next(self) -> ExchangeResult | None:
        """Return the next result, or None when no more will come.

        Raises:
            BaseException: The exception that ended the batch, raised after the last result.
        """
        if not self._tally.is_started:
            self._start()
        while (result := self._buffer.take()) is None:
            if self._is_finished:
                failure = self._failure or self._input.failure
                self._failure = self._input.failure = None
                if failure is not None:
                    raise failure
                return None
            await self._buffer.wait_for_result()
        return result

    def stop(self, error: NotSent) -> None:
        """Take and send no more requests."""
        if self._not_sent is not None:
            return
        self._not_sent = error
        self._input.close()
        if not self._tally.is_started:
            self._tally.start()
            self._is_finished = True
        self._group.withdraw_unsent(error)

    def close(self) -> None:
        """Stop because no more results are wanted."""
        self.stop(lambda: not_sent("the batch was closed"))

    async def drain(self, timeout: float | None = None) -> None:
        """Wait until all requests that were sent have a result; they are not affected if the caller is cancelled."""
        # Code that the batch itself calls, such as `on_key`, would wait for itself.
        if self._workers and _inside.get() is not self._mark:
            await asyncio.wait(self._workers, timeout=timeout)

    def abandon(self) -> None:
        """Stop because nobody can take the results any more. This may be called from any thread."""
        if self._loop is None or (self._is_finished and not self._buffer.results):
            return
        # If the loop is closed, nothing is running any more.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._abandon)

    def warn_of_loss(self, results: Iterable[ExchangeResult]) -> None:
        """Log that the consumer does not get these results, if keys may be lost with them."""
        given = list(results)
        log_lost_results(result for result in given if not self._options.is_kept(result))
        log_unknown_results(given)

    @property
    def progress(self) -> BatchProgress:
        """The progress of the batch."""
        return self._tally.progress(taken=self._input.taken, is_finished=self._is_finished)

    def _start(self) -> None:
        self._tally.start()
        self._loop = loop = asyncio.get_running_loop()
        self._active = self._options.concurrency
        if self._options.timeout is not None:
            # Before the workers: with an eager task factory, they may all have ended when they are created.
            self._timer = loop.create_task(self._expire(self._options.timeout))
        self._workers = [loop.create_task(self._work()) for _ in range(self._active)]

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
        self.warn_of_loss(self._buffer.results)
        self._buffer.results.clear()

    # The workers' side.

    async def _work(self) -> None:
        _inside.set(self._mark)
        worker = asyncio.current_task()
        assert worker is not None  # noqa: S101 - a coroutine of ours runs in a task
        try:
            while (taken := self._input.take_at_once() or await self._input.take(worker)) is not None:
                index, item = taken
                try:
                    request = item if isinstance(item, _Request) else _Request(code=item)  # type: ignore[arg-type]
                except RequestValidationError as invalid:
                    self._deliver(ExchangeFailure(index=index, error=invalid.with_traceback(None)))
                    continue
                finally:
                    # The item may be a bare code, which tracebacks with local variables would show.
                    del taken, item
                if self._dedup.reserve(request) or not await self._share(index, request):
                    await self._process(index, request)
        except (Exception, asyncio.CancelledError) as failure:  # noqa: BLE001 - it is raised in the consumer
            self._fail(failure)
        self._active -= 1
        if not self._active:
            await self._finish()

    async def _share(self, index: int, request: _Request) -> bool:
        """Deliver the result of an equal request.

        Returns:
            False if that one had no result; then this request is reserved instead.
        """
        while (result := await self._dedup.get(index, request)) is None:
            if self._dedup.reserve(request):
                return False
        self._tally.repeated += 1
        self._deliver(result)
        return True

    async def _process(self, index: int, request: _Request) -> None:
        journal, digest = self._options.journal, ""
        begun_in: Journal | None = None
        result: ExchangeResult | None = None
        outcome: _Response | Exception
        try:
            try:
                if journal is not None and self._not_sent is None:
                    digest = request_digest(request)
                    if not await journal.begin(digest):
                        await self._skip(index)
                        return
                    begun_in = journal
                if self._not_sent is not None:
                    raise self._not_sent()
                outcome = await self._exchange(request, self._group)
            except Exception as error:  # noqa: BLE001 - it is the request's result
                outcome = error
            if begun_in is not None:
                await self._record(begun_in, digest, outcome)
            result = made = self._to_result(index, request, outcome)
        finally:
            # Even after a failure, because repeats of the request may be waiting for its result.
            self._dedup.resolve(request, result)
            if begun_in is not None and result is None:
                begun_in.abandon(digest)
        self._deliver(made)

    async def _skip(self, index: int) -> None:
        self._tally.skipped += 1
        self._buffer.put(index, None)
        # A long series of requests that need no wait must not block the loop.
        await asyncio.sleep(0)

    async def _record(self, journal: Journal, digest: str, outcome: _Response | Exception) -> None:
        try:
            await journal.record(digest, outcome)
        except JournalError as failure:
            self._fail(failure)

    def _to_result(self, index: int, request: _Request, outcome: _Response | Exception) -> ExchangeResult:
        """Return the result of a request, and end the batch if all other requests would fail in the same way."""
        if not isinstance(outcome, Exception):
            return ExchangeSuccess(index=index, request=request, response=outcome)
        if isinstance(outcome, (ClientClosedError, JournalError)):
            self._fail(outcome)
        return to_failure(index, request, outcome)

    def _deliver(self, result: ExchangeResult) -> None:
        self._tally.add(result)
        self._buffer.put(result.index, result)
        if self._reporter is not None:
            self._reporter.update(lambda: self.progress)
        if self._options.stop_on is not None and self._options.is_stopped_by(result):
            self.stop(lambda: not_sent("stop_on ended the batch"))

    def _fail(self, failure: BaseException) -> None:
        self._failure = self._failure or failure
        self.stop(lambda: not_sent("the batch failed"))

    async def _finish(self) -> None:
        """Clean up after the last worker."""
        try:
            if self._timer is not None:
                self._timer.cancel()
                await asyncio.wait((self._timer,))
            await self._input.aclose()
        except Exception as failure:  # noqa: BLE001 - it is raised in the consumer
            self._failure = self._failure or failure
        finally:
            last = attrs.evolve(self.progress, is_finished=True)
            try:
                if self._reporter is not None:
                    await self._reporter.close(last)
            finally:
                self._is_finished = True
                self._buffer.notify_result()
                if self._is_abandoned:
                    self._forget_results()
