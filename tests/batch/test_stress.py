from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import attrs
import pytest

from openrouter_async import ExchangeAuthCodeForAPIKeyResponse, ExchangeResult, Journal, OpenRouter
from openrouter_async.batch import JournalEntry, RequestStatus, request_digest
from openrouter_async.encryption import generate_encryption_key
from openrouter_async.errors import JournalError
from openrouter_async.testing import FakeOpenRouter
from tests.batch.processes import CONCURRENCY, codes
from tests.batch.stub import key_of, running
from tests.kit.clocks import VirtualLoop, loop_clock
from tests.support import ROOT, STRESS, missing

pytestmark = [pytest.mark.stress, pytest.mark.unmeasured]


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.batch.processes", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_batch_memory_does_not_grow_with_the_input() -> None:
    count = 1_000_000 if STRESS else 2_000
    with running("--forgetful") as stub:
        started = time.monotonic()
        process = start("memory", stub.base_url, count)
        told = json.loads(process.communicate()[0])
        elapsed = time.monotonic() - started
        assert stub.counts["issued"] == count + 1000
    print(
        f"\npeak memory after 1,000 codes: {told['first'] / 1024:.1f} MiB; after {count:,} more by the same client at "
        f"concurrency {CONCURRENCY}: {told['last'] / 1024:.1f} MiB ({elapsed:.0f} s)"
    )
    assert told["done"] == count
    assert told["last"] - told["first"] <= 40_000_000 / 1024


@attrs.define
class ProgressCounter:
    """The results of a batch that is killed several times."""

    kills: int = 0
    codes: int = 0
    issued: int = 0
    in_journal: int = 0
    unknown: int = 0
    lost: int = 0
    sent_again_with_result: int = 0
    sent_twice: int = 0


def test_batch_killed_at_any_moment_loses_no_key(tmp_path: Path) -> None:
    rounds, count = (10, 20_000) if STRESS else (1, 400)
    tally = ProgressCounter()
    batches = 0
    # A run that ended before it could be killed counts too, but does not replace one that was killed.
    while tally.kills < rounds and batches < 10 * rounds:
        seed = random.randrange(2**32)
        kill_and_resume(tmp_path / f"{batches}", count, random.Random(seed), tally)
        batches += 1
    print(f"\n{batches} batches of {count:,} codes, killed and resumed until done: {tally}")
    assert tally.lost == 0
    assert tally.sent_again_with_result == 0
    assert tally.issued == tally.in_journal + tally.unknown == tally.codes
    assert tally.kills == rounds


def read_entries(path: Path, encryption_keys: str | None = None) -> list[JournalEntry]:
    """Read a journal that no process has open."""

    async def read() -> list[JournalEntry]:
        return [entry async for entry in Journal(path, encryption_keys=encryption_keys).entries()]

    return asyncio.run(read())


def kill_and_resume(
    folder: Path, count: int, chance: random.Random, tally: ProgressCounter, *, at_commit: int | None = None
) -> None:
    folder.mkdir()
    path, log = folder / "journal.db", folder / "server.log"
    sealing_key = generate_encryption_key()
    with running("--log", str(log)) as stub:
        if at_commit is not None:
            first = start("killed-at-commit", stub.base_url, count, path, sealing_key, at_commit)
        else:
            first = start("journalled", stub.base_url, count, path, sealing_key)
            # Any moment between the first request and the last.
            moment = chance.randrange(1, count * len("issued code-0000\n"))
            while first.poll() is None and (not log.exists() or log.stat().st_size < moment):
                time.sleep(0.001)
            tally.kills += first.poll() is None
            first.kill()
        first.communicate()
        tally.kills += at_commit is not None and first.returncode == -signal.SIGKILL
        seen = read_entries(path) if path.exists() and path.stat().st_size else []
        with_result = {entry.request for entry in seen if entry.status.is_final}
        sent_before = len(log.read_text().splitlines())

        second = start("journalled", stub.base_url, count, path, sealing_key)
        told = second.communicate()[0]
        assert second.returncode == 0

    requests = [line.split() for line in log.read_text().splitlines()]
    entries = {entry.request: entry for entry in read_entries(path, sealing_key)}
    tally.codes += count
    tally.sent_twice += sum(times > 1 for times in Counter(code for _, code in requests).values())
    tally.sent_again_with_result += sum(request_digest(code) in with_result for _, code in requests[sent_before:])
    issued = [code for what, code in requests if what == "issued"]
    tally.issued += len(issued)
    unknown = 0
    for code in issued:
        entry = entries.get(request_digest(code))
        if entry is not None and entry.key == key_of(code):
            tally.in_journal += 1
        elif entry is not None and entry.status in (RequestStatus.LOST, RequestStatus.UNCERTAIN):
            unknown += 1
        else:
            tally.lost += 1
    tally.unknown += unknown
    # The caller of the second run was told of each of them.
    assert int(told) == unknown
    assert {request_digest(code) for code in codes(0, count)} == set(entries)


def test_journal_of_a_process_killed_between_write_and_commit_loses_no_key(tmp_path: Path) -> None:
    count = 2_000 if STRESS else 200
    tally = ProgressCounter()
    # The first commits are those of the new file; later ones are those of intents and results.
    for number in (4, 7, 20) if STRESS else (6,):
        kill_and_resume(tmp_path / f"{number}", count, random.Random(number), tally, at_commit=number)
    print(f"\nkilled between write and commit, {count:,} codes: {tally}")
    assert tally.kills == (3 if STRESS else 1)
    assert tally.lost == tally.sent_again_with_result == 0
    assert tally.issued == tally.in_journal + tally.unknown == tally.codes


async def test_journal_on_a_full_disk_loses_no_key_and_resumes_when_there_is_room(tmp_path: Path) -> None:
    count = 2_000
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(disk)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True, check=False).returncode:
        missing("the right to mount a small file system")
    try:
        key = generate_encryption_key()
        with running() as stub:
            taken = await run_until_it_fails(stub.base_url, disk / "journal.db", count, key, "the disk is full")
            before = stub.counts["issued"]
            assert 0 < before < count
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
            taken += await run_until_it_fails(stub.base_url, disk / "journal.db", count, key, None)
            issued = stub.counts["issued"]
        async with Journal(disk / "journal.db", encryption_keys=key) as journal:
            entries = {entry.request: entry async for entry in journal.entries()}
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    given = {result.key for result in taken if result.key}
    in_journal = {entry.key for entry in entries.values() if entry.key}
    unknown = sum(entry.status is RequestStatus.LOST for entry in entries.values())
    print(
        f"\n{count:,} codes, a disk that is full after {before:,}: {issued:,} keys issued, {len(given):,} given, "
        f"{len(in_journal):,} in the journal, {unknown} given, and unknown to the journal"
    )
    assert given == {key_of(code) for code in codes(0, count)}
    assert len(in_journal) + unknown == issued == count


async def run_until_it_fails(
    base_url: str, path: Path, count: int, key: str, complaint: str | None
) -> list[ExchangeResult]:
    results: list[ExchangeResult] = []
    expected = contextlib.nullcontext() if complaint is None else pytest.raises(JournalError, match=complaint)
    async with OpenRouter(None, base_url=base_url) as client, Journal(path, encryption_keys=key) as journal:
        with expected:
            async for result in client.oauth.exchange_many(codes(0, count), concurrency=CONCURRENCY, journal=journal):
                results.append(result)
    return results


async def test_journal_of_many_entries_opens_and_resumes(tmp_path: Path) -> None:
    count = 200_000 if STRESS else 2_000
    path = tmp_path / "journal.db"
    digests = [request_digest(code) for code in codes(0, count)]
    response = ExchangeAuthCodeForAPIKeyResponse(key="sk-or-v1-" + "0" * 64)
    async with Journal(path, store_plaintext_keys=True) as journal:
        for start in range(0, count, 10_000):
            some = digests[start : start + 10_000]
            await asyncio.gather(*map(journal.begin, some))
            await asyncio.gather(*(journal.record(digest, response) for digest in some))
    started = time.monotonic()
    async with OpenRouter(None, base_url="http://127.0.0.1:9") as client:
        async with Journal(path, store_plaintext_keys=True) as journal:
            opened = time.monotonic() - started
            results = await client.oauth.exchange_all(codes(0, count), concurrency=CONCURRENCY, journal=journal)
            elapsed = time.monotonic() - started - opened
    print(f"\na journal of {count:,} entries: opened in {opened:.2f} s, a run with nothing to do in {elapsed:.2f} s")
    assert results == []


def test_batch_with_a_throttling_server_uses_nearly_all_of_its_rate() -> None:
    count, rate = (2_000, 200) if STRESS else (500, 250)

    async def main() -> tuple[FakeOpenRouter, list[ExchangeResult], float]:
        clock = loop_clock(1)
        async with FakeOpenRouter(clock=clock) as fake, OpenRouter(None, base_url=fake.base_url, clock=clock) as client:
            batch = [fake.issue_code() for _ in range(count)]
            fake.rate_limit(rate)
            started = clock.monotonic()
            results = await client.oauth.exchange_all(batch, concurrency=CONCURRENCY)
            return fake, results, clock.monotonic() - started

    with asyncio.Runner(loop_factory=lambda: VirtualLoop(patience=0.001)) as runner:
        fake, results, elapsed = runner.run(main())
    refused, sent = fake.counters["exchange 429"], fake.counters["exchange"]
    # The requests of the first second are accepted at once.
    ideal = (count - rate) / rate
    print(
        f"\n{count:,} codes at {rate} per second: {elapsed:.2f} virtual s, which is {elapsed / ideal - 1:+.0%} of the "
        f"ideal {ideal:.2f} s; {refused} of {sent:,} requests refused ({refused / sent:.1%})"
    )
    assert [result.error for result in results] == [None] * count
    assert len(fake.issued_keys) == count
    if STRESS:
        assert elapsed <= 1.25 * ideal
