from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import itertools
import os
import re
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from openrouter_async import (
    BatchProgress,
    ExchangeAuthCodeForAPIKeyRequest,
    ExchangeAuthCodeForAPIKeyResponse,
    ExchangeResult,
    Handler,
    Journal,
    OpenRouter,
    Outcome,
    Request,
    Response,
    RetryPolicy,
    errors,
)
from openrouter_async._values.encryptor import EncryptionKeys
from openrouter_async.batch import JournalEntry, RequestStatus, _journal_db, request_digest
from openrouter_async.batch._dedup import identify
from openrouter_async.batch._journal_db import CHUNK_SIZE, JournalDB
from openrouter_async.batch._journal_writer import Writer
from openrouter_async.encryption import generate_encryption_key
from openrouter_async.testing import FakeOpenRouter, Fault
from tests.batch.support import Safe, issue, read
from tests.descriptors import open_files
from tests.kit.clocks import passes, until
from tests.kit.gates import Gate
from tests.support import PATIENCE, ROOT

KEY = generate_encryption_key()
REFUSED = Fault.status(403, message="Invalid code or code_verifier")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
async def journal(path: Path) -> AsyncIterator[Journal]:
    async with Journal(path, encryption_keys=KEY) as opened:
        yield opened


@pytest.fixture
async def client(fake: FakeOpenRouter) -> AsyncIterator[OpenRouter]:
    async with OpenRouter(None, base_url=fake.base_url, retry=RetryPolicy.none()) as made:
        yield made


async def entries(path: Path, keys: EncryptionKeys | None = None) -> list[JournalEntry]:
    """Read a journal that is not open."""
    return [entry async for entry in Journal(path, encryption_keys=keys).entries()]


async def statuses(journal: Journal) -> list[RequestStatus]:
    """Read the statuses in a journal, open or not."""
    return [entry.status async for entry in journal.entries()]


def is_waited_for(journal: Journal) -> bool:
    """Return whether a batch waits for a request that is in flight in another batch."""
    return any(pending.ended._waiters for pending in journal._pending.values())


def writer_of(journal: Journal) -> Writer:
    """Return the writer of a journal that is open."""
    assert journal._writer is not None
    return journal._writer


async def run(client: OpenRouter, path: Path, codes: list[str], **options: Any) -> list[ExchangeResult]:
    """One run of a batch, as in a process that is started again and again."""
    async with Journal(path, encryption_keys=KEY) as opened:
        return await client.oauth.exchange_all(codes, journal=opened, **options)


async def test_journal_has_an_entry_for_each_request(fake: FakeOpenRouter, client: OpenRouter, path: Path) -> None:
    codes = issue(fake, 2)
    await run(client, path, codes, concurrency=1)
    written = await entries(path, KEY)
    assert [entry.request for entry in written] == [request_digest(code) for code in codes]
    assert [entry.key for entry in written] == [issued.key for issued in fake.issued_keys]
    assert [entry.status for entry in written] == [RequestStatus.SUCCEEDED] * 2
    assert [entry.user_id for entry in written] == [issued.user_id for issued in fake.issued_keys]
    assert written[0].key_hash == hashlib.sha256(fake.issued_keys[0].key.encode()).hexdigest()
    assert written[0].at.tzinfo is not None


async def test_journal_has_the_intent_before_its_request_leaves(fake: FakeOpenRouter, path: Path) -> None:
    seen: list[list[RequestStatus]] = []

    async def look(request: Request, call_next: Handler) -> Response:
        seen.append(await statuses(opened))
        return await call_next(request)

    async with (
        Journal(path, encryption_keys=KEY) as opened,
        OpenRouter(None, base_url=fake.base_url, attempt_middlewares=[look]) as client,
    ):
        await client.oauth.exchange_all(issue(fake, 2), journal=opened, concurrency=1)
    assert seen == [[RequestStatus.UNCERTAIN], [RequestStatus.SUCCEEDED, RequestStatus.UNCERTAIN]]


async def test_journal_has_the_key_before_the_consumer(
    fake: FakeOpenRouter, client: OpenRouter, journal: Journal
) -> None:
    async for result in client.oauth.exchange_many(issue(fake, 9), journal=journal, concurrency=3):
        assert result.key in [entry.key async for entry in journal.entries()]


async def test_journal_with_encryption_key_has_no_readable_secret(
    fake: FakeOpenRouter, client: OpenRouter, path: Path
) -> None:
    requests: list[ExchangeAuthCodeForAPIKeyRequest | str] = [
        ExchangeAuthCodeForAPIKeyRequest(code=fake.issue_code(), code_verifier="v" * 43),
        fake.issue_code(),
    ]
    async with Journal(path, encryption_keys=[KEY]) as journal:
        results = await client.oauth.exchange_all(requests, journal=journal)
    assert results[1].key
    text = path.read_bytes()
    for secret in ("v" * 43, results[1].key, results[1].key.removeprefix("sk-or-v1-"), *fake.redeemed_codes):
        assert secret.encode() not in text
    user_id = fake.issued_keys[0].user_id
    assert user_id
    assert user_id.encode() not in text
    assert (await entries(path))[1].key is None
    assert (path.stat().st_mode & 0o777) == 0o600
    with pytest.raises(errors.JournalError, match="was not sealed with the given encryption_keys"):
        (await entries(path, generate_encryption_key()))


def change(path: Path, statement: str, *values: object) -> None:
    """Change a journal that is not open, as anyone with write access can."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(statement) if not values else connection.execute(statement, values)


async def test_journal_key_encrypted_for_one_request_is_refused_for_another(
    fake: FakeOpenRouter, client: OpenRouter, path: Path
) -> None:
    await run(client, path, issue(fake, 1))
    change(path, "UPDATE entries SET request = ?", "0" * 32)
    with pytest.raises(errors.JournalError, match="was not sealed"):
        await entries(path, KEY)


@pytest.mark.parametrize("column", ["key", "user_id"])
async def test_journal_plaintext_entry_is_refused_with_encryption_keys(
    fake: FakeOpenRouter, client: OpenRouter, path: Path, column: str
) -> None:
    await run(client, path, issue(fake, 1))
    change(path, f"UPDATE entries SET {column} = ?", "of an attacker")
    for opening in (entries(path, KEY), Journal(path, encryption_keys=KEY).open()):
        with pytest.raises(errors.JournalError, match="an entry in it is not sealed"):
            await opening


async def test_journal_without_encryption_key_writes_no_api_key_and_needs_on_key(
    fake: FakeOpenRouter, client: OpenRouter, path: Path
) -> None:
    safe = Safe()
    async with Journal(path) as journal:
        with pytest.raises(
            errors.RequestValidationError, match="journal: must have encryption_keys, or the client an on_key"
        ):
            client.oauth.exchange_many(["c"], journal=journal)
        async with client.with_options(on_key=safe) as safe_client:
            await safe_client.oauth.exchange_all(issue(fake, 1), journal=journal)
    key = fake.issued_keys[0].key
    assert list(safe.keys.values()) == [key]
    assert key.encode() not in path.read_bytes()
    (entry,) = await entries(path)
    assert (entry.key, entry.status) == (None, RequestStatus.SUCCEEDED)
    assert entry.key_hash == hashlib.sha256(key.encode()).hexdigest()


async def test_journal_writes_plaintext_keys_only_when_asked(
    fake: FakeOpenRouter, client: OpenRouter, path: Path
) -> None:
    async with Journal(path, store_plaintext_keys=True) as journal:
        await client.oauth.exchange_all(issue(fake, 1), journal=journal)
    assert (await entries(path))[0].key == fake.issued_keys[0].key
    with pytest.raises(errors.RequestValidationError, match="store_plaintext_keys: must not come with encryption_keys"):
        Journal(path, encryption_keys=KEY, store_plaintext_keys=True)


async def test_journal_has_a_key_that_on_key_did_not_take(fake: FakeOpenRouter, path: Path) -> None:
    async def refuse(*_: object) -> None:
        raise OSError

    async with OpenRouter(None, base_url=fake.base_url, on_key=refuse) as client:
        await run(client, path, issue(fake, 1))
    (entry,) = await entries(path, KEY)
    assert (entry.key, entry.status) == (fake.issued_keys[0].key, RequestStatus.SUCCEEDED)
    assert entry.error == "KeyDeliveryError: on_key raised OSError; the key is in .response"


async def test_journal_file_readable_by_others_is_made_private(path: Path) -> None:
    path.touch(0o644)
    async with Journal(path):
        assert (path.stat().st_mode & 0o777) == 0o600


async def test_journal_succeeded_or_rejected_request_is_not_sent_again(
    fake: FakeOpenRouter, client: OpenRouter, path: Path
) -> None:
    fake.queue_faults(Fault.delay(0), REFUSED, Fault.status(400, message="Invalid code_challenge_method"))
    codes = issue(fake, 4)
    first = await run(client, path, codes[:3], concurrency=1)
    assert [result.outcome for result in first] == [Outcome.COMPLETED, Outcome.REFUSED, Outcome.REFUSED]
    progress: list[BatchProgress] = []
    second = await run(client, path, codes, on_progress=progress.append)
    assert [result.index for result in second] == [3]
    assert len(fake.requests) == 4
    assert (progress[-1].skipped, progress[-1].finished, progress[-1].in_flight) == (3, 1, 0)


async def test_journal_succeeded_request_is_skipped_each_time_it_comes(
    fake: FakeOpenRouter, client: OpenRouter, path: Path
) -> None:
    done, new = issue(fake, 2)
    await run(client, path, [done])
    progress: list[BatchProgress] = []
    results = await run(client, path, [done, done, done, new, new], concurrency=5, on_progress=progress.append)
    assert [result.key for result in results] == [fake.issued_keys[1].key] * 2
    assert (progress[-1].skipped, progress[-1].repeated) == (3, 1)
    assert len(fake.requests) == 2


async def test_ordered_batch_passes_over_skipped_requests(fake: FakeOpenRouter, client: OpenRouter, path: Path) -> None:
    codes = issue(fake, 60)
    await run(client, path, codes[:40])
    async with Journal(path, encryption_keys=KEY) as journal:
        batch = client.oauth.exchange_many(
            [codes[50], *codes[:50], *codes[51:]], journal=journal, concurrency=2, ordered=True
        )
        assert [result.index async for result in batch] == [0, *range(41, 60)]


@pytest.mark.parametrize("status", [401, 403, 409, 429])
async def test_journal_passing_refusal_is_sent_again(
    fake: FakeOpenRouter, client: OpenRouter, path: Path, status: int
) -> None:
    fake.queue_faults(Fault.status(status, message="No"))
    codes = issue(fake, 1)
    (refused,) = await run(client, path, codes)
    assert refused.outcome is Outcome.REFUSED
    assert [entry.status for entry in await entries(path)] == [RequestStatus.RETRYABLE]
    (done,) = await run(client, path, codes)
    assert done.error is None


async def test_journal_unsent_request_is_sent_again(fake: FakeOpenRouter, client: OpenRouter, path: Path) -> None:
    codes = issue(fake, 1)
    async with OpenRouter(None, base_url="http://127.0.0.1:1/", retry=RetryPolicy.none()) as lost:
        (result,) = await run(lost, path, codes)
    assert result.outcome is Outcome.NOT_SENT
    (done,) = await run(client, path, codes)
    assert done.error is None


async def test_journal_intent_without_result_is_retried_and_may_succeed(
    fake: FakeOpenRouter, client: OpenRouter, path: Path
) -> None:
    codes = issue(fake, 1)
    async with Journal(path, encryption_keys=KEY) as journal:
        assert journal.status(codes[0]) is None
        await journal.begin(request_digest(codes[0]))
        await journal.aclose(timeout=0)
    assert [entry.status for entry in await entries(path)] == [RequestStatus.UNCERTAIN]
    (result,) = await run(client, path, codes)
    assert result.key == fake.issued_keys[0].key
    assert [entry.status for entry in await entries(path)] == [RequestStatus.SUCCEEDED]


async def test_journal_intent_without_result_whose_code_is_refused_is_unknown(
    fake: FakeOpenRouter, client: OpenRouter, path: Path
) -> None:
    codes = issue(fake, 1)
    async with Journal(path, encryption_keys=KEY) as journal:
        await journal.begin(request_digest(codes[0]))
        async with OpenRouter(fake.token, base_url=fake.base_url) as dead:
            await dead.oauth.exchange_all(codes)
        # The process dies here.
        await journal.aclose(timeout=0)
    (result,) = await run(client, path, codes)
    assert isinstance(result.error, errors.ForbiddenResponseError)
    assert result.outcome is Outcome.UNKNOWN
    assert "an earlier run may have used the code" in str(result.error)
    assert isinstance(result.error.__cause__, errors.TransportError)
    (entry,) = await entries(path)
    assert entry.status is RequestStatus.LOST
    assert entry.error
    assert await run(client, path, codes) == []


async def test_journal_uncertain_request_stays_uncertain_after_a_passing_refusal(
    fake: FakeOpenRouter, client: OpenRouter, path: Path
) -> None:
    codes = issue(fake, 1)
    fake.queue_faults(Fault.status(500, message="Broken", after=True), Fault.status(429))
    written = []
    for expected in (Outcome.UNKNOWN, Outcome.REFUSED, Outcome.UNKNOWN):
        (result,) = await run(client, path, codes)
        assert result.outcome is expected
        written += [entry.status for entry in await entries(path)]
    assert written == [RequestStatus.UNCERTAIN, RequestStatus.UNCERTAIN, RequestStatus.LOST]


async def test_journal_middleware_exception_is_uncertain_and_stores_its_name_alone(
    fake: FakeOpenRouter, path: Path
) -> None:
    async def fail(request: Request, call_next: Handler) -> Response:
        raise ValueError("a secret")

    async with OpenRouter(None, base_url=fake.base_url, middlewares=[fail]) as client:
        await run(client, path, issue(fake, 1))
    (entry,) = await entries(path)
    assert (entry.status, entry.error) == (RequestStatus.UNCERTAIN, "ValueError")


async def test_journal_uncertain_request_that_fails_otherwise_keeps_its_error(
    fake: FakeOpenRouter, client: OpenRouter, path: Path
) -> None:
    codes = issue(fake, 1)
    fake.queue_faults(Fault.drop(), Fault.drop())
    for _ in range(2):
        (result,) = await run(client, path, codes)
        assert type(result.error) is errors.TransportError
    assert [entry.status for entry in await entries(path)] == [RequestStatus.UNCERTAIN]


async def test_journal_request_taken_but_unsent_at_the_end_is_sent_again(fake: FakeOpenRouter, path: Path) -> None:
    gate = Gate()
    codes = issue(fake, 2)
    async with OpenRouter(None, base_url=fake.base_url, attempt_middlewares=[gate]) as client:
        async with Journal(path, encryption_keys=KEY) as journal:
            async with client.oauth.exchange_many(codes, journal=journal) as batch:
                reading = asyncio.ensure_future(anext(batch))
                await until(lambda: gate.waiting == 2)
            await asyncio.wait((reading,))
        assert [entry.status for entry in await entries(path)] == [RequestStatus.RETRYABLE] * 2
        gate.let(2)
        assert [result.error for result in await run(client, path, codes)] == [None, None]


async def test_batch_closed_while_intents_are_written_sends_none_of_them(
    fake: FakeOpenRouter, client: OpenRouter, path: Path
) -> None:
    async with Journal(path, encryption_keys=KEY) as journal:
        batch = client.oauth.exchange_many(issue(fake, 3), journal=journal, concurrency=3)
        reading = asyncio.ensure_future(anext(batch))
        await until(lambda: batch.progress.taken == 3)
        await batch.aclose()
        await asyncio.wait((reading,))
    assert [entry.status for entry in await entries(path)] == [RequestStatus.RETRYABLE] * 3
    assert len(fake.requests) == 0


async def test_journal_aclose_waits_for_work_under_way(fake: FakeOpenRouter, client: OpenRouter, path: Path) -> None:
    fake.queue_faults(Fault.delay(0), Fault.delay(60))
    async with Journal(path, encryption_keys=KEY) as journal:
        async for _ in client.oauth.exchange_many(issue(fake, 2), journal=journal, concurrency=2):
            break
        await until(lambda: len(fake.redeemed_codes) == 2)
        fake.advance(60)
    assert {entry.key for entry in await entries(path, KEY)} == {issued.key for issued in fake.issued_keys}


async def test_journal_closed_in_the_middle_of_writing_writes_all_of_it(path: Path) -> None:
    journal = await Journal(path).__aenter__()
    first = asyncio.ensure_future(journal.begin(request_digest("one")))
    await until(lambda: not writer_of(journal)._quiet.is_set() and writer_of(journal)._group is None)
    second = asyncio.ensure_future(journal.begin(request_digest("two")))
    await until(lambda: writer_of(journal)._group is not None)
    await journal.aclose(timeout=0)
    await asyncio.gather(first, second)
    assert len(await entries(path)) == 2
    with pytest.raises(errors.JournalError, match="it is not open"):
        await journal.begin(request_digest("three"))


async def test_journal_shared_by_batches_shares_results(fake: FakeOpenRouter, client: OpenRouter, path: Path) -> None:
    codes = issue(fake, 5)
    async with Journal(path, encryption_keys=KEY) as journal:
        one, other = await asyncio.gather(*(client.oauth.exchange_all(codes, journal=journal) for _ in range(2)))
    assert sorted(result.request.code for result in (*one, *other) if result.request) == sorted(codes)
    assert len(fake.issued_keys) == len(fake.requests) == 5
    assert [entry.status for entry in await entries(path)] == [RequestStatus.SUCCEEDED] * 5


async def test_journal_request_in_flight_in_another_batch_waits_for_its_result(
    fake: FakeOpenRouter, path: Path, journal: Journal
) -> None:
    gate = Gate()
    (code,) = issue(fake, 1)
    async with (
        OpenRouter(None, base_url=fake.base_url, middlewares=[gate]) as one,
        OpenRouter(None, base_url=fake.base_url) as other,
    ):
        first = asyncio.ensure_future(one.oauth.exchange_all([code], journal=journal))
        await until(lambda: gate.waiting == 1)
        rest = [asyncio.ensure_future(other.oauth.exchange_all([code], journal=journal)) for _ in range(2)]
        await until(lambda: is_waited_for(journal))
        rest.append(asyncio.ensure_future(other.oauth.exchange_all([code], journal=journal)))
        rest.pop(0).cancel()
        gate.let(1)
        async with asyncio.timeout(PATIENCE):
            assert [result.error for result in await first] == [None]
            assert await asyncio.gather(*rest) == [[], []]
    assert len(fake.requests) == 1
    assert [entry.key async for entry in journal.entries()] == [fake.issued_keys[0].key]


async def test_journal_request_abandoned_by_another_batch_is_sent(
    fake: FakeOpenRouter, client: OpenRouter, path: Path, journal: Journal
) -> None:
    gate = Gate()
    (code,) = issue(fake, 1)
    async with OpenRouter(None, base_url=fake.base_url, middlewares=[gate]) as stuck:
        leaving = stuck.oauth.exchange_many([code], journal=journal, concurrency=1)
        reading = asyncio.ensure_future(anext(leaving))
        await until(lambda: gate.waiting == 1)
        second = asyncio.ensure_future(client.oauth.exchange_all([code], journal=journal))
        await until(lambda: is_waited_for(journal))
        leaving._runner._workers[0].cancel()
        async with asyncio.timeout(PATIENCE):
            assert [result.key for result in await second] == [fake.issued_keys[0].key]
        await asyncio.wait((reading,))
        assert reading.cancelled()
    assert await statuses(journal) == [RequestStatus.SUCCEEDED]


async def test_journal_concurrent_rows_share_a_transaction(path: Path) -> None:
    groups: list[int] = []
    async with Journal(path, encryption_keys=KEY) as journal:
        writer_of(journal).db._connection.set_trace_callback(
            lambda statement: groups.append(1) if statement == "COMMIT" else None
        )
        await asyncio.gather(*(journal.begin(request_digest(f"code-{number}")) for number in range(100)))
        await asyncio.gather(
            *(
                journal.record(request_digest(f"code-{number}"), ExchangeAuthCodeForAPIKeyResponse(key="k"))
                for number in range(100)
            )
        )
    assert 1 <= len(groups) <= 4
    assert len(await entries(path)) == 100


FOREIGN = {
    "text": b"something else\n",
    "json": b"{}",
    "old": b'{"journal": "openrouter_async", "version": 1}\n',
    "newline": b"\n",
    "long": b"x" * 10_000,
}


@pytest.mark.parametrize("data", FOREIGN.values(), ids=FOREIGN)
async def test_journal_file_of_another_kind_is_refused_and_left_unchanged(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    for opening in (Journal(path).open(), entries(path)):
        with pytest.raises(errors.JournalError, match="it is not a journal"):
            await opening
    assert path.read_bytes() == data
    assert os.listdir(path.parent) == [path.name]


async def test_journal_database_of_another_program_is_refused_and_left_unchanged(path: Path) -> None:
    change(path, "CREATE TABLE t (x); INSERT INTO t VALUES (1);")
    data = path.read_bytes()
    for opening in (Journal(path).open(), entries(path)):
        with pytest.raises(errors.JournalError, match="it is not a journal"):
            await opening
    assert path.read_bytes() == data


async def test_journal_of_newer_version_is_refused_with_its_version(path: Path) -> None:
    async with Journal(path):
        pass
    change(path, "PRAGMA user_version = 7;")
    for opening in (Journal(path).open(), entries(path)):
        with pytest.raises(errors.JournalError, match=r"it has schema version 7, and this .* none above 1: update it"):
            await opening


@pytest.mark.parametrize("column", ["status", "at"])
async def test_journal_unreadable_entry_is_refused(path: Path, column: str) -> None:
    async with Journal(path) as journal:
        await journal.begin(request_digest("code"))
        await journal.aclose(timeout=0)
    change(path, f"UPDATE entries SET {column} = ?", "odd" if column == "status" else 1e300)
    with pytest.raises(errors.JournalError, match="it is damaged"):
        await entries(path)


async def test_journal_that_cannot_be_read_is_closed(path: Path) -> None:
    change(path, "PRAGMA user_version = 7;")
    with pytest.raises(errors.JournalError) as failure:
        await entries(path)
    # Its traceback still refers to what was opened.
    assert str(path) not in open_files()
    del failure


async def test_journal_damaged_file_is_refused(path: Path) -> None:
    async with Journal(path) as journal:
        await journal.begin(request_digest("code"))
        await journal.aclose(timeout=0)
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\xff" * (len(data) - 4096))
    with pytest.raises(errors.JournalError, match="it is damaged"):
        await Journal(path).open()


@pytest.mark.parametrize("name", ["journal.db", "journal.db-wal", "journal.db-shm"])
async def test_journal_symbolic_link_is_refused(path: Path, name: str) -> None:
    async with Journal(path):
        pass
    target = path.with_name("target")
    (path.with_name(name)).unlink(missing_ok=True)
    (path.with_name(name)).symlink_to(target)
    for opening in (Journal(path).open(), entries(path)):
        with pytest.raises(errors.JournalError, match="it is a symbolic link"):
            await opening
    assert not target.exists()


async def test_journal_of_another_user_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Journal(path):
        pass
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    for opening in (Journal(path).open(), entries(path)):
        with pytest.raises(errors.JournalError, match="it belongs to another user"):
            await opening


async def test_journal_in_a_folder_open_to_everybody_is_refused(path: Path) -> None:
    path.parent.chmod(0o777)
    with pytest.raises(errors.JournalError, match="everybody can write to the folder"):
        await Journal(path).open()


async def test_journal_below_a_folder_open_to_everybody_is_refused(path: Path) -> None:
    below = path.parent / "below" / "journals" / path.name
    below.parent.mkdir(0o700, parents=True)
    path.parent.chmod(0o777)
    async with contextlib.AsyncExitStack() as cleanup:
        with pytest.raises(errors.JournalError, match=re.escape(f"everybody can write to the folder {path.parent}")):
            await cleanup.enter_async_context(Journal(below))
    assert not below.exists()
    # A sticky folder, such as /tmp, lets nobody replace the folders of others in it.
    path.parent.chmod(0o1777)
    async with Journal(below):
        assert below.exists()


async def test_journal_below_a_folder_of_another_user_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = path.parent.parent.stat().st_ino
    look = Path.stat

    def claim(self: Path, **options: Any) -> os.stat_result:
        status = look(self, **options)
        values = list(status)
        if status.st_ino == owner:
            values[stat.ST_UID] = os.geteuid() + 1
        return os.stat_result(values)

    async with Journal(path):
        pass
    monkeypatch.setattr(Path, "stat", claim)
    for opening in (Journal(path).open(), entries(path)):
        with pytest.raises(errors.JournalError, match=f"the folder {path.parent.parent} belongs to another user"):
            await opening


async def test_journal_entry_is_read_while_the_journal_is_open(
    fake: FakeOpenRouter, client: OpenRouter, journal: Journal
) -> None:
    (code,) = issue(fake, 1)
    assert await journal.entry(code) is None
    await client.oauth.exchange_all([code], journal=journal)
    entry = await journal.entry(code)
    assert entry is not None
    assert (entry.key, entry.user_id) == (fake.issued_keys[0].key, fake.issued_keys[0].user_id)
    await journal.aclose()
    with pytest.raises(errors.JournalError, match="it is not open"):
        await journal.entry(code)


async def test_journal_entries_come_in_order_and_reading_may_stop_early(path: Path) -> None:
    digests = [request_digest(f"code-{number}") for number in range(2 * CHUNK_SIZE + 1)]
    async with Journal(path) as journal:
        await asyncio.gather(*map(journal.begin, digests))
        await journal.aclose(timeout=0)
    assert [entry.request for entry in await entries(path)] == digests
    reading = Journal(path).entries()
    assert (await anext(reading)).request == digests[0]
    await reading.aclose()
    async with Journal(path) as journal:
        assert [entry.request async for entry in journal.entries()] == digests


async def test_journal_opened_by_two_is_refused(path: Path, journal: Journal) -> None:
    with pytest.raises(errors.JournalError, match="another process has it open"):
        await Journal(path).open()
    with pytest.raises(errors.JournalError, match="it is open already"):
        await journal.open()
    code = f"import asyncio; from openrouter_async import Journal; asyncio.run(Journal({str(path)!r}).open())"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert result.stderr.splitlines()[-1].endswith("JournalError: " + f"{path}: another process has it open")


async def test_journal_whose_opening_is_cancelled_is_not_locked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked, go_on = threading.Event(), threading.Event()
    load = JournalDB._load

    def wait(db: JournalDB, *, is_sealed: bool) -> dict[str, RequestStatus]:
        locked.set()
        go_on.wait(PATIENCE)
        return load(db, is_sealed=is_sealed)

    monkeypatch.setattr(JournalDB, "_load", wait)
    opening = asyncio.ensure_future(Journal(path).open())
    await asyncio.to_thread(locked.wait, 10)
    opening.cancel()
    await asyncio.wait((opening,))
    assert opening.cancelled()
    with pytest.raises(errors.JournalError, match="another process has it open"):
        await Journal(path).open()
    go_on.set()
    journal = Journal(path)
    async with asyncio.timeout(PATIENCE):
        while not journal.is_open:
            with contextlib.suppress(errors.JournalError):
                await journal.open()
    await journal.aclose()


async def test_journal_can_be_opened_again(fake: FakeOpenRouter, client: OpenRouter, path: Path) -> None:
    journal = Journal(path, encryption_keys=KEY)
    for _ in range(2):
        async with journal:
            await client.oauth.exchange_all(issue(fake, 1), journal=journal)
        await journal.aclose()
    assert len(await entries(path)) == 2


async def test_journal_not_open_is_refused(client: OpenRouter, path: Path) -> None:
    with pytest.raises(errors.RequestValidationError, match="journal: must be an open Journal"):
        client.oauth.exchange_many(["c"], journal=Journal(path, encryption_keys=KEY))
    with pytest.raises(errors.JournalError, match="it is not open"):
        await Journal(path).begin("0" * 32)


async def test_journal_at_an_impossible_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.JournalError, match="it cannot be opened: "):
        await Journal(tmp_path / "nowhere" / "journal.db").open()
    with pytest.raises(errors.JournalError, match="it cannot be opened: "):
        await entries(tmp_path / "journal.db")
    for path in (tmp_path, Path("/dev/zero")):
        with pytest.raises(errors.JournalError, match="it is not a file"):
            await Journal(path).open()


def fill_the_disk(journal: Journal) -> None:
    """Leave no room for another row in the journal."""
    connection = writer_of(journal).db._connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    paddings = ((f"padding-{number}",) for number in itertools.count())
    with contextlib.suppress(sqlite3.OperationalError):
        for padding in paddings:
            connection.execute("INSERT INTO entries (request, status, at) VALUES (?, 'retryable', 0)", padding)


async def test_journal_that_cannot_write_an_intent_sends_nothing_and_ends_the_batch(
    fake: FakeOpenRouter, client: OpenRouter, journal: Journal
) -> None:
    fill_the_disk(journal)
    results: list[ExchangeResult] = []
    batch = client.oauth.exchange_many(iter(issue(fake, 100)), journal=journal, concurrency=2)
    with pytest.raises(errors.JournalError, match="the disk is full"):
        await read(batch, results)
    assert 1 <= len(results) <= 2
    assert {result.outcome for result in results} == {Outcome.NOT_SENT}
    assert len(fake.requests) == 0


async def test_journal_that_cannot_write_a_result_still_gives_it_to_the_consumer(
    fake: FakeOpenRouter, path: Path
) -> None:
    journal = Journal(path, encryption_keys=KEY)

    async def fill(request: Request, call_next: Handler) -> Response:
        fill_the_disk(journal)
        return await call_next(request)

    results: list[ExchangeResult] = []
    async with OpenRouter(None, base_url=fake.base_url, middlewares=[fill]) as client, journal:
        batch = client.oauth.exchange_many(issue(fake, 9), journal=journal, concurrency=1)
        with pytest.raises(errors.JournalError):
            await read(batch, results)
    assert [result.key for result in results] == [fake.issued_keys[0].key]
    assert (await entries(path))[0].status is RequestStatus.UNCERTAIN


async def test_journal_failed_transaction_refuses_all_rows_and_writes_none(
    path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, go_on = threading.Event(), threading.Event()
    write = JournalDB.write

    def fail(db: JournalDB, rows: list[dict[str, object]]) -> None:
        writing.set()
        go_on.wait(PATIENCE)
        write(db, [*rows, {**rows[-1], "request": None}])

    monkeypatch.setattr(JournalDB, "write", fail)
    first = asyncio.ensure_future(journal.begin(request_digest("one")))
    await asyncio.to_thread(writing.wait, 10)
    others = [asyncio.ensure_future(journal.begin(request_digest(name))) for name in ("two", "three")]
    await until(lambda: writer_of(journal)._group is not None)
    go_on.set()
    for beginning in (first, *others):
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(errors.JournalError, match="SQLite cannot use it"):
                await beginning
    assert await statuses(journal) == []
    assert journal.status("one") is journal.status("two") is None
    monkeypatch.undo()
    # Each transaction is written or not; later ones are not affected.
    assert await journal.begin(request_digest("two"))
    await journal.aclose(timeout=0)
    assert [entry.request for entry in await entries(path)] == [request_digest("two")]


async def test_journal_survives_the_cancellation_of_all_tasks(path: Path, journal: Journal) -> None:
    before = asyncio.all_tasks()
    beginning = asyncio.ensure_future(journal.begin(request_digest("one")))
    await until(lambda: not writer_of(journal)._quiet.is_set() and writer_of(journal)._group is None)
    for task in asyncio.all_tasks() - before:
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await beginning
    async with asyncio.timeout(PATIENCE):
        assert await journal.begin(request_digest("two"))
        await journal.record(request_digest("two"), ExchangeAuthCodeForAPIKeyResponse(key="k"))
    assert await statuses(journal) == [RequestStatus.UNCERTAIN, RequestStatus.SUCCEEDED]


async def test_journal_result_whose_writer_is_cancelled_is_written(path: Path, journal: Journal) -> None:
    digest = request_digest("one")
    await journal.begin(digest)
    recording = asyncio.ensure_future(journal.record(digest, ExchangeAuthCodeForAPIKeyResponse(key="k")))
    await until(lambda: writer_of(journal)._group is not None)
    recording.cancel()
    await asyncio.wait((recording,))
    assert recording.cancelled()
    # Its code is used up: another try would only be rejected.
    assert not await journal.begin(digest)
    await journal.aclose()
    assert [entry.key for entry in await entries(path, KEY)] == ["k"]


async def test_journal_can_be_closed_by_several_at_once(path: Path) -> None:
    journal = await Journal(path).__aenter__()
    await journal.begin(request_digest("one"))
    await asyncio.gather(*(journal.aclose(timeout=0) for _ in range(3)))
    async with Journal(path) as again:
        assert again.status("one") is RequestStatus.UNCERTAIN


async def test_journal_closed_while_another_close_waits_is_closed_once(path: Path) -> None:
    journal = await Journal(path).__aenter__()
    await journal.begin(request_digest("one"))
    patient = asyncio.ensure_future(journal.aclose())
    await passes()
    await journal.aclose(timeout=0)
    async with asyncio.timeout(PATIENCE):
        await patient
    assert not journal.is_open


async def test_journal_refusal_after_close_keeps_the_uncertainty_of_an_earlier_run(path: Path) -> None:
    digest = request_digest("one")
    async with Journal(path) as journal:
        await journal.begin(digest)
        journal.abandon(digest)
    journal = await Journal(path).__aenter__()
    await journal.begin(digest)
    await journal.aclose(timeout=0)
    refusal = errors.ForbiddenResponseError("Invalid code", status_code=403, outcome=Outcome.REFUSED)
    with pytest.raises(errors.JournalError, match="it is not open"):
        await journal.record(digest, refusal)
    assert refusal.outcome is Outcome.UNKNOWN


async def test_journal_opened_again_waits_for_requests_of_before(path: Path) -> None:
    digest = request_digest("one")
    journal = await Journal(path, encryption_keys=KEY).__aenter__()
    await journal.begin(digest)
    await journal.aclose(timeout=0)
    async with journal:
        second = asyncio.ensure_future(journal.begin(digest))
        await passes()
        await journal.record(digest, ExchangeAuthCodeForAPIKeyResponse(key="k"))
        assert not await second
    assert [entry.key for entry in await entries(path, KEY)] == ["k"]


async def test_journal_aclose_refuses_requests_that_wait_for_another_batch(path: Path) -> None:
    journal = await Journal(path).__aenter__()
    await journal.begin(request_digest("one"))
    waiting = asyncio.ensure_future(journal.begin(request_digest("one")))
    await until(lambda: is_waited_for(journal))
    await journal.aclose(timeout=0)
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(errors.JournalError, match="it is not open"):
            await waiting
    # A result that comes too late is refused, too.
    with pytest.raises(errors.JournalError, match="it is not open"):
        await journal.record(request_digest("one"), ExchangeAuthCodeForAPIKeyResponse(key="k"))


async def test_journal_after_fork_is_not_written(path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with pytest.raises(errors.JournalError, match="it was opened before a fork"):
        await journal.begin(request_digest("one"))
    monkeypatch.undo()
    assert await statuses(journal) == []


def test_journal_digest_differs_for_different_requests() -> None:
    def requests() -> Iterator[ExchangeAuthCodeForAPIKeyRequest]:
        for code in ("c", "1:c", "c:None"):
            yield ExchangeAuthCodeForAPIKeyRequest(code=code)
            yield ExchangeAuthCodeForAPIKeyRequest(code=code, code_challenge_method=None)
            yield ExchangeAuthCodeForAPIKeyRequest(code=code, code_challenge_method="S256")
            yield ExchangeAuthCodeForAPIKeyRequest(code=code, code_verifier="v" * 43)

    digests = [request_digest(request) for request in requests()]
    assert len(set(digests)) == len(digests) == len({identify(request) for request in requests()})
    assert request_digest("c") == digests[0]
    with pytest.raises(errors.RequestValidationError):
        request_digest("")


async def test_journal_repr_and_errors_show_no_key(fake: FakeOpenRouter, client: OpenRouter, path: Path) -> None:
    await run(client, path, [*issue(fake, 1), "bad"])
    assert repr(Journal(path, encryption_keys=KEY)) == f"<Journal {path} closed>"
    async with Journal(path, encryption_keys=KEY) as journal:
        assert repr(journal) == f"<Journal {path} open>"
    done, failed = await entries(path, KEY)
    assert fake.issued_keys[0].key not in repr(done)
    assert "key=sk-or-v1-…" in repr(done)
    assert "key=None" in repr(failed)


async def test_journal_sent_request_stays_uncertain_when_loop_ends_during_close(
    fake: FakeOpenRouter, client: OpenRouter, journal: Journal, path: Path
) -> None:
    fake.queue_faults(Fault.delay(60))
    (code,) = issue(fake, 1)
    batch = client.oauth.exchange_many([code], concurrency=1, journal=journal)
    reading = asyncio.ensure_future(anext(batch))
    await until(lambda: len(fake.redeemed_codes) == 1)
    reading.cancel()
    for _ in range(20):
        await asyncio.sleep(0)
    assert not reading.done()
    # As `asyncio.run` does with every task when Ctrl-C is pressed for the second time.
    for task in (*batch._runner._workers, reading):
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    fake.advance(60)
    await client.aclose()
    async with asyncio.timeout(PATIENCE):
        # There is nothing left to wait for.
        await journal.aclose(timeout=60)
    assert [entry.status for entry in await entries(path)] == [RequestStatus.UNCERTAIN]


async def test_journal_worker_cancelled_during_its_intent_sends_nothing(
    fake: FakeOpenRouter, client: OpenRouter, path: Path
) -> None:
    codes = issue(fake, 1)
    async with Journal(path, encryption_keys=KEY) as journal:
        batch = client.oauth.exchange_many([*codes, *codes], journal=journal, concurrency=2)
        results: list[ExchangeResult] = []
        reading = asyncio.ensure_future(read(batch, results))
        await until(lambda: batch.progress.taken == 2)
        batch._runner._workers[0].cancel()
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(asyncio.CancelledError):
                await reading
            await journal.aclose(timeout=60)
    assert [result.outcome for result in results] == [Outcome.NOT_SENT]
    assert len(fake.requests) == 0
    assert [entry.status for entry in await entries(path)] == [RequestStatus.UNCERTAIN]
    assert [result.key for result in await run(client, path, codes)] == [fake.issued_keys[0].key]


async def test_journal_cancellation_inside_an_exchange_is_uncertain(fake: FakeOpenRouter, path: Path) -> None:
    async def cancel(request: Request, call_next: Handler) -> Response:
        await call_next(request)
        raise asyncio.CancelledError

    codes = issue(fake, 2)
    async with OpenRouter(None, base_url=fake.base_url, middlewares=[cancel]) as client:
        results = await run(client, path, codes, concurrency=1)
    assert [result.outcome for result in results] == [Outcome.UNKNOWN] * 2
    assert [entry.status for entry in await entries(path)] == [RequestStatus.UNCERTAIN] * 2


async def test_journal_on_a_read_only_disk_is_read_and_refuses_writes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Journal(path) as journal:
        await journal.begin(request_digest("one"))
        await journal.aclose(timeout=0)
    connect = _journal_db._connect
    # Patched, because no mode keeps root from writing.
    monkeypatch.setattr(_journal_db, "_connect", lambda path, mode: connect(path, mode.replace("rw", "ro")))
    assert [entry.request for entry in await entries(path)] == [request_digest("one")]

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "chmod", refuse)
    with pytest.raises(errors.JournalError, match="it cannot be opened: Read-only file system"):
        await Journal(path).open()
