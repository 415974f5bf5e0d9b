"""The SQLite file of a journal. All calls block, so they run in the journal's own thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import attrs

from openrouter_async.batch._journal_entry import JournalEntry, unseal
from openrouter_async.batch._journal_file import check_file, prepare_file
from openrouter_async.batch._status import RequestStatus
from openrouter_async.errors import JournalError

if TYPE_CHECKING:
    from openrouter_async._values.encryptor import Encryptor

SCHEMA_VERSION: Final = 1
APPLICATION_ID: Final = 0x4F524A4C
"""``ORJL``, the application id in SQLite's header: https://sqlite.org/pragma.html#pragma_application_id."""

CHUNK_SIZE: Final = 1000
"""The number of entries that are read at once."""

_SCHEMA: Final = f"""
CREATE TABLE entries (
    id INTEGER PRIMARY KEY,
    request TEXT NOT NULL UNIQUE,
    status TEXT NOT NULL,
    at REAL NOT NULL,
    key TEXT, user_id TEXT, sealed BLOB, key_hash TEXT, error TEXT
) STRICT;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""
_COLUMNS: Final = ("request", "status", "at", "key", "user_id", "sealed", "key_hash", "error")
_INSERT: Final = (
    f"INSERT INTO entries ({', '.join(_COLUMNS)}) VALUES ({', '.join(':' + name for name in _COLUMNS)}) "  # noqa: S608
    f"ON CONFLICT (request) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _COLUMNS[1:])}"
)
_SELECT: Final = f"SELECT id, {', '.join(_COLUMNS)} FROM entries"  # noqa: S608

_REASONS: Final = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_READONLY: "it is read-only",
    sqlite3.SQLITE_BUSY: "another process has it open",
    sqlite3.SQLITE_LOCKED: "another process has it open",
    sqlite3.SQLITE_NOTADB: "it is not a journal",
    sqlite3.SQLITE_CORRUPT: "it is damaged",
    sqlite3.SQLITE_IOERR: "the disk failed to read or write it",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened",
    sqlite3.SQLITE_PERM: "it cannot be opened",
}


@attrs.define(eq=False)
class JournalDB:
    """A journal's file, locked for this process until it is closed."""

    path: Path
    _connection: sqlite3.Connection

    @classmethod
    def open(cls, path: Path, *, is_sealed: bool) -> tuple[Self, dict[str, RequestStatus]]:
        """Open and lock a journal, and create it if there is none.

        Args:
            path: The file.
            is_sealed: Whether rows with a plaintext key or user are refused.

        Returns:
            The journal, and the status of each request in it.

        Raises:
            JournalError: The file is locked or unsafe, is not a journal, or cannot be used.
        """
        with _explained(path):
            prepare_file(path)
            made = cls(path, _connect(path, "rw"))
            try:
                made._lock()
                return made, made._load(is_sealed=is_sealed)
            except BaseException:
                made._connection.close()
                raise

    @classmethod
    def open_for_reading(cls, path: Path) -> Self:
        """Open an existing journal without locking out other readers.

        Raises:
            JournalError: As for `open`.
        """
        with _explained(path):
            check_file(path)
            try:
                return cls._open_checked(path, "rw")
            except sqlite3.OperationalError as failure:
                # WAL needs files beside the database. If they cannot be created and none is left, the database itself
                # is complete.
                is_busy = (failure.sqlite_errorcode & 0xFF) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
                if is_busy or Path(f"{path}-wal").exists():
                    raise
                return cls._open_checked(path, "ro&immutable=1")

    @classmethod
    def _open_checked(cls, path: Path, mode: str) -> Self:
        made = cls(path, _connect(path, mode))
        try:
            made._read_version()
        except BaseException:
            made._connection.close()
            raise
        return made

    def close(self) -> None:
        """Close the file and release its lock."""
        with _explained(self.path):
            self._connection.close()

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows in one transaction, which is on the disk when this returns.

        Raises:
            JournalError: Nothing of it was written.
        """
        with _explained(self.path), self._connection as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(_INSERT, rows)

    def read_chunk(self, after: int, encryptor: Encryptor | None) -> tuple[list[JournalEntry], int]:
        """Read the entries that follow a position.

        Returns:
            At most `CHUNK_SIZE` entries, and the position of the last one.
        """
        with _explained(self.path):
            query = f"{_SELECT} WHERE id > ? ORDER BY id LIMIT {CHUNK_SIZE}"
            rows = self._connection.execute(query, (after,)).fetchall()
            return [self._to_entry(row, encryptor) for row in rows], rows[-1]["id"] if rows else after

    def read(self, request: str, encryptor: Encryptor | None) -> JournalEntry | None:
        """Read the entry of one request."""
        with _explained(self.path):
            row = self._connection.execute(f"{_SELECT} WHERE request = ?", (request,)).fetchone()
            return None if row is None else self._to_entry(row, encryptor)

    def _lock(self) -> None:
        connection = self._connection
        # In this mode a lock is kept until the connection is closed: https://sqlite.org/pragma.html#pragma_locking_mode
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        is_new = not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        connection.execute("COMMIT")
        if not is_new or self._read_pragma("application_id"):
            self._read_version()
        if self._connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            raise JournalError(f"{self.path}: its file system has no support for SQLite's write-ahead log")
        connection.execute("PRAGMA synchronous = FULL")
        if is_new:
            connection.executescript(f"BEGIN EXCLUSIVE; {_SCHEMA} COMMIT;")

    def _read_version(self) -> None:
        if self._read_pragma("application_id") != APPLICATION_ID:
            raise JournalError(f"{self.path}: it is not a journal")
        version = self._read_pragma("user_version")
        if version > SCHEMA_VERSION:
            raise JournalError(
                f"{self.path}: it has schema version {version}, and this openrouter_async knows none above "
                f"{SCHEMA_VERSION}: update it"
            )

    def _read_pragma(self, name: str) -> int:
        value: int = self._connection.execute(f"PRAGMA {name}").fetchone()[0]
        return value

    def _load(self, *, is_sealed: bool) -> dict[str, RequestStatus]:
        if (
            is_sealed
            and self._connection.execute(
                "SELECT 1 FROM entries WHERE key IS NOT NULL OR user_id IS NOT NULL LIMIT 1"
            ).fetchone()
        ):
            raise JournalError(f"{self.path}: {NOT_SEALED}")
        by_value = {status.value: status for status in RequestStatus}
        rows = self._connection.execute("SELECT request, status FROM entries")
        try:
            return {request: by_value[status] for request, status in rows}
        except KeyError:
            raise JournalError(f"{self.path}: it is damaged: a status in it is unknown") from None

    def _to_entry(self, row: sqlite3.Row, encryptor: Encryptor | None) -> JournalEntry:
        key, user_id = row["key"], row["user_id"]
        if encryptor is not None:
            if key is not None or user_id is not None:
                raise JournalError(f"{self.path}: {NOT_SEALED}")
            if row["sealed"] is not None:
                key, user_id = unseal(encryptor, row["request"], row["sealed"], self.path)
        try:
            return JournalEntry(
                request=row["request"],
                status=RequestStatus(row["status"]),
                at=datetime.fromtimestamp(row["at"], UTC),
                key=key,
                key_hash=row["key_hash"],
                user_id=user_id,
                error=row["error"],
            )
        except (ValueError, OverflowError, OSError):
            raise JournalError(f"{self.path}: it is damaged: an entry in it cannot be read") from None


NOT_SEALED: Final = "an entry in it is not sealed, as it was written without encryption_keys"


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    # Only one thread uses a connection at a time, but an abandoned opening is closed in another one.
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=0, isolation_level=None, check_same_thread=False
    )
    connection.row_factory = sqlite3.Row
    return connection


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn errors of SQLite and of the system into a `JournalError` with the reason."""
    try:
        yield
    except sqlite3.Error as failure:
        reason = _REASONS.get(getattr(failure, "sqlite_errorcode", 0) & 0xFF, "SQLite cannot use it")
        raise JournalError(f"{path}: {reason}") from None
    except OSError as failure:
        raise JournalError(f"{path}: it cannot be opened: {failure.strerror or type(failure).__name__}") from None
