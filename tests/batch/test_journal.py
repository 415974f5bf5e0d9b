from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
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
from openrouter_async.batch import RequestStatus, request_digest
from openrouter_async.batch._dedup import identify
from openrouter_async.batch._journal_file import Lines
from openrouter_async.encryption import generate_encryption_key
from openrouter_async.testing import FakeOpenRouter, Fault
from tests.batch.support import Gate, Safe, issue, read
from tests.support import ROOT
from tests.wire.clock import until

KEY = generate_encryption_key()
REFUSED = Fault.status(403, message="Invalid code or code_verifier")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.jsonl"


@pytest.fixture
async def journal(path: Path) -> AsyncIterator[Journal]:
    async with Journal(path, encryption_keys=KEY) as opened:
        yield opened


@pytest.fixture
async def client(fake: FakeOpenRouter) -> AsyncIterator[OpenRouter]:
    async with OpenRouter(None, base_url=fake.base_url, retry=RetryPolicy.none()) as made:
        yield made


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()[1:]]


def lines_of(journal: Journal) -> Lines:
    """What writes the lines of a journal that is open."""
    assert journal._lines is not None
    return journal._lines


async def run(client: OpenRouter, path: Path, codes: list[str], **options: Any) -> list[ExchangeResult]:
    """One run of a batch, as a process would do it that is started again and again."""
    async with Journal(path, encryption_keys=KEY) as opened:
        return await client.oauth.exchange_all(codes, journal=opened, **options)


async def test_an_intent_and_a_result_are_written_for_each_request(
    fake: FakeOpenRouter, client: OpenRouter, path: Path
) -> None:
    codes = issue(fake, 2)
    await run(client, path, codes, concurrency=1)
    assert [(line["event"], line["request"]) for line in lines(path)] == [
        (event, request_digest(code)) for code in codes for event in ("intent", "result")
    ]
    entries = Journal.read(path, encryption_keys=KEY)
    assert [entry.key for entry in entries] == [issued.key for issued in fake.issued_keys]
    assert [entry.status for entry in entries] == [RequestStatus.SUCCEEDED] * 2
    assert [entry.user_id for entry in entries] == [issued.user_id for issued in fake.issued_keys]
    assert entries[0].key_hash == hashlib.sha256(fake.issued_keys[0].key.encode()).hexdigest()
    assert entries[0].at.tzinfo is not None


async def test_an_intent_is_on_the_disk_before_its_request_leaves(fake: FakeOpenRouter, path: Path) -> None:
    seen: list[list[str]] = []

    async def look(request: Request, call_next: Handler) -> Response:
        seen.append([line["event"] for line in lines(path)])
        return await call_next(request)

    async with OpenRouter(None, base_url=fake.base_url, attempt_middlewares=[look]) as client:
        await run(client, path, issue(fake, 2), concurrency=1)
    assert seen == [["intent"], ["intent", "result", "intent"]]


async def test_a_result_is_on_the_disk_before_the_consumer_gets_it(
    fake: FakeOpenRouter, client: OpenRouter, path: Path, journal: Journal
) -> None:
    async for result in client.oauth.exchange_many(issue(fake, 9), journal=journal, concurrency=3):
        assert result.key in [entry.key for entry in Journal.read(path, encryption_keys=KEY)]


async def test_with_a_key_nothing_secret_can_be_read_in_the_file(
    fake: FakeOpenRouter, client: OpenRouter, path: Path
) -> None:
    requests: list[ExchangeAuthCodeForAPIKeyRequest | str] = [
        ExchangeAuthCodeForAPIKeyRequest(code=fake.issue_code(), code_verifier="v" * 43),
        fake.issue_code(),
    ]
    async with Journal(path, encryption_keys=[KEY]) as journal:
        results = await client.oauth.exchange_all(requests, journal=journal)
    assert results[1].key
    text = path.read_text()
    for secret in ("v" * 43, results[1].key, results[1].key.removeprefix("sk-or-v1-"), *fake.redeemed_codes):
        assert secret not in text
    assert Journal.read(path)[1].key is None
    assert (path.stat().st_mode & 0o777) == 0o600
    with pytest.raises(errors.JournalError, match="was not sealed with the given ones"):
        Journal.read(path, encryption_keys=generate_encryption_key())


async def test_a_key_that_is_sealed_for_one_request_is_not_taken_for_another(
    fake: FakeOpenRouter, client: OpenRouter, path: Path
) -> None:
    await run(client, path, issue(fake, 1))
    path.write_text(path.read_text().replace(lines(path)[0]["request"], "0" * 32))
    with pytest.raises(errors.JournalError, match="was not sealed"):
        Journal.read(path, encryption_keys=KEY)


async def test_without_a_key_to_seal_with_no_api_key_is_written_and_on_key_is_wanted(
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
    assert key not in path.read_text()
    (entry,) = Journal.read(path, encryption_keys=KEY)
    assert (entry.key, entry.status) == (None, RequestStatus.SUCCEEDED)
    assert entry.key_hash == hashlib.sha256(key.encode()).hexdigest()


async def test_api_keys_are_written_as_they_are_only_when_that_is_asked_for(
    fake: FakeOpenRouter, client: OpenRouter, path: Path
) -> None:
    async with Journal(path, store_plaintext_keys=True) as journal:
        await client.oauth.exchange_all(issue(fake, 1), journal=journal)
    assert Journal.read(path)[0].key == fake.issued_keys[0].key
    with pytest.raises(errors.RequestValidationError, match="store_plaintext_keys: must not come with encryption_keys"):
        Journal(path, encryption_keys=KEY, store_plaintext_keys=True)


async def test_a_key_that_on_key_did_not_take_is_in_the_journal(fake: FakeOpenRouter, path: Path) -> None:
    async def refuse(*_: object) -> None:
        raise OSError

    async with OpenRouter(None, base_url=fake.base_url, on_key=refuse) as client:
        await run(client, path, issue(fake, 1))
    (entry,) = Journal.read(path, encryption_keys=KEY)
    assert (entry.key, entry.status) == (fake.issued_keys[0].key, RequestStatus.SUCCEEDED)
    assert entry.error == "KeyDeliveryError: on_key raised OSError; the key is in .response"


async def test_a_file_that_others_can_read_is_taken_from_them(path: Path) -> None:
    path.touch(0o644)
    async with Journal(path):
        assert (path.stat().st_mode & 0o777) == 0o600


async def test_what_is_done_or_refused_for_good_is_not_sent_again(
    fake: FakeOpenRouter, client: OpenRouter, path: Path
) -> None:
    fake.script(Fault.delay(0), REFUSED, Fault.status(400, message="Invalid code_challenge_method"))
    codes = issue(fake, 4)
    first = await run(client, path, codes[:3], concurrency=1)
    assert [result.outcome for result in first] == [Outcome.COMPLETED, Outcome.REFUSED, Outcome.REFUSED]
    progress: list[BatchProgress] = []
    second = await run(client, path, codes, on_progress=progress.append)
    assert [result.index for result in second] == [3]
    assert len(fake.requests) == 4
    assert (progress[-1].skipped, progress[-1].finished, progress[-1].in_flight) == (3, 1, 0)


async def test_what_is_done_is_skipped_as_often_as_it_comes(
    fake: FakeOpenRouter, client: OpenRouter, path: Path
) -> None:
    done, new = issue(fake, 2)
    await run(client, path, [done])
    progress: list[BatchProgress] = []
    results = await run(client, path, [done, done, done, new, new], concurrency=5, on_progress=progress.append)
    assert [result.key for result in results] == [fake.issued_keys[1].key] * 2
    assert (progress[-1].skipped, progress[-1].repeated) == (3, 1)
    assert len(fake.requests) == 2


async def test_an_ordered_batch_passes_over_what_is_skipped(
    fake: FakeOpenRouter, client: OpenRouter, path: Path
) -> None:
    codes = issue(fake, 60)
    await run(client, path, codes[:40])
    async with Journal(path, encryption_keys=KEY) as journal:
        batch = client.oauth.exchange_many(
            [codes[50], *codes[:50], *codes[51:]], journal=journal, concurrency=2, ordered=True
        )
        assert [result.index async for result in batch] == [0, *range(41, 60)]


@pytest.mark.parametrize("status", [401, 403, 409, 429])
async def test_what_was_refused_for_a_reason_that_passes_is_sent_again(
    fake: FakeOpenRouter, client: OpenRouter, path: Path, status: int
) -> None:
    fake.script(Fault.status(status, message="No"))
    codes = issue(fake, 1)
    (refused,) = await run(client, path, codes)
    assert refused.outcome is Outcome.REFUSED
    assert [entry.status for entry in Journal.read(path)] == [RequestStatus.RETRYABLE]
    (done,) = await run(client, path, codes)
    assert done.error is None


async def test_what_never_left_is_sent_again(fake: FakeOpenRouter, client: OpenRouter, path: Path) -> None:
    codes = issue(fake, 1)
    async with OpenRouter(None, base_url="http://127.0.0.1:1/", retry=RetryPolicy.none()) as lost:
        (result,) = await run(lost, path, codes)
    assert result.outcome is Outcome.NOT_SENT
    (done,) = await run(client, path, codes)
    assert done.error is None


async def test_an_intent_without_a_result_is_tried_again_and_may_succeed(
    fake: FakeOpenRouter, client: OpenRouter, path: Path
) -> None:
    codes = issue(fake, 1)
    async with Journal(path, encryption_keys=KEY) as journal:
        assert journal.status(codes[0]) is None
        await journal.begin(request_digest(codes[0]))
        await journal.aclose(timeout=0)
    assert [entry.status for entry in Journal.read(path)] == [RequestStatus.UNCERTAIN]
    (result,) = await run(client, path, codes)
    assert result.key == fake.issued_keys[0].key
    assert [entry.status for entry in Journal.read(path)] == [RequestStatus.SUCCEEDED]


async def test_an_intent_without_a_result_whose_code_is_refused_is_unknown(
    fake: FakeOpenRouter, client: OpenRouter, path: Path
) -> None:
    codes = issue(fake, 1)
    async with Journal(path, encryption_keys=KEY) as journal:
        await journal.begin(request_digest(codes[0]))
        await client.oauth.exchange_all(codes)
        # The process dies here.
        await journal.aclose(timeout=0)
    (result,) = await run(client, path, codes)
    assert isinstance(result.error, errors.ForbiddenResponseError)
    assert result.outcome is Outcome.UNKNOWN
    assert "an earlier run may have used the code" in str(result.error)
    assert isinstance(result.error.__cause__, errors.TransportError)
    (entry,) = Journal.read(path)
    assert entry.status is RequestStatus.LOST
    assert entry.error
    assert await run(client, path, codes) == []


async def test_a_doubt_outlives_a_refusal_that_passes(fake: FakeOpenRouter, client: OpenRouter, path: Path) -> None:
    codes = issue(fake, 1)
    fake.script(Fault.status(500, message="Broken", after=True), Fault.status(429))
    for expected in (Outcome.UNKNOWN, Outcome.REFUSED, Outcome.UNKNOWN):
        (result,) = await run(client, path, codes)
        assert result.outcome is expected
    assert [line["status"] for line in lines(path) if line["event"] == "result"] == ["uncertain", "uncertain", "lost"]


async def test_what_a_middleware_raised_leaves_a_doubt_and_only_its_name(fake: FakeOpenRouter, path: Path) -> None:
    async def fail(request: Request, call_next: Handler) -> Response:
        raise ValueError("a secret")

    async with OpenRouter(None, base_url=fake.base_url, middlewares=[fail]) as client:
        await run(client, path, issue(fake, 1))
    (entry,) = Journal.read(path)
    assert (entry.status, entry.error) == (RequestStatus.UNCERTAIN, "ValueError")


async def test_a_doubtful_request_that_fails_for_another_reason_keeps_its_error(
    fake: FakeOpenRouter, client: OpenRouter, path: Path
) -> None:
    codes = issue(fake, 1)
    fake.script(Fault.drop(), Fault.drop())
    for _ in range(2):
        (result,) = await run(client, path, codes)
        assert type(result.error) is errors.TransportError
    assert [entry.status for entry in Journal.read(path)] == [RequestStatus.UNCERTAIN]


async def test_what_was_taken_but_not_sent_when_a_batch_ended_is_sent_again(fake: FakeOpenRouter, path: Path) -> None:
    gate = Gate()
    codes = issue(fake, 2)
    async with OpenRouter(None, base_url=fake.base_url, attempt_middlewares=[gate]) as client:
        async with Journal(path, encryption_keys=KEY) as journal:
            async with client.oauth.exchange_many(codes, journal=journal) as batch:
                reading = asyncio.ensure_future(anext(batch))
                await until(lambda: gate.waiting == 2)
            await asyncio.wait((reading,))
        assert [entry.status for entry in Journal.read(path)] == [RequestStatus.RETRYABLE] * 2
        gate.let(2)
        assert [result.error for result in await run(client, path, codes)] == [None, None]


async def test_a_batch_that_is_closed_while_intents_are_written_sends_none_of_them(
    fake: FakeOpenRouter, client: OpenRouter, path: Path
) -> None:
    async with Journal(path, encryption_keys=KEY) as journal:
        batch = client.oauth.exchange_many(issue(fake, 3), journal=journal, concurrency=3)
        reading = asyncio.ensure_future(anext(batch))
        await until(lambda: batch.progress.taken == 3)
        await batch.aclose()
        await asyncio.wait((reading,))
    assert [entry.status for entry in Journal.read(path)] == [RequestStatus.RETRYABLE] * 3
    assert len(fake.requests) == 0


async def test_the_journal_waits_for_what_is_under_way_when_it_is_closed(
    fake: FakeOpenRouter, client: OpenRouter, path: Path
) -> None:
    fake.script(Fault.delay(0), Fault.delay(60))
    async with Journal(path, encryption_keys=KEY) as journal:
        async for _ in client.oauth.exchange_many(issue(fake, 2), journal=journal, concurrency=2):
            break
        await until(lambda: len(fake.redeemed_codes) == 2)
        fake.advance(60)
    assert {entry.key for entry in Journal.read(path, encryption_keys=KEY)} == {
        issued.key for issued in fake.issued_keys
    }


async def test_a_journal_that_is_closed_in_the_middle_of_writing_writes_all_of_it(path: Path) -> None:
    journal = await Journal(path).__aenter__()
    first = asyncio.ensure_future(journal.begin(request_digest("one")))
    await until(lambda: not lines_of(journal)._quiet.is_set() and lines_of(journal)._group is None)
    second = asyncio.ensure_future(journal.begin(request_digest("two")))
    await until(lambda: lines_of(journal)._group is not None)
    await journal.aclose(timeout=0)
    await asyncio.gather(first, second)
    assert len(lines(path)) == 2
    with pytest.raises(errors.JournalError, match="it is not open"):
        await journal.begin(request_digest("three"))


async def test_batches_that_share_a_journal_share_its_results(
    fake: FakeOpenRouter, client: OpenRouter, path: Path
) -> None:
    codes = issue(fake, 5)
    async with Journal(path, encryption_keys=KEY) as journal:
        one, other = await asyncio.gather(*(client.oauth.exchange_all(codes, journal=journal) for _ in range(2)))
    assert sorted(result.request.code for result in (*one, *other) if result.request) == sorted(codes)
    assert len(fake.issued_keys) == len(fake.requests) == 5
    assert [entry.status for entry in Journal.read(path)] == [RequestStatus.SUCCEEDED] * 5


async def test_a_request_that_another_batch_has_under_way_waits_for_its_result(
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
        await until(lambda: len(journal._ends) == 1)
        rest.append(asyncio.ensure_future(other.oauth.exchange_all([code], journal=journal)))
        rest.pop(0).cancel()
        gate.let(1)
        async with asyncio.timeout(10):
            assert [result.error for result in await first] == [None]
            assert await asyncio.gather(*rest) == [[], []]
    assert len(fake.requests) == 1
    assert [entry.key for entry in Journal.read(path, encryption_keys=KEY)] == [fake.issued_keys[0].key]


async def test_a_request_that_another_batch_left_is_sent(
    fake: FakeOpenRouter, client: OpenRouter, path: Path, journal: Journal
) -> None:
    gate = Gate()
    (code,) = issue(fake, 1)
    async with OpenRouter(None, base_url=fake.base_url, middlewares=[gate]) as stuck:
        leaving = stuck.oauth.exchange_many([code], journal=journal, concurrency=1)
        reading = asyncio.ensure_future(anext(leaving))
        await until(lambda: gate.waiting == 1)
        second = asyncio.ensure_future(client.oauth.exchange_all([code], journal=journal))
        await until(lambda: len(journal._ends) == 1)
        leaving._run._workers[0].cancel()
        async with asyncio.timeout(10):
            assert [result.key for result in await second] == [fake.issued_keys[0].key]
        await asyncio.wait((reading,))
        assert reading.cancelled()
    assert [entry.status for entry in Journal.read(path)] == [RequestStatus.SUCCEEDED]


async def test_what_comes_at_the_same_time_shares_an_fsync(
    fake: FakeOpenRouter, client: OpenRouter, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = 0
    sync = os.fsync

    def count(descriptor: int) -> None:
        nonlocal synced
        synced += 1
        sync(descriptor)

    async with Journal(path, encryption_keys=KEY) as journal:
        monkeypatch.setattr(os, "fsync", count)
        await asyncio.gather(*(journal.begin(request_digest(f"code-{number}")) for number in range(100)))
        await asyncio.gather(
            *(
                journal.record(request_digest(f"code-{number}"), ExchangeAuthCodeForAPIKeyResponse(key="k"))
                for number in range(100)
            )
        )
    assert synced <= 4
    assert len(lines(path)) == 200


async def test_a_line_that_is_torn_anywhere_is_cut_off(path: Path) -> None:
    async with Journal(path, store_plaintext_keys=True) as journal:
        await journal.begin(request_digest("one"))
        await journal.record(request_digest("one"), ExchangeAuthCodeForAPIKeyResponse(key="k", user_id="ü"))
    whole = path.read_bytes()
    header = whole.splitlines(keepends=True)[0]
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        complete = whole[: whole.rfind(b"\n", 0, length) + 1] or header
        expected = {1: None, 2: RequestStatus.UNCERTAIN}[complete.count(b"\n")]
        assert [entry.status for entry in Journal.read(path)] == ([] if expected is None else [expected])
        async with Journal(path, store_plaintext_keys=True) as journal:
            assert journal.status("one") is expected
            if length % 16 == 0:
                await journal.begin(request_digest("two"))
                await journal.aclose(timeout=0)
                assert path.read_bytes().startswith(complete)
                assert Journal.read(path)[-1].request == request_digest("two")
            else:
                assert path.read_bytes() == complete


@pytest.mark.parametrize("text", ["something else\n", "{}", '{"journal": "another"}\n', "\n"])
async def test_a_file_that_is_no_journal_is_refused_and_left_as_it_is(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(errors.JournalError, match="it is not a journal"):
        await Journal(path).open()
    with pytest.raises(errors.JournalError, match="it is not a journal"):
        Journal.read(path)
    assert path.read_text() == text


DAMAGED = ["nonsense", "7", "[]", "{}", '{"event": "result", "status": "odd"}', '"\\ud800"', "[" * 200_000]


@pytest.mark.parametrize("line", DAMAGED, ids=range(len(DAMAGED)))
async def test_a_journal_that_was_damaged_is_refused_with_the_number_of_the_line(path: Path, line: str) -> None:
    async with Journal(path) as journal:
        await journal.begin(request_digest("code"))
        await journal.aclose(timeout=0)
    header, first = path.read_text().splitlines()
    path.write_text(f"{header}\n{line}\n{first}\n")
    before = path.read_text()
    with pytest.raises(errors.JournalError, match="line 2 is not one of a journal"):
        await Journal(path).open()
    assert path.read_text() == before


async def test_a_journal_is_open_once(path: Path, journal: Journal) -> None:
    with pytest.raises(errors.JournalError, match="another process has it open"):
        await Journal(path).open()
    with pytest.raises(errors.JournalError, match="it is open already"):
        await journal.open()
    code = f"import asyncio; from openrouter_async import Journal; asyncio.run(Journal({str(path)!r}).open())"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert result.stderr.splitlines()[-1].endswith("JournalError: " + f"{path}: another process has it open")


@pytest.mark.parametrize("text", ["", "no journal\n"])
async def test_a_journal_whose_opening_is_given_up_is_not_locked(
    path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    path.write_text(text)
    locked, go_on = threading.Event(), threading.Event()
    change_mode = os.fchmod

    def wait(*arguments: int) -> None:
        locked.set()
        go_on.wait(10)
        change_mode(*arguments)

    monkeypatch.setattr(os, "fchmod", wait)
    opening = asyncio.ensure_future(Journal(path).open())
    await asyncio.to_thread(locked.wait, 10)
    opening.cancel()
    await asyncio.wait((opening,))
    assert opening.cancelled()
    with pytest.raises(errors.JournalError, match="another process has it open"):
        await Journal(path).open()
    go_on.set()
    path_is_free = Journal(path)
    async with asyncio.timeout(10):
        while True:
            try:
                await path_is_free.open()
            except errors.JournalError as refused:
                if "another process" not in str(refused):
                    assert text
                    break
            else:
                assert not text
                break
    await path_is_free.aclose()


async def test_a_journal_can_be_opened_again(fake: FakeOpenRouter, client: OpenRouter, path: Path) -> None:
    journal = Journal(path, encryption_keys=KEY)
    for _ in range(2):
        async with journal:
            await client.oauth.exchange_all(issue(fake, 1), journal=journal)
        await journal.aclose()
    assert len(Journal.read(path)) == 2


async def test_a_journal_that_is_not_open_is_refused(client: OpenRouter, path: Path) -> None:
    with pytest.raises(errors.RequestValidationError, match="journal: must be an open Journal"):
        client.oauth.exchange_many(["c"], journal=Journal(path, encryption_keys=KEY))
    with pytest.raises(errors.JournalError, match="it is not open"):
        await Journal(path).begin("0" * 32)


async def test_a_place_where_no_journal_can_be_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with pytest.raises(errors.JournalError, match="it cannot be opened: "):
        await Journal(tmp_path / "nowhere" / "keys.jsonl").open()
    with pytest.raises(errors.JournalError, match="it cannot be opened: "):
        await Journal(tmp_path).open()
    with pytest.raises(errors.JournalError, match="it cannot be read: "):
        Journal.read(tmp_path / "keys.jsonl")
    with pytest.raises(errors.JournalError, match="it is not a journal"):
        await Journal("/dev/zero").open()
    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(errors.JournalError, match="it cannot be used: No locks available"):
        await Journal(tmp_path / "keys.jsonl").open()


def fill_the_disk(journal: Journal) -> None:
    """From now on, the journal's file is one that never has room."""
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, lines_of(journal)._file.fileno())
    os.close(full)


async def test_when_an_intent_cannot_be_written_nothing_is_sent_and_the_batch_ends(
    fake: FakeOpenRouter, client: OpenRouter, journal: Journal
) -> None:
    fill_the_disk(journal)
    results: list[ExchangeResult] = []
    batch = client.oauth.exchange_many(iter(issue(fake, 100)), journal=journal, concurrency=2)
    with pytest.raises(errors.JournalError, match="it cannot be written: No space left on device"):
        await read(batch, results)
    assert 1 <= len(results) <= 2
    assert {result.outcome for result in results} == {Outcome.NOT_SENT}
    assert len(fake.requests) == 0


async def test_when_a_result_cannot_be_written_the_consumer_gets_it_all_the_same(
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
    assert [entry.status for entry in Journal.read(path)] == [RequestStatus.UNCERTAIN]


@pytest.mark.parametrize("failure", [OSError(errno.EIO, "Input/output error"), MemoryError()])
async def test_what_comes_while_a_line_cannot_be_made_to_last_is_refused_and_not_written(
    path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    syncing, go_on = threading.Event(), threading.Event()

    def fail(_: int) -> None:
        syncing.set()
        go_on.wait(10)
        raise failure

    monkeypatch.setattr(os, "fsync", fail)
    first = asyncio.ensure_future(journal.begin(request_digest("one")))
    await asyncio.to_thread(syncing.wait, 10)
    second = asyncio.ensure_future(journal.begin(request_digest("two")))
    await until(lambda: lines_of(journal)._group is not None)
    go_on.set()
    for beginning in (first, second, journal.begin(request_digest("three"))):
        async with asyncio.timeout(10):
            with pytest.raises(errors.JournalError, match=r"it cannot be written: (Input/output error|MemoryError)"):
                await beginning
    await journal.aclose()
    assert [line["request"] for line in lines(path)] == [request_digest("one")]
    assert journal.status("one") is journal.status("two") is None


async def test_a_journal_goes_on_when_all_tasks_are_cancelled(path: Path, journal: Journal) -> None:
    before = asyncio.all_tasks()
    beginning = asyncio.ensure_future(journal.begin(request_digest("one")))
    await until(lambda: not lines_of(journal)._quiet.is_set() and lines_of(journal)._group is None)
    for task in asyncio.all_tasks() - before:
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await beginning
    async with asyncio.timeout(10):
        assert await journal.begin(request_digest("two"))
        await journal.record(request_digest("two"), ExchangeAuthCodeForAPIKeyResponse(key="k"))
    assert [line["event"] for line in lines(path)] == ["intent", "intent", "result"]


async def test_a_result_whose_writing_is_given_up_is_written_all_the_same(path: Path, journal: Journal) -> None:
    digest = request_digest("one")
    await journal.begin(digest)
    recording = asyncio.ensure_future(journal.record(digest, ExchangeAuthCodeForAPIKeyResponse(key="k")))
    await until(lambda: lines_of(journal)._group is not None)
    recording.cancel()
    await asyncio.wait((recording,))
    assert recording.cancelled()
    # Its code is used up: another try would only be rejected.
    assert not await journal.begin(digest)
    await journal.aclose()
    assert [entry.key for entry in Journal.read(path, encryption_keys=KEY)] == ["k"]


async def test_a_journal_can_be_closed_by_several_at_once(path: Path) -> None:
    journal = await Journal(path).__aenter__()
    await journal.begin(request_digest("one"))
    await asyncio.gather(*(journal.aclose(timeout=0) for _ in range(3)))
    async with Journal(path) as again:
        assert again.status("one") is RequestStatus.UNCERTAIN


async def test_what_waits_for_another_batch_is_refused_when_the_journal_is_closed(path: Path) -> None:
    journal = await Journal(path).__aenter__()
    await journal.begin(request_digest("one"))
    waiting = asyncio.ensure_future(journal.begin(request_digest("one")))
    await until(lambda: len(journal._ends) == 1)
    await journal.aclose(timeout=0)
    async with asyncio.timeout(10):
        with pytest.raises(errors.JournalError, match="it is not open"):
            await waiting
    # A result that comes too late is refused, too.
    with pytest.raises(errors.JournalError, match="it is not open"):
        await journal.record(request_digest("one"), ExchangeAuthCodeForAPIKeyResponse(key="k"))


async def test_a_journal_is_not_written_by_a_fork_of_its_process(
    path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with pytest.raises(errors.JournalError, match="it was opened before a fork"):
        await journal.begin(request_digest("one"))
    assert lines(path) == []


def test_digests_and_identities_tell_requests_apart() -> None:
    def requests() -> Iterator[ExchangeAuthCodeForAPIKeyRequest]:
        for code in ("c", "1:c", "c:None", "\ud800"):
            yield ExchangeAuthCodeForAPIKeyRequest(code=code)
            yield ExchangeAuthCodeForAPIKeyRequest(code=code, code_challenge_method=None)
            yield ExchangeAuthCodeForAPIKeyRequest(code=code, code_challenge_method="S256")
            yield ExchangeAuthCodeForAPIKeyRequest(code=code, code_verifier="v" * 43)

    digests = [request_digest(request) for request in requests()]
    assert len(set(digests)) == len(digests) == len({identify(request) for request in requests()})
    assert request_digest("c") == digests[0]
    with pytest.raises(errors.RequestValidationError):
        request_digest("")


async def test_neither_a_journal_nor_what_it_says_shows_a_key(
    fake: FakeOpenRouter, client: OpenRouter, path: Path
) -> None:
    await run(client, path, [*issue(fake, 1), "bad"])
    assert repr(Journal(path, encryption_keys=KEY)) == f"<Journal {path} closed>"
    async with Journal(path, encryption_keys=KEY) as journal:
        assert repr(journal) == f"<Journal {path} open>"
    done, failed = Journal.read(path, encryption_keys=KEY)
    assert fake.issued_keys[0].key not in repr(done)
    assert "key=sk-or-v1-…" in repr(done)
    assert "key=None" in repr(failed)


async def test_what_was_sent_stays_in_doubt_when_the_loop_ends_while_a_closed_batch_waits_for_it(
    fake: FakeOpenRouter, client: OpenRouter, journal: Journal, path: Path
) -> None:
    fake.script(Fault.delay(60))
    (code,) = issue(fake, 1)
    batch = client.oauth.exchange_many([code], concurrency=1, journal=journal)
    reading = asyncio.ensure_future(anext(batch))
    await until(lambda: len(fake.redeemed_codes) == 1)
    reading.cancel()
    for _ in range(20):
        await asyncio.sleep(0)
    assert not reading.done()
    # As `asyncio.run` does with every task when Ctrl-C is pressed for the second time.
    for task in (*batch._run._workers, reading):
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    fake.advance(60)
    await client.aclose()
    async with asyncio.timeout(10):
        # There is nothing left to wait for.
        await journal.aclose(timeout=60)
    assert [line["event"] for line in lines(path)] == ["intent"]


async def test_a_worker_that_is_cancelled_while_its_intent_is_written_sends_nothing(
    fake: FakeOpenRouter, client: OpenRouter, path: Path
) -> None:
    codes = issue(fake, 1)
    async with Journal(path, encryption_keys=KEY) as journal:
        batch = client.oauth.exchange_many([*codes, *codes], journal=journal, concurrency=2)
        results: list[ExchangeResult] = []
        reading = asyncio.ensure_future(read(batch, results))
        await until(lambda: batch.progress.taken == 2)
        batch._run._workers[0].cancel()
        async with asyncio.timeout(10):
            with pytest.raises(asyncio.CancelledError):
                await reading
            await journal.aclose(timeout=60)
    assert [result.outcome for result in results] == [Outcome.NOT_SENT]
    assert len(fake.requests) == 0
    assert [line["event"] for line in lines(path)] == ["intent"]
    assert [result.key for result in await run(client, path, codes)] == [fake.issued_keys[0].key]


async def test_a_cancellation_that_comes_from_inside_an_exchange_leaves_a_doubt(
    fake: FakeOpenRouter, path: Path
) -> None:
    async def cancel(request: Request, call_next: Handler) -> Response:
        await call_next(request)
        raise asyncio.CancelledError

    codes = issue(fake, 2)
    async with OpenRouter(None, base_url=fake.base_url, middlewares=[cancel]) as client:
        results = await run(client, path, codes, concurrency=1)
    assert [result.outcome for result in results] == [Outcome.UNKNOWN] * 2
    assert [entry.status for entry in Journal.read(path)] == [RequestStatus.UNCERTAIN] * 2


FILLING = """
import asyncio, resource, sys
from openrouter_async import Journal, errors

async def main():
    async with Journal(sys.argv[1]) as journal:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1050, 1050))
        begun = 0
        try:
            while True:
                await asyncio.gather(*(journal.begin(f"{begun + number:032}") for number in range(3)))
                begun += 3
        except errors.JournalError as failure:
            print(begun, failure)
        await journal.aclose(timeout=0)

asyncio.run(main())
"""


# Coverage could not write its file either.
@pytest.mark.unmeasured
async def test_a_journal_that_reached_the_end_of_the_disk_in_the_middle_of_a_line_can_be_used_again(path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    filling = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", FILLING, str(path)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    begun, _, failure = filling.stdout.strip().partition(" ")
    assert failure == f"{path}: it cannot be written: File too large"
    assert path.stat().st_size == 1050
    assert not path.read_bytes().endswith(b"\n")
    async with Journal(path) as journal:
        # Of the last three, some lines may be there whole: nobody was told that they can be sent.
        assert int(begun) <= len(lines(path)) < int(begun) + 3
        assert await journal.begin(request_digest("one"))
        await journal.aclose(timeout=0)
    assert Journal.read(path)[-1].request == request_digest("one")
