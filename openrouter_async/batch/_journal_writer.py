"""The thread of a journal, and the groups in which it writes rows."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

import attrs

from openrouter_async.batch._journal_db import JournalDB
from openrouter_async.errors import JournalError

_T = TypeVar("_T")


class Worker:
    """A dedicated thread: SQLite waits for the disk, and the loop's default executor may be busy for a long time."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="openrouter_async-journal")

    def submit(self, function: Callable[[], _T]) -> asyncio.Future[_T]:
        """Call a function in the thread."""
        return asyncio.get_running_loop().run_in_executor(self._executor, function)

    async def call(self, function: Callable[[], _T], *, undo: Callable[[_T], object] | None = None) -> _T:
        """Call a function in the thread and wait for its result.

        Args:
            function: The function.
            undo: Called in the thread with the result when the caller is cancelled meanwhile.
        """
        calling = self.submit(function)
        try:
            return await asyncio.shield(calling)
        except asyncio.CancelledError:
            if undo is not None:
                calling.add_done_callback(lambda done: done.exception() or undo(done.result()))
            else:
                calling.add_done_callback(lambda done: done.exception())
            raise

    def shutdown(self) -> None:
        """Let the thread end after the calls that were submitted."""
        self._executor.shutdown(wait=False)


@attrs.define(eq=False)
class _PendingWrite:
    """Rows that are written in one transaction."""

    rows: list[Mapping[str, Any]] = attrs.field(factory=list[Mapping[str, Any]])
    written: asyncio.Event = attrs.field(factory=asyncio.Event)
    failure: str | None = None


class Writer:
    """Writes rows in groups: those that arrive during a transaction share the next one."""

    def __init__(self, db: JournalDB, worker: Worker) -> None:
        self.db = db
        self.worker = worker
        self._process = os.getpid()
        self._group: _PendingWrite | None = None
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._is_closed = False

    async def write(self, row: Mapping[str, Any]) -> None:
        """Write a row and wait until it is on the disk. It is written even if the caller is cancelled.

        Raises:
            JournalError: The row cannot be written, or the journal is closed.
        """
        if os.getpid() != self._process:
            # SQLite's locks do not protect against use after a fork: https://sqlite.org/howtocorrupt.html
            raise JournalError(f"{self.db.path}: it was opened before a fork")
        if self._is_closed:
            raise JournalError(f"{self.db.path}: it is not open")
        group = self._group
        if group is None:
            group = self._group = _PendingWrite()
            if self._quiet.is_set():
                self._quiet.clear()
                # In the next pass of the loop, because more rows may arrive in this one.
                asyncio.get_running_loop().call_soon(self._write_group)
        group.rows.append(row)
        await group.written.wait()
        if group.failure is not None:
            # Each caller gets an exception object of its own, so that their tracebacks do not mix.
            raise JournalError(group.failure)

    async def aclose(self) -> None:
        """Accept no more rows, wait for those under way, and release the lock."""
        self._is_closed = True
        await self._quiet.wait()
        with suppress(JournalError):
            await self.worker.call(self.db.close)
        self.worker.shutdown()

    def _write_group(self) -> None:
        # A callback instead of a task, because a task can be cancelled in the middle of a transaction.
        group, self._group = self._group, None
        if group is None:
            self._quiet.set()
            return
        writing = self.worker.submit(lambda: self.db.write(group.rows))
        writing.add_done_callback(lambda done: self._finish_group(group, done.exception()))

    def _finish_group(self, group: _PendingWrite, failure: BaseException | None) -> None:
        if failure is not None:
            group.failure = str(failure if isinstance(failure, JournalError) else type(failure).__name__)
        group.written.set()
        self._write_group()
