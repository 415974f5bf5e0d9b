"""The input of a batch: JSON Lines or CSV, row by row."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import csv
import json
import os
import re
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import attrs

from openrouter_async._values.models import ExchangeAuthCodeForAPIKeyRequest
from openrouter_async.cli._exit import UsageError
from openrouter_async.errors import RequestValidationError
from openrouter_async.redaction._masks import mask_optional

STDIN: Final = Path("-")

MAX_ROWS_AHEAD: Final = 64
"""The number of rows to read ahead."""

_FIELDS: Final = ("code", "code_verifier", "code_challenge_method")
_DELIMITERS: Final = ",;\t"


@attrs.frozen(kw_only=True)
class Row:
    """A row of the input.

    Attributes:
        line: The number of the row's first line, from 1.
        request: The request; None if the row is not valid.
        problem: The reason why the row is not valid.
        others: The other columns, which are copied to the output.
    """

    line: int
    request: ExchangeAuthCodeForAPIKeyRequest | None = attrs.field(default=None, repr=mask_optional)
    problem: str | None = None
    others: Mapping[str, Any] = attrs.field(factory=dict[str, Any], repr=False)


def is_csv(path: Path) -> bool:
    """Return whether a file is CSV, by its name; any other is JSON Lines."""
    return path.suffix.lower() == ".csv"


def count_rows(path: Path) -> int | None:
    """Return about how many rows a file has, or None for a pipe.

    The number is exact if no field has a line break and no line is empty.
    """
    if not path.is_file():
        return None
    lines = 0
    last = b"\n"
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            lines += block.count(b"\n")
            last = block[-1:]
    return max(0, lines + (last != b"\n") - is_csv(path))


def other_columns(path: Path) -> list[str]:
    """Return the columns of a file beside those of requests, by its first row; none for a pipe.

    Raises:
        UsageError: As for `read_rows`.
    """
    if not path.is_file():
        return []
    with contextlib.closing(read_rows(path)) as rows:
        return list(next((row.others for row in rows if row.problem is None), ()))


async def stream_rows(path: Path) -> AsyncGenerator[Row, None]:
    """Read the rows of a file in a thread, so that a pipe without data does not stop the event loop.

    Raises:
        UsageError: As for `read_rows`.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Row | BaseException | None] = asyncio.Queue()
    room = threading.Semaphore(MAX_ROWS_AHEAD)
    is_closed = threading.Event()

    def read() -> None:
        end: BaseException | None = None
        try:
            with contextlib.closing(read_rows(path)) as rows:
                for row in rows:
                    room.acquire()
                    if is_closed.is_set():
                        return
                    loop.call_soon_threadsafe(queue.put_nowait, row)
        except BaseException as failure:  # noqa: BLE001 - it is raised in the loop
            end = failure
        # The loop may be closed by now, because the program does not wait for this thread.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(queue.put_nowait, end)

    # A daemon thread, because a read of a pipe cannot be interrupted, and asyncio waits for its default executor.
    threading.Thread(target=read, name="openrouter_async-input", daemon=True).start()
    try:
        while isinstance(row := await queue.get(), Row):
            room.release()
            yield row
    finally:
        is_closed.set()
        room.release()
    if row is not None:
        raise row


def read_rows(path: Path) -> Generator[Row, None, None]:
    """Read the rows of a file, which is open until all are read or the generator is closed. ``-`` is standard input.

    Raises:
        UsageError: The file cannot be read, is UTF-16, or is CSV without a column ``code``.
    """
    try:
        with _open(path) as file:
            lines = _without_byte_order_mark(file, path)
            if is_csv(path):
                yield from _csv_rows(line.decode(errors="surrogateescape") for line in lines)
            else:
                yield from (row for line, data in enumerate(lines, 1) if (row := to_row(line, data)) is not None)
    except OSError as failure:
        raise UsageError(f"{path} cannot be read: {failure.strerror}.") from failure


def _open(path: Path) -> BinaryIO:
    # Not sys.stdin: on exit, the interpreter would wait for its lock, which the reading thread holds.
    return os.fdopen(os.dup(0), "rb") if path == STDIN else path.open("rb")


def _without_byte_order_mark(lines: Iterable[bytes], path: Path) -> Iterator[bytes]:
    for number, line in enumerate(lines):
        if number == 0 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise UsageError(f"{path} cannot be read: it is UTF-16. Save it as UTF-8.")
        yield line.removeprefix(codecs.BOM_UTF8) if number == 0 else line


def to_row(line: int, data: bytes) -> Row | None:
    """Return the row of a line of JSON, or None for an empty line."""
    if not data.strip():
        return None
    try:
        fields = json.loads(data.decode())
    except (ValueError, RecursionError):
        # ValueError includes UnicodeDecodeError. The messages are not shown, because they quote the input.
        return Row(line=line, problem="The line is not JSON.")
    if isinstance(fields, str):
        fields = {"code": fields}
    if not isinstance(fields, dict):
        return Row(line=line, problem="The line is neither a JSON object nor a code.")
    names = [_normalize(name) for name in fields]
    problem = _problem_with(names)
    return Row(line=line, problem=problem) if problem else _to_row(line, dict(zip(names, fields.values(), strict=True)))


def _csv_rows(lines: Iterator[str]) -> Iterator[Row]:
    header = next(lines, "")
    delimiters = (delimiter for delimiter in _DELIMITERS if "code" in _split(header, delimiter))
    delimiter = next(delimiters, None)
    if delimiter is None:
        raise UsageError("The first line of the input must name the columns, and one of them must be code.")
    names = _split(header, delimiter)
    if problem := _problem_with(names):
        raise UsageError(problem)
    reader = csv.reader(lines, strict=True, delimiter=delimiter)
    while True:
        line = reader.line_num + 2
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error:
            yield Row(line=line, problem="A quote that is opened here is not closed, or a field is too long.")
            continue
        if any(cell.strip() for cell in cells):
            yield _to_csv_row(line, names, cells)


def _to_csv_row(line: int, names: Sequence[str], cells: Sequence[str]) -> Row:
    if len(cells) != len(names):
        return Row(line=line, problem="The row has a different number of columns than the first one.")
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return Row(line=line, problem="The row is not UTF-8.")
    # CSV has no null, so an empty cell means that the value is missing.
    return _to_row(
        line,
        {name: cell for name, cell in zip(names, cells, strict=True) if cell.strip() or name not in _FIELDS},
    )


def _split(header: str, delimiter: str) -> list[str]:
    try:
        return [_normalize(name) for name in next(csv.reader([header], strict=True, delimiter=delimiter), ())]
    except csv.Error:
        return []


def _normalize(name: str) -> str:
    """Return the canonical name of a column of requests; other names only lose the blanks around them."""
    name = name.strip()
    return name.casefold() if name.casefold() in _FIELDS else name


def _problem_with(names: Sequence[str]) -> str | None:
    """Return why columns of these names cannot be used: without its verifier a code would be used up for nothing."""
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        return f"The column {twice[0]} occurs twice."
    similar = (name for name in names if name not in _FIELDS and re.search("verifier|challenge", name, re.IGNORECASE))
    if "code_verifier" not in names and (name := next(similar, None)):
        return f"The column {name} is unknown. Is it the verifier? Name it code_verifier, or remove it."
    return None


def _to_row(line: int, fields: Mapping[str, Any]) -> Row:
    others = {name: value for name, value in fields.items() if name not in _FIELDS}
    values: dict[str, Any] = {"code": None}
    for name in fields.keys() - others.keys():
        values[name] = fields[name].strip() if isinstance(fields[name], str) else fields[name]
    try:
        request = ExchangeAuthCodeForAPIKeyRequest(**values)
    except RequestValidationError as invalid:
        return Row(line=line, problem=str(invalid), others=others)
    return Row(line=line, request=request, others=others)
