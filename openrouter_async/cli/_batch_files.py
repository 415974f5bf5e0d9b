"""The output of a batch, with a line for each row of the input."""

from __future__ import annotations

import asyncio
import csv
import io
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

from openrouter_async.cli._exit import UsageError
from openrouter_async.cli._rows import Row, is_csv
from openrouter_async.errors import Outcome
from openrouter_async.sinks._base import KeySinkError
from openrouter_async.sinks._private_file import PrivateFile

_COLUMNS: Final = ("line", "outcome", "key", "user_id", "error", "request")
_PREFIX: Final = "input_"


class Results:
    """The output, which only its owner can read. Final results of an earlier run are kept.

    The format is JSON Lines or CSV, by the file's name. A line has the row's line number in the input, the outcome, the
    key and the user or the error, the digest of the request, and the other columns of the row. Lines are not synced to
    the disk before the end: the journal has each key first, and the next run writes missing lines.

    Args:
        path: The path of the file.
        columns: The other columns of the rows, for the header of a CSV file.
        is_final: Returns whether the request with a digest need not be tried again.

    Raises:
        UsageError: The existing file is not the output of a batch, or the location is not safe for keys.

    Attributes:
        done: The digests of the requests that already have a line.
    """

    def __init__(self, path: Path, columns: Sequence[str], is_final: Callable[[str], bool]) -> None:
        self._path = path
        self._is_csv = is_csv(path)
        self._columns = list(columns)
        self._is_final = is_final
        self.done: set[bytes] = set()
        self._file = self._take_over()
        self._lock = asyncio.Lock()
        self._failure: OSError | None = None

    def close(self) -> None:
        """Sync all lines to the disk and close the file."""
        with self._file:
            if self._failure is None:
                self._file.flush()
                os.fsync(self._file.fileno())

    async def add(self, row: Row, digest: str | None, outcome: Outcome, **told: str | None) -> None:
        """Write the line of a row.

        Args:
            row: The row.
            digest: The digest of its request.
            outcome: The outcome of the request.
            **told: ``key``, ``user_id`` and ``error``.

        Raises:
            OSError: The line cannot be written.
        """
        fields = {"line": row.line, "outcome": outcome.value, "key": None, "user_id": None, "error": None}
        line = self._format(fields | told | {"request": digest}, row.others)
        async with self._lock:
            if self._failure is not None:
                raise self._failure
            try:
                await asyncio.to_thread(append, self._file, line)
            except OSError as failure:
                # Stop writing: the line may have been written in part, and the next one would be appended to it.
                self._failure = failure
                raise

    def _format(self, fields: Mapping[str, Any], others: Mapping[str, Any]) -> bytes:
        if not self._is_csv:
            return json.dumps({**fields, "input": others} if others else fields).encode() + b"\n"
        cells = (*(fields[name] for name in _COLUMNS), *(others.get(name) for name in self._columns))
        return _to_csv(cells)

    def _take_over(self) -> BinaryIO:
        file = PrivateFile(self._path)
        try:
            kept = self._kept() if file.check() is not None else iter(())
            # Reading the first kept line sets `_columns`, which the header needs.
            first = next(kept, b"")
            header = _to_csv((*_COLUMNS, *(_PREFIX + name for name in self._columns))) if self._is_csv else b""
            return file.replace(itertools.chain((header, first), kept))
        except KeySinkError as failure:
            raise UsageError(f"The keys cannot be kept: {failure}. Choose another OUTPUT.") from failure

    def _kept(self) -> Iterator[bytes]:
        try:
            yield from self._kept_csv() if self._is_csv else self._kept_json()
        except (ValueError, KeyError, TypeError, RecursionError, csv.Error):
            raise UsageError(
                f"{self._path} already exists, and is not the output of a batch. Choose another OUTPUT."
            ) from None

    def _keeps(self, fields: Mapping[str, Any]) -> bool:
        digest = fields["request"] or ""
        if not fields["key"] and not self._is_final(digest):
            return False
        self.done.add(bytes.fromhex(digest))
        return True

    def _kept_json(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            for line in file:
                try:
                    fields = json.loads(line)
                except ValueError:
                    if line.endswith(b"\n"):
                        raise
                    # The last line is incomplete, because the run was killed while writing it.
                    return
                if self._keeps(fields):
                    yield line.rstrip(b"\n") + b"\n"

    def _kept_csv(self) -> Iterator[bytes]:
        with self._path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(line for line in file if line.endswith("\n"))
            names = reader.fieldnames or _COLUMNS
            if tuple(names[: len(_COLUMNS)]) != _COLUMNS:
                raise ValueError
            self._columns = [name.removeprefix(_PREFIX) for name in names[len(_COLUMNS) :]] or self._columns
            for fields in reader:
                if self._keeps(fields):
                    yield self._format(fields, {name: fields[_PREFIX + name] for name in self._columns})


def append(file: BinaryIO, lines: bytes) -> None:
    """Append bytes to a file."""
    file.write(lines)
    file.flush()


def _to_csv(cells: Iterable[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode(errors="backslashreplace")
