"""A key in a file that only its owner can read."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from openrouter_async._values.clock import SYSTEM_CLOCK, Clock
from openrouter_async.sinks._base import BaseKeySink, StoredKey
from openrouter_async.sinks._private_file import PrivateFile


class FileSink(BaseKeySink):
    """Store a key in a file with mode 0600, as the JSON described at `StoredKey`.

    The key is written to a temporary file in the same folder, flushed to the disk and then renamed, so that a reader
    finds the old key or the new one, whole, whatever happens meanwhile. Missing folders are created with mode 0700.

    As ssh does, it refuses a path that is a symbolic link or not a regular file; a file of another user; a folder that
    everybody may write to (sticky or not) or that belongs to another user, and such folders above it unless they are
    sticky; a file system without modes; and reading a file that others may read. On Windows, where files have no modes,
    the access list of the folder protects the key; prefer `KeyringSink` there.

    Args:
        path: The file. A relative path is resolved against the current folder.
        clock: The source of time.

    Raises:
        RequestValidationError: The path is not that of a file.
    """

    def __init__(self, path: str | os.PathLike[str], *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._file = PrivateFile(path)
        self._clock = clock

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path}>"

    @property
    def path(self) -> Path:
        """Return the file, as an absolute path."""
        return self._file.path

    async def save(self, key: str, *, user_id: str | None = None) -> None:
        """Write the key, replacing the one that is there; see `KeySink.save`.

        Raises:
            RequestValidationError: The key is empty or not a string.
            KeySinkError: It cannot be written, or would not be safe there.
        """
        stored = StoredKey.make(key, user_id, self._clock)
        del key
        await asyncio.to_thread(self._file.write, stored.to_json().encode() + b"\n")

    async def load(self) -> StoredKey | None:
        """Read the key.

        Returns:
            The key; None if there is no such file.

        Raises:
            KeySinkError: The file cannot be read, others may read it, or it holds something else.
        """
        text = await asyncio.to_thread(self._file.read)
        try:
            return None if text is None else StoredKey.from_json(text)
        finally:
            # A traceback that shows local variables would show the key.
            del text

    async def delete(self) -> bool:
        """Delete the file, and temporary files that a process left when it was killed while writing.

        Returns:
            Whether there was one.

        Raises:
            KeySinkError: It cannot be deleted.
        """
        return await asyncio.to_thread(self._file.delete)
