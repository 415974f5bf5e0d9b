"""The input of a batch: JSON Lines or CSV, row by row."""

from __future__ import annotations

import csv
import json
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from openrouter_async._values.models import UNSET, ExchangeAuthCodeForAPIKeyRequest
from openrouter_async.cli._exit import UsageError
from openrouter_async.errors import RequestValidationError
from openrouter_async.redaction import mask_optional

_FIELDS: Final = ("code", "code_verifier", "code_challenge_method")


@attrs.frozen(kw_only=True)
class Row:
    """A row of the input.

    Attributes:
        line: The number of its line, from 1.
        request: What it asks for; None when it is not valid.
        problem: Why it is not.
        others: What stands in it beside the request; it goes to the output.
    """

    line: int
    request: ExchangeAuthCodeForAPIKeyRequest | None = attrs.field(default=None, repr=mask_optional)
    problem: str | None = None
    others: Mapping[str, Any] = attrs.field(factory=dict[str, Any], repr=False)


def is_csv(path: Path) -> bool:
    """Whether a file is CSV, by its name; any other is JSON Lines."""
    return path.suffix.lower() == ".csv"


def count_rows(path: Path) -> int:
    """About how many rows a file has: exactly, if no field has a line break and no line is empty."""
    lines = 0
    last = b"\n"
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            lines += block.count(b"\n")
            last = block[-1:]
    return max(0, lines + (last != b"\n") - is_csv(path))


def other_columns(path: Path) -> list[str]:
    """What stands in the rows of a file beside requests, as far as its first row tells.

    Raises:
        UsageError: As for `read_rows`.
    """
    return list(next((row.others for row in read_rows(path) if row.problem is None), ()))


def read_rows(path: Path) -> Generator[Row, None, None]:
    """The rows of a file, which is open until they are read or this is closed.

    Raises:
        UsageError: It cannot be read, or is CSV without a column ``code``.
    """
    try:
        if is_csv(path):
            with path.open(encoding="utf-8-sig", newline="") as text:
                yield from _csv_rows(text)
        else:
            with path.open("rb") as lines:
                yield from (row for line, data in enumerate(lines, 1) if (row := to_row(line, data)) is not None)
    except OSError as failure:
        raise UsageError(f"{path} cannot be read: {failure.strerror}.") from failure
    except (UnicodeDecodeError, csv.Error):
        raise UsageError(f"{path} cannot be read: it is not CSV in UTF-8.") from None


def to_row(line: int, data: bytes) -> Row | None:
    """The row of a line of JSON; None for an empty line."""
    if not data.strip():
        return None
    try:
        fields = json.loads(data.decode().removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        # UnicodeDecodeError is one of these. They quote what they were given.
        return Row(line=line, problem="The line is not JSON.")
    if isinstance(fields, str):
        fields = {"code": fields}
    if not isinstance(fields, dict):
        return Row(line=line, problem="The line is neither a JSON object nor a code.")
    return _to_row(line, fields)


def _csv_rows(text: Iterable[str]) -> Iterator[Row]:
    reader = csv.DictReader(text, strict=True)
    if "code" not in (reader.fieldnames or ()):
        raise UsageError("The first line of the input must name the columns, and one of them must be code.")
    for fields in reader:
        if None in fields or None in fields.values():
            yield Row(line=reader.line_num, problem="The row has another number of columns than the first one.")
            continue
        # An empty cell is how CSV says that there is nothing.
        present = {name: value for name, value in fields.items() if value != "" or name not in _FIELDS}
        yield _to_row(reader.line_num, present)


def _to_row(line: int, fields: Mapping[str, Any]) -> Row:
    others = {name: value for name, value in fields.items() if name not in _FIELDS}
    try:
        request = ExchangeAuthCodeForAPIKeyRequest(
            code=fields.get("code"),  # type: ignore[arg-type]
            code_verifier=fields.get("code_verifier"),
            code_challenge_method=fields.get("code_challenge_method", UNSET),
        )
    except RequestValidationError as invalid:
        return Row(line=line, problem=str(invalid), others=others)
    return Row(line=line, request=request, others=others)
