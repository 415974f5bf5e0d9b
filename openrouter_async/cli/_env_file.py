"""A key as a line of a file that sets variables, such as ``.env``."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from openrouter_async.sinks._base import BaseKeySink, KeySinkError, StoredKey
from openrouter_async.sinks._private_file import PrivateFile

VARIABLE: Final = "OPENROUTER_API_KEY"
"""The environment variable from which programs read the key."""

# Quoted values may span lines, and text within one may look like an assignment. Only "\n" separates lines, because
# values may contain the other characters at which str.splitlines() splits.
_ASSIGNMENT: Final = re.compile(
    rb"""(?P<before>(?:\xef\xbb\xbf)?[ \t]*(?:export[ \t]+)?(?P<name>[A-Za-z_][\w.-]*)[ \t]*=[ \t]*)
    (?P<value>"(?:[^"\\]|\\.)*"|'[^']*'|[^\n]*?)
    (?P<after>(?:[ \t]+\#[^\n]*)?[ \t\r]*)(?P<end>\n|\Z)""",
    re.DOTALL | re.VERBOSE,
)
_PLAIN: Final = re.compile(r"[A-Za-z0-9_.:/@%+,-]+")
_UTF16: Final = (b"\xff\xfe", b"\xfe\xff")


class EnvSink(BaseKeySink):
    """Store a key as a line of a file that sets variables; every other byte of the file stays as it is."""

    def __init__(self, path: Path) -> None:
        self._file = PrivateFile(path)

    async def save(self, key: str, *, user_id: str | None = None) -> None:
        """Write the line, replacing the one that is there."""
        # A shell that reads the file would run `key;command`. Not every other reader removes quotes.
        value = key if _PLAIN.fullmatch(key) else f"'{key}'"
        await asyncio.to_thread(self._replace, value.encode())

    async def load(self) -> StoredKey | None:
        """Read the key from the last such line.

        Returns:
            The key; None if there is no such line, or its value is empty.
        """
        data = await asyncio.to_thread(self._read)
        values = [match["value"].strip(b"\"'") for match in _find(data)]
        if not values or not values[-1]:
            return None
        try:
            key = values[-1].decode("ascii")
        except UnicodeDecodeError:
            raise KeySinkError(f"the value of {VARIABLE} in {self._file.path} is not a key") from None
        changed = await asyncio.to_thread(os.stat, self._file.path)
        return StoredKey(key=key, created_at=datetime.fromtimestamp(int(changed.st_mtime), UTC))

    async def delete(self) -> bool:
        """Remove all such lines."""
        return await asyncio.to_thread(self._replace, None)

    def prepare(self) -> None:
        """Check that the file can be read and replaced."""
        self._read()
        self._file.prepare()

    def _replace(self, key: bytes | None) -> bool:
        data = self._read()
        result, position = b"", 0
        found = list(_find(data))
        for number, match in enumerate(found):
            result += data[position : match.start()]
            if number == 0 and key is not None:
                result += match["before"] + key + match["after"] + match["end"]
            position = match.end()
        result += data[position:]
        if key is not None and not found:
            newline = b"\r\n" if b"\r\n" in data else b"\n"
            separator = newline if data and not data.endswith(b"\n") else b""
            result += separator + VARIABLE.encode() + b"=" + key + newline
        if result != data:
            self._file.write(result)
        return bool(found)

    def _read(self) -> bytes:
        data = self._file.read_shared() or b""
        if data.startswith(_UTF16):
            raise KeySinkError(f"{self._file.path} is in UTF-16; save it as UTF-8")
        return data


def _find(data: bytes) -> Iterator[re.Match[bytes]]:
    position = 0
    while position < len(data):
        match = _ASSIGNMENT.match(data, position)
        if match is None:
            position = data.find(b"\n", position) + 1 or len(data)
            continue
        if match["name"] == VARIABLE.encode():
            yield match
        position = match.end()
