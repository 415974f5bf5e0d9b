"""``batch``: exchange many codes, and resume after an interruption."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from openrouter_async.cli._bar import progress_bar
from openrouter_async.cli._exit import UsageError
from openrouter_async.cli._options import Connection, Output
from openrouter_async.cli._rows import STDIN, count_rows, other_columns, stream_rows
from openrouter_async.sinks._base import KeySinkError
from openrouter_async.sinks._private_file import PrivateFile

if TYPE_CHECKING:
    from openrouter_async._client.client import OpenRouter
    from openrouter_async.batch import Batch, Journal
    from openrouter_async.cli._batch_job import Work


async def batch(
    input_file: Annotated[Path, Parameter(name="INPUT", allow_leading_hyphen=True)],
    output_file: Annotated[Path, Parameter(name="OUTPUT")],
    /,
    *,
    concurrency: int = 16,
    rate: float | None = None,
    connection: Connection = Connection(),
    output: Output = Output(),
) -> int:
    """Exchange many codes; an interrupted batch can be resumed.

    INPUT is JSON Lines, with a code or an object of "code", "code_verifier"
    and "code_challenge_method" in each line; or CSV with these columns, if
    its name ends in .csv; or "-" for JSON Lines from standard input. Other
    columns are copied to OUTPUT. OUTPUT, which only you can read, gets a
    line for each row: the key, or the reason why there is none.

    Ctrl-C waits for the exchanges that were sent. Run the same command again
    to resume a batch that was stopped or killed. It reads OUTPUT and
    OUTPUT.journal: no code is exchanged twice, and temporary failures are
    tried again. Both files hold keys.

    Args:
        input_file: The codes.
        output_file: The keys.
        concurrency: The maximum number of concurrent exchanges.
        rate: The maximum number of exchanges per second.
    """
    if input_file != STDIN and str(input_file).startswith("-"):
        raise UsageError(f"There is no option {input_file}. If it is a file, write ./{input_file}.")
    if concurrency < 1:
        raise UsageError("--concurrency must be an integer of at least 1.")
    if rate is not None and not rate > 0:
        raise UsageError("--rate must be more than 0.")
    from openrouter_async.batch import Journal
    from openrouter_async.cli._batch_files import Results
    from openrouter_async.cli._batch_job import Summary, Work
    from openrouter_async.middlewares import RateLimitMiddleware

    started = time.monotonic()
    async with contextlib.AsyncExitStack() as stack:
        total, columns = await asyncio.to_thread(lambda: (count_rows(input_file), other_columns(input_file)))
        journal_file = await asyncio.to_thread(_find_journal, output_file)
        journal = await stack.enter_async_context(Journal(journal_file, store_plaintext_keys=True))
        results = await asyncio.to_thread(Results, output_file, columns, journal.is_final)
        stack.push_async_callback(asyncio.to_thread, results.close)
        rows = await stack.enter_async_context(contextlib.aclosing(stream_rows(input_file)))
        work = Work(rows, results, journal)
        client = await stack.enter_async_context(
            connection.open_client(
                pool_size=concurrency,
                middlewares=[] if rate is None else [RateLimitMiddleware(1, 1 / rate)],
            )
        )
        update_bar = stack.enter_context(progress_bar(total, is_shown=not output.json))
        exchanges = client.oauth.exchange_many(
            work.requests(),
            concurrency=concurrency,
            stop_on=work.ends,
            journal=journal,
            on_progress=lambda progress: update_bar(work.completed, work.failed, progress.rate),
        )
        is_interrupted = await _run(work, exchanges, client, journal, output)
        update_bar(work.completed, work.failed, exchanges.progress.rate)
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
    """Take all results.

    Returns:
        Whether the user interrupted it.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine of ours runs in a task
    loop = asyncio.get_running_loop()
    # The signals that end a service or a CI job drain the batch, as Ctrl-C does. Python's own handler would raise
    # wherever the program is at a second Ctrl-C, even while files are being closed.
    with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
        for number in _find_signals():
            loop.add_signal_handler(number, task.cancel)
    consumer = loop.create_task(work.consume(exchanges))
    is_interrupted = False
    try:
        await asyncio.wait((consumer,))
    except asyncio.CancelledError:
        is_interrupted = work.is_stopping = True
        # The terminal may be gone, because then SIGHUP is sent.
        with contextlib.suppress(OSError):
            output.note("Waiting for sent exchanges. After another Ctrl-C, their outcome is unknown.")
        try:
            await exchanges.aclose()
        except asyncio.CancelledError:
            await client.aclose(timeout=0)
            await journal.aclose(timeout=0)
            consumer.cancel()
            await asyncio.wait((consumer,))
            raise
    await consumer
    return is_interrupted


def _find_signals() -> list[signal.Signals]:
    signals = [signal.SIGINT, signal.SIGTERM]
    # Under nohup, SIGHUP is ignored, and must stay so.
    if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signals.append(signal.SIGHUP)
    return signals


def _find_journal(output_file: Path) -> Path:
    path = output_file.with_name(output_file.name + ".journal")
    try:
        PrivateFile(path).check()
    except KeySinkError as failure:
        raise UsageError(f"The journal cannot be kept: {failure}. Choose another OUTPUT.") from None
    return path
