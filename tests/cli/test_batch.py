from __future__ import annotations

import asyncio
import contextlib
import csv
import errno
import hashlib
import json
import os
import signal
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from openrouter_async import Journal, errors
from openrouter_async.batch._journal_db import JournalDB
from openrouter_async.cli import _batch_files as results
from openrouter_async.pkce import PKCEPair
from openrouter_async.redaction._masks import mask_key
from openrouter_async.testing import FakeOpenRouter, Fault
from tests.cli.conftest import Here
from tests.cli.support import Ended, Shell
from tests.cli.terminal import CTRL_C, Terminal
from tests.support import PATIENCE, STRESS


def write_lines(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def keys_in(path: Path) -> list[str]:
    return [line["key"] for line in read_lines(path) if line["key"]]


def issued_by(fake: FakeOpenRouter) -> list[str]:
    return [issued.key for issued in fake.issued_keys]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextlib.asynccontextmanager
async def counting(at: int, act: Callable[[], object]) -> AsyncIterator[FakeOpenRouter]:
    """Run a fake that calls a function during a request, given its number."""
    fake = FakeOpenRouter()
    count = 0

    @web.middleware
    async def middleware(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        nonlocal count
        count += 1
        response = await handler(request)
        if count == at:
            act()
        return response

    fake.app.middlewares.append(middleware)
    async with fake:
        yield fake


async def test_batch_row_gets_its_key_or_an_error(shell: Shell, fake: FakeOpenRouter) -> None:
    pair = PKCEPair.generate()
    with_verifier = fake.issue_code(code_challenge=pair.code_challenge, code_challenge_method="S256")
    bare, refused = fake.issue_code(), "auth_code_of_nobody"
    write_lines(
        shell.home / "codes.jsonl",
        [
            {"code": with_verifier, "code_verifier": pair.code_verifier, "code_challenge_method": "S256", "id": 7},
            bare,
            {"code": refused, "user_id": "mine"},
            {"code": bare},
            {"code_verifier": "x"},
            ["neither"],
        ],
    )
    with (shell.home / "codes.jsonl").open("a") as file:
        file.write("\nnot JSON")

    ended = await shell.run("batch", "codes.jsonl", "keys.jsonl", "--json", "--base-url", fake.base_url)
    assert ended.status == 3
    document = ended.document
    assert document.pop("elapsed") > 0
    assert document == {
        "completed": 2,
        "unknown": 0,
        "not_sent": 0,
        "refused": 1,
        "invalid": 3,
        "done_before": 0,
        "repeated": 1,
        "rescued": 0,
        "lost": 0,
        "left": 0,
        "interrupted": False,
        "error": None,
        "output": str(shell.home / "keys.jsonl"),
    }
    assert mode(shell.home / "keys.jsonl") == 0o600
    lines = {line["line"]: line for line in read_lines(shell.home / "keys.jsonl")}
    assert sorted(lines) == [1, 2, 3, 5, 6, 8]
    assert {lines[1]["key"], lines[2]["key"]} == set(issued_by(fake))
    assert (lines[1]["input"], lines[1]["outcome"]) == ({"id": 7}, "completed")
    assert lines[2]["user_id"] == fake.issued_keys[0].user_id
    assert (lines[3]["key"], lines[3]["outcome"], lines[3]["input"]) == (None, "refused", {"user_id": "mine"})
    assert "403" in lines[3]["error"]
    assert lines[5]["error"] == "code: must be a string that is not empty"
    assert lines[6]["error"] == "The line is neither a JSON object nor a code."
    assert lines[8]["error"] == "The line is not JSON."
    data = (shell.home / "keys.jsonl").read_bytes() + (shell.home / "keys.jsonl.journal").read_bytes()
    assert mode(shell.home / "keys.jsonl.journal") == 0o600
    for secret in (with_verifier, bare, pair.code_verifier):
        assert secret.encode() not in data


async def test_batch_after_ctrl_c_resumes_and_loses_no_code(shell: Shell) -> None:
    processes: list[asyncio.subprocess.Process] = []
    count = 2000 if STRESS else 200
    async with counting(count // 4, lambda: os.killpg(processes[0].pid, signal.SIGINT)) as fake:
        codes = [fake.issue_code() for _ in range(count)]
        write_lines(shell.home / "codes.jsonl", codes)
        command = ("batch", "codes.jsonl", "keys.jsonl", "--concurrency", "8", "--base-url", fake.base_url, "--json")
        processes.append(await shell.start(*command, start_new_session=True))
        async with asyncio.timeout(PATIENCE):
            out, err = await processes[0].communicate()
        assert (processes[0].returncode, err) == (130, b"")
        first = json.loads(out)
        assert first["interrupted"] is True
        assert 0 < first["completed"] < count
        assert first["left"] == count - first["completed"]
        # Every request that was sent was answered, and none was sent afterwards.
        assert sorted(keys_in(shell.home / "keys.jsonl")) == sorted(issued_by(fake))
        assert len(issued_by(fake)) == first["completed"]

        ended = await shell.run(*command)
        assert ended.status == 0
        second = ended.document
        assert (second["completed"], second["done_before"]) == (first["left"], first["completed"])
        assert fake.counters["exchange"] == fake.counters["exchange 200"] == count
        assert sorted(keys_in(shell.home / "keys.jsonl")) == sorted(issued_by(fake))
        print(
            f"\ninterrupted after {first['completed']} of {count}; {second['completed']} more; none lost or sent twice"
        )


async def test_batch_after_sigkill_resumes_and_names_unknown_outcomes(shell: Shell) -> None:
    processes: list[asyncio.subprocess.Process] = []
    count, concurrency = (2000, 32) if STRESS else (120, 8)
    async with counting(count // 3, lambda: processes[0].kill()) as fake:
        codes = [fake.issue_code() for _ in range(count)]
        write_lines(shell.home / "codes.jsonl", codes)
        command = ("batch", "codes.jsonl", "keys.jsonl", "--json", "--base-url", fake.base_url)
        processes.append(await shell.start(*command, "--concurrency", str(concurrency)))
        async with asyncio.timeout(PATIENCE):
            await processes[0].communicate()
        assert processes[0].returncode == -signal.SIGKILL
        # The last line may be torn, too.
        with (shell.home / "keys.jsonl").open("a") as file:
            file.write('{"line": 9, "outc')

        ended = await shell.run(*command)
        document = ended.document
        lines = read_lines(shell.home / "keys.jsonl")
        assert sorted(line["line"] for line in lines) == list(range(1, count + 1))
        assert len(issued_by(fake)) == count
        keys = set(keys_in(shell.home / "keys.jsonl"))
        lost = set(issued_by(fake)) - keys
        assert keys <= set(issued_by(fake))
        # A key can be missing only if it was on its way, and then its row says that it may exist.
        unknown = [line for line in lines if line["outcome"] == "unknown"]
        assert len(lost) == len(unknown) == document["unknown"] <= concurrency
        assert ended.status == (4 if unknown else 0)
        print(f"\nkilled after {document['done_before']} of {count}; {len(unknown)} unknown, and told so")


async def test_batch_reads_and_writes_csv(here: Here, home: Path, fake: FakeOpenRouter) -> None:
    codes = [fake.issue_code() for _ in range(3)]
    with (home / "codes.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "code", "code_verifier", "code_challenge_method"])
        writer.writerow(["a, b", codes[0], "", ""])
        writer.writerow(["two\nlines", codes[1], "", ""])
        writer.writerow(["too short"])
        writer.writerow(["€", "auth_code_of_nobody", "", ""])
    command = ("batch", "codes.csv", "keys.csv", "--base-url", fake.base_url)

    def read() -> dict[str, dict[str, str]]:
        with (home / "keys.csv").open(newline="") as file:
            return {row["input_name"]: row for row in csv.DictReader(file)}

    ended = await here(*command)
    assert ended.status == 3
    assert "2 codes gave a key, now in " in ended.out
    assert "2 codes gave none (1 refused, 1 invalid); the lines there say why." in ended.out
    assert mode(home / "keys.csv") == 0o600
    rows = read()
    assert {rows["a, b"]["key"], rows["two\nlines"]["key"]} == set(issued_by(fake))
    assert rows[""]["error"] == "The row has a different number of columns than the first one."
    assert rows["€"]["outcome"] == "refused"

    with (home / "codes.csv").open("a", newline="") as file:
        csv.writer(file).writerow(["new", codes[2], "", ""])
    with (home / "keys.csv").open("a") as file:
        file.write("9,completed,torn")
    ended = await here(*command)
    assert "1 code gave a key" in ended.out
    assert "3 codes had been exchanged before." in ended.out
    assert {row["key"] for row in read().values()} == {*issued_by(fake), ""}
    assert len(issued_by(fake)) == 3


async def test_batch_passing_failure_is_tried_again(here: Here, home: Path, fake: FakeOpenRouter) -> None:
    write_lines(home / "codes.jsonl", [fake.issue_code(), fake.issue_code(), "auth_code_of_nobody"])
    command = ("batch", "codes.jsonl", "keys.jsonl", "--concurrency", "1", "--json", "--base-url", fake.base_url)
    fake.queue_faults(Fault.status(429).times(4))
    ended = await here(*command)
    assert (ended.status, ended.document["completed"], ended.document["refused"]) == (3, 1, 2)
    ended = await here(*command)
    assert (ended.status, ended.document["completed"], ended.document["done_before"]) == (0, 1, 2)
    assert sorted(line["line"] for line in read_lines(home / "keys.jsonl")) == [1, 2, 3]
    assert sorted(keys_in(home / "keys.jsonl")) == sorted(issued_by(fake))
    assert len(issued_by(fake)) == 2
    # A code that was refused for good is not sent again.
    before = fake.counters["exchange"]
    ended = await here(*command)
    assert (ended.status, ended.document["done_before"]) == (0, 3)
    assert fake.counters["exchange"] == before


async def test_batch_with_unreachable_server_uses_no_code(here: Here, home: Path, fake: FakeOpenRouter) -> None:
    write_lines(home / "codes.jsonl", [fake.issue_code()])
    ended = await here("batch", "codes.jsonl", "keys.jsonl", "--base-url", "http://127.0.0.1:9/api/v1")
    assert ended.status == 5
    assert "1 code gave none (1 not sent)" in ended.out
    ended = await here("batch", "codes.jsonl", "keys.jsonl", "--base-url", fake.base_url)
    assert ended.status == 0
    assert keys_in(home / "keys.jsonl") == issued_by(fake)


async def test_batch_rate_bounds_the_exchanges(here: Here, home: Path, fake: FakeOpenRouter) -> None:
    write_lines(home / "codes.jsonl", [fake.issue_code() for _ in range(6)])
    started = time.monotonic()
    ended = await here("batch", "codes.jsonl", "keys.jsonl", "--rate", "10", "--base-url", fake.base_url)
    assert ended.status == 0
    assert time.monotonic() - started >= 0.5


async def test_batch_in_a_terminal_shows_progress(shell: Shell, fake: FakeOpenRouter) -> None:
    write_lines(shell.home / "codes.jsonl", [*(fake.issue_code() for _ in range(40)), "auth_code_of_nobody"])
    command = ("batch", "codes.jsonl", "keys.jsonl", "--rate", "80", "--base-url", fake.base_url)
    async with Terminal(shell, *command) as terminal:
        await terminal.shows(" left")
        assert await terminal.end() == 3
    assert "\x1b[" in terminal.text
    (bar,) = [line for line in terminal.screen if "41/41" in line]
    assert "/s 1 failed 0:00 left" in bar
    assert len(bar) <= 80
    assert "40 codes gave a key, now in" in "".join(terminal.screen)


async def test_batch_ctrl_c_in_a_terminal_says_what_it_waits_for_and_twice_leaves(
    shell: Shell, fake: FakeOpenRouter
) -> None:
    write_lines(shell.home / "codes.jsonl", [fake.issue_code() for _ in range(3)])
    fake.queue_faults(Fault.hang(after=True).times(3))
    async with Terminal(shell, "batch", "codes.jsonl", "keys.jsonl", "--base-url", fake.base_url) as terminal:
        await terminal.shows("0/3")
        while len(fake.issued_keys) < 3:  # noqa: ASYNC110 - it is another process that this waits for
            await asyncio.sleep(0.02)
        terminal.type(CTRL_C)
        await terminal.shows("After another Ctrl-C, their outcome is unknown.")
        terminal.type(CTRL_C)
        assert await terminal.end() == 130
    assert terminal.screen[-1] == "openrouter-async: Interrupted."
    ended = await shell.run("batch", "codes.jsonl", "keys.jsonl", "--base-url", fake.base_url)
    assert ended.status == 4
    assert "3 codes gave none (3 unknown); the lines there say why." in ended.out


async def test_batch_handles_sigterm_like_ctrl_c(shell: Shell, fake: FakeOpenRouter) -> None:
    write_lines(shell.home / "codes.jsonl", [fake.issue_code()])
    fake.queue_faults(Fault.hang(after=True))
    process = await shell.start("batch", "codes.jsonl", "keys.jsonl", "--base-url", fake.base_url)
    while not fake.issued_keys:  # noqa: ASYNC110 - it is another process that this waits for
        await asyncio.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE):
        await process.stderr.readuntil(b"After another Ctrl-C, their outcome is unknown.\n")
        process.send_signal(signal.SIGTERM)
        _, err = await process.communicate()
    assert process.returncode == 130
    assert err.endswith(b"openrouter-async: Interrupted.\n")
    assert b"never retrieved" not in err
    assert b"Traceback" not in err


@pytest.mark.unmeasured
async def test_batch_without_a_terminal_has_no_bar_and_no_colour(shell: Shell, fake: FakeOpenRouter) -> None:
    write_lines(shell.home / "codes.jsonl", [fake.issue_code()])
    ended = await shell.run("batch", "codes.jsonl", "keys.jsonl", "--base-url", fake.base_url)
    assert (ended.status, ended.err) == (0, "")
    assert ended.out == f"1 code gave a key, now in {shell.home / 'keys.jsonl'}.\n"


@pytest.mark.unmeasured
async def test_batch_with_no_color_has_no_colour(shell: Shell, fake: FakeOpenRouter) -> None:
    write_lines(shell.home / "codes.jsonl", [fake.issue_code()])
    command = ("batch", "codes.jsonl", "keys.jsonl", "--base-url", fake.base_url)
    async with Terminal(shell, *command, env={"NO_COLOR": "1"}) as terminal:
        assert await terminal.end() == 0
    assert "1/1" in terminal.text
    assert "\x1b[3" not in terminal.text


async def test_batch_output_with_wrong_mode_is_replaced(here: Here, home: Path, fake: FakeOpenRouter) -> None:
    write_lines(home / "codes.jsonl", [fake.issue_code()])
    (home / "keys.jsonl").touch(0o666)
    (home / "keys.jsonl").chmod(0o666)
    inode = (home / "keys.jsonl").stat().st_ino
    assert (await here("batch", "codes.jsonl", "keys.jsonl", "--base-url", fake.base_url)).status == 0
    assert mode(home / "keys.jsonl") == 0o600
    assert (home / "keys.jsonl").stat().st_ino != inode
    assert keys_in(home / "keys.jsonl") == issued_by(fake)


REFUSALS = [
    (["codes.jsonl", "codes.jsonl"], "already exists, and is not the output of a batch"),
    (["codes.jsonl", "notes.csv"], "already exists, and is not the output of a batch"),
    (["codes.jsonl", "nested.jsonl"], "already exists, and is not the output of a batch"),
    (["codes.jsonl", "link"], "The keys cannot be kept: "),
    (["codes.jsonl", "linked"], "The journal cannot be kept: "),
    (["missing.jsonl", "keys.jsonl"], "missing.jsonl cannot be read: No such file or directory."),
    (["notes.csv", "keys.jsonl"], "one of them must be code"),
    (["codes.jsonl", "keys.jsonl", "--concurrency", "0"], "--concurrency must be an integer of at least 1."),
    (["--bogus", "keys.jsonl"], "There is no option --bogus. If it is a file, write ./--bogus."),
    (["codes.jsonl", "keys.jsonl", "--rate", "0"], "--rate must be more than 0."),
]


@pytest.mark.parametrize(("arguments", "complaint"), REFUSALS)
async def test_batch_impossible_arguments_are_refused_unsent(
    here: Here, home: Path, fake: FakeOpenRouter, arguments: list[str], complaint: str
) -> None:
    write_lines(home / "codes.jsonl", [{"code": fake.issue_code()}])
    (home / "notes.csv").write_text("a,b\n1,2\n")
    (home / "nested.jsonl").write_text("[" * 200_000 + "\n")
    (home / "link").symlink_to("target")
    (home / "linked.journal").symlink_to("target")
    before = {name: (home / name).read_bytes() for name in ("codes.jsonl", "notes.csv")}
    ended = await here("batch", *arguments, "--base-url", fake.base_url)
    assert ended.status == 2
    assert complaint in ended.complaint
    assert list(fake.requests) == []
    assert before == {name: (home / name).read_bytes() for name in before}
    assert not (home / "target").exists()


async def test_batch_output_that_went_missing_is_written_from_the_journal(
    here: Here, home: Path, fake: FakeOpenRouter
) -> None:
    write_lines(home / "codes.jsonl", [fake.issue_code(), "auth_code_of_nobody"])
    command = ("batch", "codes.jsonl", "keys.jsonl", "--base-url", fake.base_url)
    assert (await here(*command)).status == 3
    lines = read_lines(home / "keys.jsonl")
    (home / "keys.jsonl").unlink()
    assert (await here(*command)).status == 3
    again = read_lines(home / "keys.jsonl")
    assert [line["key"] for line in again] == [line["key"] for line in lines] == [*issued_by(fake), None]
    assert again[0] == lines[0]
    assert again[1]["error"] == "An earlier run was refused."
    assert fake.counters["exchange"] == 2


async def test_batch_output_in_use_by_another_batch_is_refused(here: Here, home: Path, fake: FakeOpenRouter) -> None:
    write_lines(home / "codes.jsonl", [fake.issue_code()])
    async with Journal(home / "keys.jsonl.journal"):
        ended = await here("batch", "codes.jsonl", "keys.jsonl", "--base-url", fake.base_url)
    assert ended.status == 1
    assert "another process has it open" in ended.complaint
    assert list(fake.requests) == []


def fill_the_disk(monkeypatch: pytest.MonkeyPatch, *, output: bool, journal: bool, at: int) -> None:
    """Let the writes of keys fail, from a number of rows on."""
    append, write = results.append, JournalDB.write
    lines = keys = 0

    def append_line(file: Any, line: bytes) -> None:
        nonlocal lines
        lines += 1
        if lines >= at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(file, line)

    def write_rows(db: JournalDB, rows: list[dict[str, Any]]) -> None:
        nonlocal keys
        keys += sum(row["key"] is not None for row in rows)
        if keys >= at:
            raise errors.JournalError("the disk is full")
        write(db, rows)

    if output:
        monkeypatch.setattr(results, "append", append_line)
    if journal:
        monkeypatch.setattr(JournalDB, "write", write_rows)


async def run_on_a_full_disk(here: Here, home: Path, fake: FakeOpenRouter) -> Ended:
    write_lines(home / "codes.jsonl", [fake.issue_code() for _ in range(20)])
    return await here("batch", "codes.jsonl", "keys.jsonl", "--concurrency", "2", "--base-url", fake.base_url)


async def test_batch_whose_output_has_no_room_keeps_keys_in_the_journal_for_the_next_run(
    here: Here, home: Path, fake: FakeOpenRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_the_disk(monkeypatch, output=True, journal=False, at=3)
    ended = await run_on_a_full_disk(here, home, fake)
    assert ended.status == 1
    assert "The output cannot be written: No space left on device." in ended.out
    assert "left. Run the same command again to exchange them." in ended.out
    assert len(issued_by(fake)) < 20
    monkeypatch.undo()
    monkeypatch.chdir(home)
    command = ("batch", str(home / "codes.jsonl"), str(home / "keys.jsonl"), "--base-url", fake.base_url)
    assert (await here(*command)).status == 0
    assert sorted(keys_in(home / "keys.jsonl")) == sorted(issued_by(fake))
    assert len(issued_by(fake)) == 20


async def test_batch_whose_journal_has_no_room_writes_keys_to_the_output(
    here: Here, home: Path, fake: FakeOpenRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_the_disk(monkeypatch, output=False, journal=True, at=3)
    ended = await run_on_a_full_disk(here, home, fake)
    assert ended.status == 1
    assert "the disk is full" in ended.out.lower()
    assert sorted(keys_in(home / "keys.jsonl")) == sorted(issued_by(fake))
    assert len(issued_by(fake)) < 20


async def test_batch_whose_files_have_no_room_rescues_keys(
    here: Here, home: Path, fake: FakeOpenRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_the_disk(monkeypatch, output=True, journal=True, at=3)
    ended = await run_on_a_full_disk(here, home, fake)
    assert ended.status == 1
    data = home / "data" / "openrouter-async"
    rescued = [json.loads((data / name).read_text())["key"] for name in os.listdir(data)]
    assert rescued
    assert sorted({*rescued, *keys_in(home / "keys.jsonl")}) == sorted(issued_by(fake))


async def test_batch_key_that_no_file_takes_is_reported(
    here: Here, home: Path, fake: FakeOpenRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "data").write_text("in the way")
    fill_the_disk(monkeypatch, output=True, journal=True, at=3)
    ended = await run_on_a_full_disk(here, home, fake)
    assert ended.status == 1
    assert "gave a key that could not be stored anywhere, and is lost." in ended.out


async def test_batch_whose_output_has_no_room_for_errors_ends(
    here: Here, home: Path, fake: FakeOpenRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_the_disk(monkeypatch, output=True, journal=False, at=1)
    write_lines(home / "codes.jsonl", [f"auth_code_of_nobody_{number}" for number in range(40)])
    ended = await here("batch", "codes.jsonl", "keys.jsonl", "--concurrency", "2", "--base-url", fake.base_url)
    assert ended.status == 1
    assert fake.counters["exchange"] < 40


@pytest.mark.unmeasured
async def test_batch_after_hangup_drains_and_loses_no_key(shell: Shell, fake: FakeOpenRouter) -> None:
    write_lines(shell.home / "codes.jsonl", [fake.issue_code() for _ in range(9)])
    fake.queue_faults(Fault.delay(60).times(2))
    command = ("batch", "codes.jsonl", "keys.jsonl", "--concurrency", "2", "--base-url", fake.base_url)
    process = await shell.start(*command)
    await until_issued(fake, 2)
    process.send_signal(signal.SIGHUP)
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE):
        await process.stderr.readuntil(b"Waiting for sent exchanges.")
        fake.advance(60)
        await process.communicate()
    assert process.returncode == 130
    assert sorted(keys_in(shell.home / "keys.jsonl")) == sorted(issued_by(fake))
    assert len(issued_by(fake)) == 2


async def test_batch_under_nohup_survives_a_hangup(shell: Shell, fake: FakeOpenRouter) -> None:
    write_lines(shell.home / "codes.jsonl", [fake.issue_code() for _ in range(3)])
    fake.queue_faults(Fault.delay(60).times(2))
    command = ("batch", "codes.jsonl", "keys.jsonl", "--concurrency", "2", "--base-url", fake.base_url)
    process = await shell.start(*command, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    await until_issued(fake, 2)
    process.send_signal(signal.SIGHUP)
    fake.advance(60)
    async with asyncio.timeout(PATIENCE):
        await process.communicate()
    assert process.returncode == 0
    assert len(keys_in(shell.home / "keys.jsonl")) == 3


async def test_batch_from_a_pipe_sends_each_row_at_once_and_handles_signals(shell: Shell, fake: FakeOpenRouter) -> None:
    process = await shell.start("batch", "-", "keys.jsonl", "--base-url", fake.base_url, stdin=asyncio.subprocess.PIPE)
    assert process.stdin is not None
    for count in (1, 2):
        process.stdin.write(json.dumps(fake.issue_code()).encode() + b"\n")
        await until_issued(fake, count)
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(PATIENCE):
        await process.wait()
    assert process.returncode == 130
    assert sorted(keys_in(shell.home / "keys.jsonl")) == sorted(issued_by(fake))


async def until_issued(fake: FakeOpenRouter, count: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while len(fake.issued_keys) < count:  # noqa: ASYNC110 - it is another process that this waits for
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    "header",
    [
        "code, code_verifier ,CODE_CHALLENGE_METHOD",
        "\ufeffCode,Code_Verifier,code_challenge_method",
        "code;code_verifier;code_challenge_method",
        "code\tcode_verifier\tcode_challenge_method",
    ],
)
async def test_batch_csv_with_odd_header_and_padded_cells_is_read(
    here: Here, home: Path, fake: FakeOpenRouter, header: str
) -> None:
    pair = PKCEPair.generate()
    code = fake.issue_code(code_challenge=pair.code_challenge, code_challenge_method="S256")
    delimiter = next(character for character in ",;\t" if character in header)
    cells = delimiter.join((f" {code} ", f"{pair.code_verifier} ", "S256"))
    (home / "codes.csv").write_text(f"{header}\n{cells}\n{delimiter * 2}\n\n")
    ended = await here("batch", "codes.csv", "keys.jsonl", "--base-url", fake.base_url)
    assert ended.status == 0
    assert keys_in(home / "keys.jsonl") == issued_by(fake)


async def test_batch_json_with_blanks_around_codes_is_read(here: Here, home: Path, fake: FakeOpenRouter) -> None:
    write_lines(home / "codes.jsonl", [f" {fake.issue_code()}\n", {" Code": f"{fake.issue_code()} "}])
    ended = await here("batch", "codes.jsonl", "keys.jsonl", "--base-url", fake.base_url)
    assert ended.status == 0
    assert sorted(keys_in(home / "keys.jsonl")) == sorted(issued_by(fake))


UNCLOSED = "A quote that is opened here is not closed, or a field is too long."
CSV_ROWS = {
    "wrong byte": (b"%s,\xff\n", "The row is not UTF-8."),
    "long field": (
        b"%s," + b"x" * 200_000 + b"\n",
        "A quote that is opened here is not closed, or a field is too long.",
    ),
    "open quote": (b'%s,"x\n', UNCLOSED),
    "short": (b"%s\n", "The row has a different number of columns than the first one."),
}


@pytest.mark.parametrize(("row", "problem"), CSV_ROWS.values(), ids=CSV_ROWS)
async def test_batch_csv_wrong_row_is_reported_with_its_line(
    here: Here, home: Path, fake: FakeOpenRouter, row: bytes, problem: str
) -> None:
    good, bad = (fake.issue_code().encode() for _ in range(2))
    (home / "codes.csv").write_bytes(b"code,note\n" + good + b",x\n" + row.replace(b"%s", bad))
    ended = await here("batch", "codes.csv", "keys.jsonl", "--base-url", fake.base_url)
    assert ended.status == 2
    lines = {line["line"]: line for line in read_lines(home / "keys.jsonl")}
    assert lines[2]["key"] == issued_by(fake)[0]
    assert (lines[3]["outcome"], lines[3]["error"]) == ("not_sent", problem)


@pytest.mark.parametrize("name", ["codes.csv", "codes.jsonl"])
@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        (("code", "codeVerifier"), "The column codeVerifier is unknown. Is it the verifier? Name it code_verifier"),
        (("code", "code_challenge"), "The column code_challenge is unknown. Is it the verifier?"),
        (("code", "Code"), "The column code occurs twice."),
    ],
)
async def test_batch_column_that_may_be_the_verifier_is_refused_unsent(
    here: Here, home: Path, fake: FakeOpenRouter, name: str, columns: tuple[str, str], problem: str
) -> None:
    values = (fake.issue_code(), "v" * 43)
    if name.endswith(".csv"):
        (home / name).write_text(f"{','.join(columns)}\n{','.join(values)}\n")
    else:
        write_lines(home / name, [dict(zip(columns, values, strict=True))])
    ended = await here("batch", name, "keys.jsonl", "--base-url", fake.base_url)
    assert ended.status == 2
    told = ended.err if name.endswith(".csv") else read_lines(home / "keys.jsonl")[0]["error"]
    assert problem in told
    assert list(fake.requests) == []


@pytest.mark.parametrize("name", ["codes.csv", "codes.jsonl"])
async def test_batch_input_in_utf_16_is_refused_by_name(
    here: Here, home: Path, fake: FakeOpenRouter, name: str
) -> None:
    (home / name).write_text("code\n", encoding="utf-16")
    ended = await here("batch", name, "keys.jsonl", "--base-url", fake.base_url)
    assert ended.status == 2
    assert f"{name} cannot be read: it is UTF-16. Save it as UTF-8." in ended.complaint


async def test_journal_command_shows_entries_with_masked_keys(here: Here, home: Path, fake: FakeOpenRouter) -> None:
    write_lines(home / "codes.jsonl", [fake.issue_code(), "auth_code_of_nobody"])
    await here("batch", "codes.jsonl", "keys.jsonl", "--concurrency", "1", "--base-url", fake.base_url)
    ended = await here("journal", "keys.jsonl.journal")
    assert ended.status == 0
    done, refused = ended.out.splitlines()
    (issued,) = fake.issued_keys
    assert done.startswith("succeeded ")
    assert done.endswith(f"{issued.user_id} {mask_key(issued.key)}")
    assert refused.startswith("rejected ")
    assert "403" in refused
    ended = await here("journal", "keys.jsonl.journal", "--json")
    documents = [json.loads(line) for line in ended.out.splitlines()]
    assert [document["status"] for document in documents] == ["succeeded", "rejected"]
    assert documents[0]["key"] == mask_key(issued.key)
    assert documents[0]["key_hash"] == hashlib.sha256(issued.key.encode()).hexdigest()


@pytest.mark.parametrize(
    ("name", "complaint"), [("codes.jsonl", "it is not a journal"), ("none", "it cannot be opened")]
)
async def test_journal_command_refuses_a_file_that_is_not_a_journal(
    here: Here, home: Path, name: str, complaint: str
) -> None:
    write_lines(home / "codes.jsonl", ["x"])
    ended = await here("journal", name)
    assert ended.status == 1
    assert complaint in ended.complaint
