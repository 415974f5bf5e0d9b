"""The programs that the stress tests run in processes of their own.

python -m tests.batch.processes memory URL COUNT
python -m tests.batch.processes journalled URL COUNT JOURNAL ENCRYPTION_KEY
python -m tests.batch.processes killed-at-commit URL COUNT JOURNAL ENCRYPTION_KEY NUMBER
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from openrouter_async import Journal, OpenRouter, Outcome
from openrouter_async.batch import _journal_db

CONCURRENCY = 64


def codes(start: int, end: int) -> Iterator[str]:
    return (f"code-{number}" for number in range(start, end))


async def later(start: int, end: int) -> AsyncIterator[str]:
    for code in codes(start, end):
        yield code


def peak() -> int:
    """The peak memory of this process, in KiB."""
    # getrusage would include the parent: it counts the memory of the process before exec.
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(status.read_text().partition("VmHWM:")[2].split()[0])


async def measure_memory(base_url: str, count: int) -> None:
    """Print the peak after 1,000 codes, and after more of them by the same client."""
    peaks = []
    async with OpenRouter(None, base_url=base_url) as client:
        for requests in (codes(0, 1000), later(1000, 1000 + count)):
            done = 0
            async for result in client.oauth.exchange_many(requests, concurrency=CONCURRENCY):
                result.unwrap()
                done += 1
            peaks.append(peak())
    print(json.dumps({"first": peaks[0], "last": peaks[1], "done": done}))


async def run_journalled(base_url: str, count: int, path: str, sealing_key: str) -> None:
    """Exchange the codes without a result in the journal, and print the number of results that are unknown."""
    unknown = 0
    async with OpenRouter(None, base_url=base_url) as client, Journal(path, encryption_keys=sealing_key) as journal:
        async for result in client.oauth.exchange_many(codes(0, count), concurrency=CONCURRENCY, journal=journal):
            unknown += result.outcome is Outcome.UNKNOWN
    print(unknown)


def kill_at_commit(number: int) -> None:
    """Let this process die when a journal is about to commit its transaction of this number, after writing its rows."""
    commits = 0
    connect = _journal_db._connect

    def trace(statement: str) -> None:
        nonlocal commits
        commits += statement == "COMMIT"
        if commits == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def connect_and_trace(path: Path, mode: str) -> sqlite3.Connection:
        connection = connect(path, mode)
        connection.set_trace_callback(trace)
        return connection

    _journal_db._connect = connect_and_trace


def main() -> None:
    what, base_url, count, *rest = sys.argv[1:]
    if what == "memory":
        asyncio.run(measure_memory(base_url, int(count)))
    else:
        if what == "killed-at-commit":
            kill_at_commit(int(rest.pop()))
        asyncio.run(run_journalled(base_url, int(count), *rest))


if __name__ == "__main__":
    main()
