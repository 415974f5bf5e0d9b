"""Exchange a file of authorization codes for API keys. Stop it, or kill it: run again, it goes on where it stopped.

Each line of the file is a JSON object with ``code`` and, where there is one, ``code_verifier``::

    pip install 'openrouter-async[journal]'
    export JOURNAL_KEY=$(python -m openrouter_async.encryption)
    python batch.py codes.jsonl journal.db
    python batch.py --keys journal.db

The journal holds the keys, sealed with ``JOURNAL_KEY``. Without an account, run ``openrouter-async sandbox``
beside it, and set ``OPENROUTER_BASE_URL`` to the address that it prints.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from openrouter_async import BatchProgress, ExchangeAuthCodeForAPIKeyRequest, Journal, OpenRouter


def read_requests(path: Path) -> Iterator[ExchangeAuthCodeForAPIKeyRequest]:
    with path.open() as lines:
        for line in lines:
            yield ExchangeAuthCodeForAPIKeyRequest(**json.loads(line))


def show(progress: BatchProgress) -> None:
    print(
        f"{progress.succeeded} keys, {progress.failed} failed, {progress.skipped} done before, {progress.rate:.0f}/s",
        file=sys.stderr,
    )


async def exchange(codes: Path, journal_path: Path) -> int:
    failed = 0
    async with (
        OpenRouter() as client,
        Journal(journal_path, encryption_keys=os.environ["JOURNAL_KEY"]) as journal,
    ):
        async for result in client.oauth.exchange_many(
            read_requests(codes), concurrency=64, journal=journal, on_progress=show
        ):
            if result.error is not None:
                failed += 1
                print(f"line {result.index + 1}: {result.outcome}: {result.error}")
    return failed


async def print_keys(journal_path: Path) -> None:
    async for entry in Journal(journal_path, encryption_keys=os.environ["JOURNAL_KEY"]).entries():
        if entry.key is not None:
            print(entry.user_id, entry.key)


if __name__ == "__main__":
    if sys.argv[1] == "--keys":
        asyncio.run(print_keys(Path(sys.argv[2])))
    else:
        sys.exit(1 if asyncio.run(exchange(Path(sys.argv[1]), Path(sys.argv[2]))) else 0)
