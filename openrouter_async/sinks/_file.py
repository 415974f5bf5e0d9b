"""A key in a file that only its owner can read."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from openrouter_async._values.clock import SYSTEM_CLOCK, Clock
from openrouter_async.sinks._base import BaseKeySink, StoredKey
from openrouter_async.sinks._private_file import PrivateFile


class FileSink(BaseKeySink):
    """Holds a key in a file with mode 0600, as the JSON that `StoredKey` tells of.

    It is written beside its place, flushed to the disk and then moved there, so that whoever reads the file finds the
    old key or the new one, whole, whatever happens meanwhile. A folder that is missing is made with mode 0700.

    Refused are: a path that is a symbolic link or anything else that is not a file; a folder that everybody may write
    to, sticky or not, for another user could put a key of their own there; a file system that has no modes; and
    to read a file that others may read, as ssh does. On Windows, where files have no modes, the folder's own access
    list is what protects the key; `KeyringSink` is the better place there.

    Args:
        path: The file. A relative path counts from the folder that is the current one now.
        clock: Where time comes from.

    Raises:
        RequestValidationError: The path is not one, or names a folder.
    """

    def __init__(self, path: str | os.PathLike[str], *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._file = PrivateFile(path)
        self._clock = clock

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path}>"

    @property
    def path(self) -> Path:
        """The file, as an absolute path."""
        return self._file.path

    async def save(self, key: str, *, user_id: str | None = None) -> None:
        """Write the key.

        Args:
            key: The user's API key.
            user_id: The user's id.

        Raises:
            RequestValidationError: The key is empty or not a string.
            KeySinkError: It cannot be written, or would not be safe there.
        """
        stored = StoredKey.make(key, user_id, self._clock)
        del key
        await asyncio.to_thread(self._file.write, stored.to_json().encode() + b"\n")

    async def load(self) -> StoredKey | None:
        """Read the key; None when there is no such file.

        Raises:
            KeySinkError: The file cannot be read, others may read it, or it holds something else.
        """
        text = await asyncio.to_thread(self._file.read)
        return None if text is None else StoredKey.from_json(text)

    async def delete(self) -> bool:
        """Delete the file, and what a process that was killed while it wrote may have left beside it.

        Returns:
            Whether there was one.

        Raises:
            KeySinkError: It cannot be deleted.
        """
        return await asyncio.to_thread(self._file.delete)
