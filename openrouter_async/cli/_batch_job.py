"""The batch of the command line: from rows of the input to lines of the output."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs

from openrouter_async._values.models import ExchangeAuthCodeForAPIKeyRequest, ExchangeAuthCodeForAPIKeyResponse
from openrouter_async.batch import ExchangeResult, Journal, RequestStatus, request_digest
from openrouter_async.cli._batch_files import Results
from openrouter_async.cli._exit import ExitCode, explain
from openrouter_async.cli._rows import Row
from openrouter_async.cli._storage import fallback_location
from openrouter_async.errors import JournalError, Outcome
from openrouter_async.login._models import Grant
from openrouter_async.sinks._base import KeySinkError

if TYPE_CHECKING:
    from openrouter_async.batch import Batch

INVALID: Final = "invalid"
DONE_BEFORE: Final = "done_before"
REPEATED: Final = "repeated"
RESCUED: Final = "rescued"
LOST: Final = "lost"

# Results in the journal that are missing in the output, because a run was killed in between or the output was edited.
_ERRORS_IN_JOURNAL: Final = {
    RequestStatus.SUCCEEDED: (Outcome.COMPLETED, "An earlier run got the key, and did not store it in the journal."),
    RequestStatus.REJECTED: (Outcome.REFUSED, "An earlier run was refused."),
    RequestStatus.LOST: (Outcome.UNKNOWN, "The code was used up, and it is unknown by whom."),
}
_FAILURES: Final = {
    Outcome.UNKNOWN: ExitCode.UNKNOWN,
    Outcome.NOT_SENT: ExitCode.NETWORK,
    Outcome.REFUSED: ExitCode.REFUSED,
    INVALID: ExitCode.USAGE,
}
"""Results without a key, the most severe first: the first one that occurred gives the exit status."""


class Work:
    """Turns rows into requests, and results into lines.

    Args:
        rows: The input.
        results: The output.
        journal: The journal, which has stored each key before its result arrives here.

    Attributes:
        counts: The number of rows of each kind: an `Outcome`, or `INVALID`, `DONE_BEFORE`, `REPEATED`, `RESCUED`,
            `LOST`.
        failure: The error that prevents further writes; None if there is none.
        is_stopping: Whether unsent requests are left for another run.
    """

    def __init__(self, rows: AsyncIterable[Row], results: Results, journal: Journal) -> None:
        self._input = rows
        self._results = results
        self._journal = journal
        self._rows: dict[ExchangeAuthCodeForAPIKeyRequest, Row] = {}
        self._seen: set[bytes] = set()
        self.counts: Counter[str] = Counter()
        self.failure: Exception | None = None
        self.is_stopping = False

    @property
    def completed(self) -> int:
        """The number of completed rows."""
        return self.counts.total()

    @property
    def failed(self) -> int:
        """The number of completed rows without a key."""
        return sum(self.counts[kind] for kind in _FAILURES)

    async def requests(self) -> AsyncIterator[ExchangeAuthCodeForAPIKeyRequest]:
        """Yield the requests to send; write or count the other rows meanwhile."""
        async for row in self._input:
            if row.request is None:
                await self._write_line(row, None, INVALID, Outcome.NOT_SENT, error=row.problem)
                continue
            digest = request_digest(row.request)
            name = bytes.fromhex(digest)
            if name in self._results.done or name in self._seen:
                self.counts[REPEATED if name in self._seen else DONE_BEFORE] += 1
                # Many such rows in succession must not block the event loop.
                await asyncio.sleep(0)
                continue
            self._seen.add(name)
            if self._journal.is_final(digest):
                await self._restore(row, row.request)
                continue
            self._rows[row.request] = row
            yield row.request

    async def _restore(self, row: Row, request: ExchangeAuthCodeForAPIKeyRequest) -> None:
        """Write a line from the journal."""
        entry = await self._journal.entry(request)
        assert entry is not None  # noqa: S101 - it is final
        outcome, error = _ERRORS_IN_JOURNAL[entry.status]
        if entry.key is None:
            await self._write_line(row, entry.request, outcome, outcome, error=error)
        else:
            await self._write_line(row, entry.request, outcome, outcome, key=entry.key, user_id=entry.user_id)

    async def consume(self, batch: Batch) -> None:
        """Take the results of a batch until it ends."""
        try:
            async for result in batch:
                await self._take(result)
        except JournalError as failure:
            self.failure = self.failure or failure
            self.is_stopping = True

    def ends(self, _: ExchangeResult) -> bool:
        """Return whether to stop sending, as the batch's ``stop_on``."""
        return self.is_stopping

    async def _take(self, result: ExchangeResult) -> None:
        assert result.request is not None  # noqa: S101 - rows without one are not sent
        row = self._rows.pop(result.request)
        digest = request_digest(result.request)
        if result.error is None:
            key, user_id = result.response.key, result.response.user_id
            is_written = await self._write_line(
                row, digest, Outcome.COMPLETED, Outcome.COMPLETED, key=key, user_id=user_id
            )
            if not is_written and self._journal.status(result.request) is not RequestStatus.SUCCEEDED:
                self.counts[Outcome.COMPLETED] -= 1
                await self._rescue(result.response)
        elif self.is_stopping and result.outcome is Outcome.NOT_SENT:
            # Not sent, so write no line; the next run sends the request.
            self._seen.discard(bytes.fromhex(digest))
        else:
            await self._write_line(row, digest, result.outcome, result.outcome, error=str(result.error))

    async def _write_line(self, row: Row, digest: str | None, kind: str, outcome: Outcome, **told: str | None) -> bool:
        """Count a row and write its line.

        Returns:
            Whether the line was written.
        """
        self.counts[kind] += 1
        try:
            await self._results.add(row, digest, outcome, **told)
        except OSError as failure:
            self.failure = self.failure or failure
            self.is_stopping = True
            return False
        return True

    async def _rescue(self, response: ExchangeAuthCodeForAPIKeyResponse) -> None:
        grant = Grant(key=response.key, user_id=response.user_id)
        try:
            await fallback_location(grant.key_hash).vault.save(grant.key, user_id=grant.user_id)
        except KeySinkError:
            self.counts[LOST] += 1
        else:
            self.counts[RESCUED] += 1


@attrs.frozen(kw_only=True)
class Summary:
    """The summary of a batch.

    Attributes:
        counts: Those of `Work`.
        left: The number of rows left for another run; None if unknown.
        elapsed: The duration in seconds.
        output_file: The file with the keys.
        is_interrupted: Whether the user stopped it.
        failure: The error that prevented further writes; None if all lines were written.
    """

    counts: Counter[str]
    left: int | None
    elapsed: float
    output_file: Path
    is_interrupted: bool
    failure: Exception | None

    @property
    def status(self) -> ExitCode:
        """The exit status."""
        if self.failure is not None:
            return ExitCode.FAILED
        if self.is_interrupted:
            return ExitCode.INTERRUPTED
        return next((status for kind, status in _FAILURES.items() if self.counts[kind]), ExitCode.DONE)

    @property
    def document(self) -> dict[str, Any]:
        """The summary for machines, as JSON fields."""
        kinds = (Outcome.COMPLETED, *_FAILURES, DONE_BEFORE, REPEATED, RESCUED, LOST)
        return {
            **{str(kind): self.counts[kind] for kind in kinds},
            "left": self.left,
            "interrupted": self.is_interrupted,
            "error": None if self.failure is None else explain(self.failure),
            "elapsed": round(self.elapsed, 3),
            "output": str(self.output_file),
        }

    @property
    def lines(self) -> Iterator[str]:
        """The summary for people, as lines of text."""
        counts = self.counts
        yield f"{_codes(counts[Outcome.COMPLETED])} gave a key, now in {self.output_file}."
        if failed := {kind: counts[kind] for kind in _FAILURES if counts[kind]}:
            kinds = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in failed.items())
            yield f"{_codes(sum(failed.values()))} gave none ({kinds}); the lines there say why."
        yield from self._repeated_lines
        yield from self._failure_lines
        if self.left:
            yield f"{_codes(self.left)} left. Run the same command again to exchange them."

    @property
    def _repeated_lines(self) -> Iterator[str]:
        if done := self.counts[DONE_BEFORE]:
            yield f"{_codes(done)} had been exchanged before."
        if repeated := self.counts[REPEATED]:
            yield f"{_codes(repeated)} came more than once."

    @property
    def _failure_lines(self) -> Iterator[str]:
        if self.failure is not None:
            yield f"The output cannot be written: {explain(self.failure)}"
        if rescued := self.counts[RESCUED]:
            where = fallback_location("").where
            yield f"{_codes(rescued)} gave a key that is in a file of its own, beside {where}."
        if lost := self.counts[LOST]:
            yield f"{_codes(lost)} gave a key that could not be stored anywhere, and is lost."


def _codes(count: int) -> str:
    return "1 code" if count == 1 else f"{count:,} codes"
