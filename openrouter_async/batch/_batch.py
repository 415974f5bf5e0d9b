"""The consumer's side of a batch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Self

from openrouter_async.batch._progress import BatchProgress
from openrouter_async.batch._results import ExchangeResult
from openrouter_async.batch._runner import Runner


class Batch(AsyncIterator[ExchangeResult]):
    """An async iterator over the results of many exchanges; created by `OAuth.exchange_many`.

    Nothing is sent before the first result is requested. Leaving the loop early stops the batch: requests that were
    sent finish in the background, and their keys go to ``on_key``. ``async with`` waits for them instead, and their
    results can be read from the batch afterwards. Cancelling a task that waits for a result also closes the batch; the
    cancellation is raised once the requests that were sent have finished, or when the task is cancelled again.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._take = runner.take

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ExchangeResult:
        result = self._take()
        if result is not None:
            return result
        try:
            result = await self._runner.next()
        except asyncio.CancelledError:
            await self.aclose()
            raise
        if result is None:
            raise StopAsyncIteration
        return result

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self, *, timeout: float | None = None) -> None:
        """Send nothing more, and wait until all requests that were sent have a result.

        Code that the batch itself calls, such as ``on_key``, ``on_progress`` or the input, may call this; then it does
        not wait.

        Args:
            timeout: The maximum number of seconds to wait; None waits as long as the requests take, which the client's
                time limits bound. Requests that take longer continue, and their results can be read afterwards.
        """
        self._runner.close()
        await self._runner.drain(timeout)

    async def collect(self) -> list[ExchangeResult]:
        """Return all results, in the order of the input.

        Raises:
            Exception: The input raised it, or it ended the batch.
        """
        results: list[ExchangeResult] = []
        try:
            async for result in self:
                # A comprehension would lose the results so far when it fails.
                results.append(result)  # noqa: PERF401
        except BaseException:
            self._runner.warn_of_loss(results)
            raise
        return sorted(results, key=lambda result: result.index)

    @property
    def progress(self) -> BatchProgress:
        """The progress of the batch."""
        return self._runner.progress

    def __del__(self) -> None:
        self._runner.abandon()

    def __repr__(self) -> str:
        progress = self.progress
        state = "finished" if progress.is_finished else f"{progress.in_flight} under way"
        return f"<{type(self).__name__} {progress.finished} results, {state}>"
