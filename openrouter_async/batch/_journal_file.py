"""The file of a journal: how it is opened, made to last, and read."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import attrs

from openrouter_async.batch._status import RequestStatus
from openrouter_async.errors import JournalError
from openrouter_async.redaction import mask_key

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from openrouter_async.encryption import Encryptor, Keys

_HEADER: Final = b'{"journal": "openrouter_async", "version": 1}\n'


def _show_key(key: str | None) -> str:
    return "None" if key is None else mask_key(key)


@attrs.frozen(kw_only=True)
class JournalEntry:
    """What a journal says of one request.

    Attributes:
        request: The `request_digest` of the request.
        status: What is known of it.
        at: When that was written.
        key: The user's API key; None when there is none, or the journal does not hold it in a form that can be read.
        key_hash: The SHA-256 of the key in lowercase hex, by which OpenRouter's pages name it; None without a key.
        user_id: The user's id; None when OpenRouter did not tell it.
        error: How the last try failed; None when it did not, or its result is not known.
    """

    request: str
    status: RequestStatus
    at: datetime
    key: str | None = attrs.field(default=None, repr=_show_key)
    key_hash: str | None = None
    user_id: str | None = None
    error: str | None = None


def to_encryptor(keys: Keys | None) -> Encryptor | None:
    """What seals and opens with these keys; None without keys."""
    if keys is None:
        return None
    from openrouter_async.encryption import Encryptor

    return Encryptor(keys)


def open_journal(path: Path) -> tuple[IO[bytes], dict[str, RequestStatus]]:
    """Open and lock a journal, or make one; and what it says."""
    if sys.platform == "win32":  # pragma: no cover
        raise JournalError(f"{path}: a journal needs flock, which this system does not have")
    try:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600), "a+b")
    except OSError as failure:
        raise JournalError(f"{path}: it cannot be opened: {reason_of(failure)}") from None
    with ExitStack() as stack:
        stack.callback(file.close)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.fchmod(file.fileno(), 0o600)
            statuses = _take_over(file, path)
        except BlockingIOError:
            raise JournalError(f"{path}: another process has it open") from None
        except OSError as failure:
            raise JournalError(f"{path}: it cannot be used: {reason_of(failure)}") from None
        stack.pop_all()
        return file, statuses


def give_up(opening: asyncio.Future[tuple[IO[bytes], dict[str, RequestStatus]]]) -> None:
    """Close what `open_journal` gave when nobody waits for it any more."""
    if opening.exception() is None:
        opening.result()[0].close()


def _take_over(file: IO[bytes], path: Path) -> dict[str, RequestStatus]:
    """Read a journal, and cut off what a process that died left behind."""
    statuses: dict[str, RequestStatus] = {}
    file.seek(0)
    end = 0
    for line_end, fields in read_lines(file, path):
        end = line_end
        statuses[fields["request"]] = fields["status"]
    file.truncate(end)
    if end == 0:
        append(file, _HEADER)
        # A new file is in its folder for good only when the folder is.
        folder = os.open(path.absolute().parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return statuses


def append(file: IO[bytes], lines: bytes) -> None:
    """Write to the end of a file, and to the disk."""
    file.write(lines)
    file.flush()
    os.fsync(file.fileno())


@attrs.define(eq=False)
class _PendingWrite:
    """Lines that are written, and made to last, together."""

    lines: list[bytes] = attrs.field(factory=list[bytes])
    written: asyncio.Event = attrs.field(factory=asyncio.Event)
    failure: str | None = None


class Lines:
    """Appends lines to the file of a journal; those that come at the same time share one ``fsync``."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file = file
        self._path = path
        self._process = os.getpid()
        self._group: _PendingWrite | None = None
        # Whether nothing is being written.
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._refusal: str | None = None

    async def append(self, line: bytes) -> None:
        """Write a line, and wait until it is on the disk. When this is cancelled, it is written all the same.

        Raises:
            JournalError: It cannot be written, or the file is closed.
        """
        if os.getpid() != self._process:
            # The lock goes over a fork, and does not keep the two apart.
            raise JournalError(f"{self._path}: it was opened before a fork")
        if self._refusal is not None:
            raise JournalError(f"{self._path}: {self._refusal}")
        group = self._group
        if group is None:
            group = self._group = _PendingWrite()
            if self._quiet.is_set():
                self._quiet.clear()
                # Not at once: more may come in this pass of the loop.
                asyncio.get_running_loop().call_soon(self._write)
        group.lines.append(line)
        await group.written.wait()
        if group.failure is not None:
            raise JournalError(f"{self._path}: {group.failure}")

    async def aclose(self) -> None:
        """Take no more, wait for what is being written, and give up the lock."""
        self._refusal = "it is closed"
        await self._quiet.wait()
        with suppress(OSError):
            # What could not be written before cannot be now.
            self._file.close()

    def _write(self) -> None:
        """Have a thread write what has come; not a task, which somebody might cancel in the middle of it."""
        group, self._group = self._group, None
        if group is None:
            self._quiet.set()
            return
        writing = asyncio.get_running_loop().run_in_executor(None, append, self._file, b"".join(group.lines))
        writing.add_done_callback(lambda writing: self._end(group, writing.exception()))

    def _end(self, group: _PendingWrite, failure: BaseException | None) -> None:
        if failure is not None:
            # A part of it may be there: whatever came after would be in the middle of a line.
            self._refusal = f"it cannot be written: {reason_of(failure)}"
            for lost in filter(None, (group, self._group)):
                lost.failure = self._refusal
                lost.written.set()
            self._group = None
        group.written.set()
        self._write()


def read_lines(file: IO[bytes], path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The lines of a journal, each with the place where it ends; a torn one at the end is left out."""
    header = file.readline(len(_HEADER))
    if header != _HEADER:
        if not _HEADER.startswith(header):
            raise JournalError(f"{path}: it is not a journal")
        return
    end = len(header)
    for number, line in enumerate(file, 2):
        if not line.endswith(b"\n"):
            return
        end += len(line)
        try:
            fields = json.loads(line)
            is_result = fields["event"] == "result"
            fields["status"] = RequestStatus(fields["status"]) if is_result else RequestStatus.UNCERTAIN
            fields["at"] = datetime.fromisoformat(fields["at"])
            fields["request"] = str(fields["request"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise JournalError(f"{path}: line {number} is not one of a journal") from None
        yield end, fields


def to_entry(fields: dict[str, Any], encryptor: Encryptor | None, path: Path) -> JournalEntry:
    """What a line of a journal says."""
    key = fields.get("key")
    if encryptor is not None and "sealed_key" in fields:
        from openrouter_async.encryption import DecryptionError

        try:
            key = encryptor.decrypt(context_of(fields["request"]), fields["sealed_key"].encode()).decode()
        except DecryptionError:
            raise JournalError(f"{path}: a key in it was not sealed with the given ones") from None
    return JournalEntry(
        request=fields["request"],
        status=fields["status"],
        at=fields["at"],
        key=key,
        key_hash=fields.get("key_hash"),
        user_id=fields.get("user_id"),
        error=fields.get("error"),
    )


def context_of(digest: str) -> str:
    """What the key of a request is sealed for."""
    return f"journal {digest}"


def reason_of(failure: BaseException) -> str:
    """Why the system refused."""
    return (failure.strerror if isinstance(failure, OSError) else None) or type(failure).__name__
