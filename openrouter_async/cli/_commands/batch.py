"""``batch``: many codes, through interruptions."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from openrouter_async.cli._bar import Bar
from openrouter_async.cli._exit import UsageError
from openrouter_async.cli._options import Connection, Output
from openrouter_async.cli._rows import count_rows, other_columns, read_rows
from openrouter_async.sinks._base import KeySinkError
from openrouter_async.sinks._private_file import PrivateFile

if TYPE_CHECKING:
    from openrouter_async._client.client import OpenRouter
    from openrouter_async.batch import Batch, Journal
    from openrouter_async.cli._batch_job import Work


async def batch(
    input_file: Annotated[Path, Parameter(name="INPUT")],
    output_file: Annotated[Path, Parameter(name="OUTPUT")],
    /,
    *,
    concurrency: int = 16,
    rate: float | None = None,
    connection: Connection = Connection(),
    output: Output = Output(),
) -> int:
    """Exchange many codes; an interrupted batch goes on.

    INPUT is JSON Lines, a code or an object with "code", "code_verifier" and
    "code_challenge_method" a line; or CSV with these columns, if its name ends
    so. What else stands in a row is passed on. OUTPUT, which only you can read,
    gets a line for each row: the key, or why there is none.

    Ctrl-C waits for what was sent. The same command goes on where that one
    stopped, or was killed, by what OUTPUT and OUTPUT.journal say: no code is
    exchanged twice, and what failed for a passing reason is tried again.

    Args:
        input_file: The codes.
        output_file: The keys.
        concurrency: Exchanges on their way at the same time.
        rate: Exchanges a second, at the most.
    """
    if concurrency < 1:
        raise UsageError("--concurrency must be an integer from 1.")
    if rate is not None and not rate > 0:
        raise UsageError("--rate must be more than 0.")
    from openrouter_async.batch import Journal
    from openrouter_async.cli._batch_files import Results
    from openrouter_async.cli._batch_job import Summary, Work
    from openrouter_async.middlewares import RateLimitMiddleware

    is_regular = input_file.is_file()
    columns = other_columns(input_file) if is_regular else []
    total = count_rows(input_file) if is_regular else None
    started = time.monotonic()
    async with contextlib.AsyncExitStack() as stack:
        journal = await stack.enter_async_context(Journal(_find_journal(output_file)))
        results = stack.enter_context(contextlib.closing(Results(output_file, columns, journal.is_final)))
        rows = stack.enter_context(contextlib.closing(read_rows(input_file)))
        work = Work(rows, results, journal)
        client = await stack.enter_async_context(
            connection.open_client(
                on_key=work.keep,
                pool_size=concurrency,
                middlewares=[] if rate is None else [RateLimitMiddleware(1, 1 / rate)],
            )
        )
        bar = stack.enter_context(Bar(total, is_shown=not output.json))
        bar.update(0, 0, 0.0)
        exchanges = client.oauth.exchange_many(
            work.requests(),
            concurrency=concurrency,
            stop_on=work.ends,
            journal=journal,
            on_progress=lambda progress: bar.update(work.completed, work.failed, progress.rate),
        )
        is_interrupted = await _run(work, exchanges, client, journal, output)
        bar.update(work.completed, work.failed, exchanges.progress.rate)
    summary = Summary(
        counts=work.counts,
        left=_count_left(work, total),
        elapsed=time.monotonic() - started,
        output_file=output_file.absolute(),
        is_interrupted=is_interrupted,
        failure=work.failure,
    )
    output.result(summary.document, summary.lines)
    return summary.status


def _count_left(work: Work, total: int | None) -> int | None:
    if not work.is_stopping:
        return 0
    return None if total is None else max(0, total - work.completed)


async def _run(work: Work, exchanges: Batch, client: OpenRouter, journal: Journal, output: Output) -> bool:
    """Take all results; gives whether the user interrupted that."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine of ours runs in a task
    loop = asyncio.get_running_loop()
    # What ends a service or a job of CI is to be as gentle as Ctrl-C. And Python's own handler would raise wherever a
    # second Ctrl-C meets the program, also where everything that is open would be closed with patience.
    with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
    consumer = loop.create_task(work.consume(exchanges))
    is_interrupted = False
    try:
        await asyncio.wait((consumer,))
    except asyncio.CancelledError:
        is_interrupted = work.is_stopping = True
        output.note("Waiting for what was sent. Pressing Ctrl-C once more leaves it in doubt.")
        try:
            await exchanges.aclose()
        except asyncio.CancelledError:
            await client.aclose(timeout=0)
            await journal.aclose(timeout=0)
            raise
    await consumer
    return is_interrupted


def _find_journal(output_file: Path) -> Path:
    from openrouter_async.batch import Journal, RequestStatus

    path = output_file.with_name(output_file.name + ".journal")
    try:
        exists = PrivateFile(path).check() is not None
    except KeySinkError as failure:
        raise UsageError(f"The journal cannot be kept: {failure}. Choose another OUTPUT.") from None
    if (
        exists
        and not output_file.exists()
        and any(entry.status is RequestStatus.SUCCEEDED for entry in Journal.read(path))
    ):
        raise UsageError(
            f"{path} tells of keys, but {output_file} is not there. Put it back, or choose another OUTPUT."
        )
    return path
