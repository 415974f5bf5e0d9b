"""A batch under way: a fixed number of workers between the input and the consumer."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import TypeAlias

import attrs

from openrouter_async.batch.plan import Plan
from openrouter_async.batch.progress import BatchProgress, Reporter
from openrouter_async.batch.results import ExchangeResult, StopOn
from openrouter_async.batch.source import END, Source
from openrouter_async.batch.standing import digest_of, text_of
from openrouter_async.clock import Clock
from openrouter_async.errors import (
    ClientClosedError,
    JournalError,
    OpenRouterError,
    Outcome,
    RequestTimeoutError,
    RequestValidationError,
    TransportError,
)
from openrouter_async.events import Event
from openrouter_async.inflight import IF_NOT_SENT
from openrouter_async.models import ExchangeAuthCodeForAPIKeyRequest, ExchangeAuthCodeForAPIKeyResponse

logger = logging.getLogger(__name__)

_Request: TypeAlias = ExchangeAuthCodeForAPIKeyRequest
_Response: TypeAlias = ExchangeAuthCodeForAPIKeyResponse

Exchange: TypeAlias = Callable[[_Request], Awaitable[_Response]]
"""Exchanges one code. Cancelled with `IF_NOT_SENT`, it raises `CancelledError` only so; what was sent ends first."""

NotSent: TypeAlias = Callable[[], OpenRouterError]
"""Makes the error for a request that was taken, but not sent."""


class Run:
    """A batch under way.

    The workers pull: each takes the next request when it is done with its last one, so that an endless input needs no
    more memory than a short one. They stop taking while twice as many requests as there are workers have no result that
    the consumer took. The batch cancels a worker only while it waits for input or for an exchange, and an exchange that
    was sent ends first: so nothing has to be repaired afterwards. Whoever else cancels one ends the batch at once.
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
        self._timer: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._places = 2 * plan.concurrency
        self._room = asyncio.Event()
        # Results that can be taken, and in an ordered batch those that wait for an earlier one: None if there is none.
        self._results: deque[ExchangeResult] = deque()
        self._early: dict[int, ExchangeResult | None] = {}
        self._next_index = 0
        self._news = asyncio.Event()
        # By the text of their requests. Of a key, no more is kept than strings, which cost no garbage collection.
        self._under_way: dict[str, asyncio.Future[ExchangeResult] | None] = {}
        self._recent: OrderedDict[str, ExchangeResult | tuple[str, str | None]] = OrderedDict()
        self._not_sent: NotSent | None = None
        self._failure: BaseException | None = None
        self._is_exhausted = False
        self._is_finished = False
        self._is_abandoned = False
        self._taken = self._succeeded = self._failed = self._unknown = self._repeated = self._skipped = 0
        self._started: float | None = None
        self._elapsed = 0.0

    # The consumer's side.

    def take(self) -> ExchangeResult | None:
        """A result that is there; None when there is none yet, or no more."""
        if not self._results:
            return None
        self._free_place()
        return self._results.popleft()

    async def next(self) -> ExchangeResult | None:
        """The next result; None when no more will come.

        Raises:
            BaseException: What ended the batch, after its last result.
        """
        if self._started is None:
            self._start()
        while (result := self.take()) is None:
            if self._is_finished:
                failure, self._failure = self._failure, None
                if failure is not None:
                    raise failure
                return None
            self._news.clear()
            await self._news.wait()
        return result

    def stop(self, not_sent: NotSent) -> None:
        """Take and send nothing more."""
        if self._not_sent is not None:
            return
        self._not_sent = not_sent
        self._is_exhausted = True
        self._room.set()
        if self._started is None:
            self._started = self._clock.monotonic()
            self._is_finished = True
        for worker in self._cancellable:
            worker.cancel(IF_NOT_SENT)

    async def drain(self) -> None:
        """Wait until what was sent is answered. It goes on when the caller is cancelled."""
        if self._workers:
            await asyncio.wait(self._workers)

    def abandon(self) -> None:
        """Stop, and take note that nobody will take the results. It may be called from any thread."""
        if self._loop is None or (self._is_finished and not self._results):
            return
        # When the loop is closed, nothing is under way any more.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._abandon)

    def warn_of_loss(self, results: Iterable[ExchangeResult]) -> None:
        """Say that the consumer will not get these results, if their keys are nowhere else."""
        lost = sum(result.key is not None for result in results)
        if lost and not self._plan.is_safe:
            logger.error(
                "%d key(s) of a batch are lost: it was left before its end, and no on_key is set",
                lost,
                extra={"event": Event.KEY_LOST, "keys": lost},
            )

    @property
    def progress(self) -> BatchProgress:
        """How far the batch has come."""
        if self._started is not None and not self._is_finished:
            self._elapsed = self._clock.monotonic() - self._started
        return BatchProgress(
            taken=self._taken,
            succeeded=self._succeeded,
            failed=self._failed,
            unknown=self._unknown,
            repeated=self._repeated,
            skipped=self._skipped,
            elapsed=self._elapsed,
            total=self._source.total,
            is_finished=self._is_finished,
        )

    def _start(self) -> None:
        self._started = self._clock.monotonic()
        self._loop = loop = asyncio.get_running_loop()
        self._active = self._plan.concurrency
        self._workers = [loop.create_task(self._work()) for _ in range(self._active)]
        if self._plan.deadline is not None:
            self._timer = loop.create_task(self._expire(self._plan.deadline))

    async def _expire(self, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self.stop(
            lambda: RequestTimeoutError(
                f"not sent: the batch's deadline of {seconds:g} s is over", outcome=Outcome.NOT_SENT, attempts=0
            )
        )

    def _abandon(self) -> None:
        self._is_abandoned = True
        self.stop(closed)
        self._forget_results()

    def _forget_results(self) -> None:
        self.warn_of_loss(self._results)
        self._results.clear()

    # The workers' side.

    async def _work(self) -> None:
        worker = asyncio.current_task()
        assert worker is not None  # noqa: S101 - a coroutine of ours runs in a task
        try:
            while (taken := self._take_at_once() or await self._take(worker)) is not None:
                await self._carry_out(worker, *taken)
        except (Exception, asyncio.CancelledError) as failure:  # noqa: BLE001 - it is raised in the consumer
            self._fail(failure)
        self._active -= 1
        if not self._active:
            await self._finish()

    def _take_at_once(self) -> tuple[int, object] | None:
        """Take a request when there is nothing to wait for, which costs less than to take turns."""
        if self._source.is_async or self._is_exhausted or self._places <= 0 or self._turn.locked():
            return None
        try:
            return self._admit(self._source.next_at_once())
        except Exception as failure:  # noqa: BLE001 - it is raised in the consumer
            self._end_input(failure)
            return None

    async def _take(self, worker: asyncio.Task[None]) -> tuple[int, object] | None:
        async with self._turn:
            while self._places <= 0 and not self._is_exhausted:
                self._room.clear()
                await self._room.wait()
            if self._is_exhausted:
                return None
            self._cancellable.add(worker)
            try:
                return self._admit(await self._source.next())
            except asyncio.CancelledError:
                if self._not_sent is None:
                    raise
                worker.uncancel()
                return None
            except Exception as failure:  # noqa: BLE001 - it is raised in the consumer
                self._end_input(failure)
                return None
            finally:
                self._cancellable.discard(worker)

    def _admit(self, item: object) -> tuple[int, object] | None:
        if item is END:
            self._is_exhausted = True
            return None
        self._places -= 1
        self._taken += 1
        return self._taken - 1, item

    def _end_input(self, failure: Exception) -> None:
        """Take note that the input failed, which is no reason not to send what was taken from it."""
        self._failure = self._failure or failure
        self._is_exhausted = True

    async def _carry_out(self, worker: asyncio.Task[None], index: int, item: object) -> None:
        try:
            request = item if isinstance(item, _Request) else _Request(code=item)  # type: ignore[arg-type]
        except RequestValidationError as invalid:
            self._deliver(ExchangeResult(index=index, error=invalid.with_traceback(None)))
            return
        text = text_of(request)
        if text in self._recent or text in self._under_way:
            self._deliver(await self._repeat(index, request, text))
            return
        journal, digest = self._plan.journal, ""
        if journal is not None:
            digest = digest_of(text)
            if journal.is_final(digest):
                self._skipped += 1
                self._put(index, None)
                # A long row of these must not keep the loop from its other work.
                await asyncio.sleep(0)
                return
        self._under_way[text] = None
        result: ExchangeResult | None = None
        try:
            outcome = await self._attempt(worker, request, digest)
            if isinstance(outcome, Exception):
                result = ExchangeResult(index=index, request=request, error=self._heed(outcome))
            else:
                result = ExchangeResult(index=index, request=request, response=outcome)
        finally:
            # However it ends: others may wait for it.
            self._land(text, result)
        self._deliver(result)

    async def _attempt(self, worker: asyncio.Task[None], request: _Request, digest: str) -> _Response | Exception:
        journal = self._plan.journal
        outcome: _Response | Exception
        try:
            if journal is not None:
                await journal.begin(digest)
            if self._not_sent is not None:
                raise self._not_sent()
            self._cancellable.add(worker)
            outcome = await self._exchange(request)
        except asyncio.CancelledError as cancelled:
            judged = self._judge_cancellation(worker, cancelled)
            if judged is None:
                if journal is not None:
                    journal.leave(digest)
                raise
            outcome = judged
        except Exception as error:  # noqa: BLE001 - it is the request's result
            outcome = error
        finally:
            self._cancellable.discard(worker)
        if journal is not None and not isinstance(outcome, JournalError):
            try:
                await journal.record(digest, outcome)
            except JournalError as failure:
                self._fail(failure)
        return outcome

    def _judge_cancellation(
        self, worker: asyncio.Task[None], cancelled: asyncio.CancelledError
    ) -> OpenRouterError | None:
        """What a cancellation means for the request; None when it is the worker that has to end at once."""
        if not worker.cancelling():
            return OpenRouterError("something inside the exchange was cancelled", outcome=Outcome.UNKNOWN)
        if self._not_sent is None or cancelled.args != (IF_NOT_SENT,) or worker.uncancel():
            # Somebody else's, such as that of a loop that ends, does not wait for what was sent.
            return None
        return self._not_sent()

    def _heed(self, error: Exception) -> Exception:
        if isinstance(error, OpenRouterError):
            # It says by itself what happened, and frames are large.
            error.with_traceback(None)
        if isinstance(error, (ClientClosedError, JournalError)):
            # So would all others fail.
            self._fail(error)
        return error

    async def _repeat(self, index: int, request: _Request, text: str) -> ExchangeResult:
        if text in self._under_way:
            landed = self._under_way[text]
            if landed is None:
                landed = self._under_way[text] = asyncio.get_running_loop().create_future()
            # Not the future itself: if this worker were cancelled, so would be all that wait for it.
            await asyncio.wait((landed,))
            known: ExchangeResult | tuple[str, str | None] = landed.result()
        else:
            known = self._recent[text]
        self._repeated += 1
        if isinstance(known, ExchangeResult):
            return attrs.evolve(known, index=index)
        key, user_id = known
        return ExchangeResult(index=index, request=request, response=_Response(key=key, user_id=user_id))

    def _land(self, text: str, result: ExchangeResult | None) -> None:
        """Give the result to those that wait for it and to those that come later; None when there will be none."""
        landed = self._under_way.pop(text)
        if result is None:
            if landed is not None:
                landed.cancel()
            return
        if landed is not None:
            landed.set_result(result)
        response = result.response
        self._recent[text] = result if response is None else (response.key, response.user_id)
        if self._plan.remembered is not None and len(self._recent) > self._plan.remembered:
            self._recent.popitem(last=False)

    def _deliver(self, result: ExchangeResult) -> None:
        if result.error is None:
            self._succeeded += 1
        else:
            self._failed += 1
            self._unknown += result.outcome is Outcome.UNKNOWN
        self._put(result.index, result)
        if self._reporter is not None:
            self._reporter.update(lambda: self.progress)
        if self._plan.stop_on is not None and _matches(self._plan.stop_on, result):
            self.stop(lambda: TransportError("not sent: stop_on ended the batch", outcome=Outcome.NOT_SENT, attempts=0))

    def _put(self, index: int, result: ExchangeResult | None) -> None:
        """Hand over a result, or None for a request that has none."""
        if not self._plan.ordered:
            self._hand_over(result)
            return
        self._early[index] = result
        while self._next_index in self._early:
            self._hand_over(self._early.pop(self._next_index))
            self._next_index += 1

    def _hand_over(self, result: ExchangeResult | None) -> None:
        if result is None:
            self._free_place()
        else:
            self._results.append(result)
            self._news.set()

    def _free_place(self) -> None:
        self._places += 1
        self._room.set()

    def _fail(self, failure: BaseException) -> None:
        self._failure = self._failure or failure
        self.stop(lambda: TransportError("not sent: the batch failed", outcome=Outcome.NOT_SENT, attempts=0))

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
                self._news.set()
                if self._is_abandoned:
                    self._forget_results()


def closed() -> OpenRouterError:
    """The error for a request that was not sent, since the batch was closed before."""
    return TransportError("not sent: the batch was closed", outcome=Outcome.NOT_SENT, attempts=0)


def _matches(stop_on: StopOn, result: ExchangeResult) -> object:
    if isinstance(stop_on, (type, tuple)):
        return isinstance(result.error, stop_on)
    return stop_on(result)
