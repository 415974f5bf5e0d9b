"""A key in a file that only its owner can read."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from openrouter_async.clock import SYSTEM_CLOCK, Clock
from openrouter_async.errors import RequestValidationError
from openrouter_async.sinks.base import KeySinkError, Saver, StoredKey

_LARGEST: Final = 65_536
_SUFFIX: Final = ".openrouter-tmp"
_HAS_MODES: Final = os.name == "posix"


class FileSink(Saver):
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
        try:
            self._path = Path(path).absolute()
            if not Path(path).name or b"\0" in os.fsencode(path):
                raise ValueError
        except (TypeError, ValueError):
            raise RequestValidationError("path", "must be the path of a file") from None
        self._clock = clock

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._path}>"

    @property
    def path(self) -> Path:
        """The file, as an absolute path."""
        return self._path

    async def save(self, key: str, *, user_id: str | None = None) -> None:
        """Write the key.

        Args:
            key: The user's API key.
            user_id: The user's id.

        Raises:
            RequestValidationError: The key is empty or not a string.
            KeySinkError: It cannot be written, or would not be safe there.
        """
        await asyncio.to_thread(self._save, StoredKey.make(key, user_id, self._clock))

    async def load(self) -> StoredKey | None:
        """Read the key; None when there is no such file.

        Raises:
            KeySinkError: The file cannot be read, others may read it, or it holds something else.
        """
        return await asyncio.to_thread(self._load)

    async def delete(self) -> bool:
        """Delete the file, and what a process that was killed while it wrote may have left beside it.

        Returns:
            Whether there was one.

        Raises:
            KeySinkError: It cannot be deleted.
        """
        return await asyncio.to_thread(self._delete)

    def _save(self, stored: StoredKey) -> None:
        with self._explained("written"):
            _make_folder(self._path.parent)
            self._check()
            descriptor, temporary = tempfile.mkstemp(_SUFFIX, self._prefix, self._path.parent)
            try:
                with open(descriptor, "wb") as file:
                    if _HAS_MODES:
                        _set_mode(descriptor)
                    file.write(stored.to_json().encode() + b"\n")
                    file.flush()
                    os.fsync(descriptor)
                os.replace(temporary, self._path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
            _sync_folder(self._path.parent)

    def _load(self) -> StoredKey | None:
        with self._explained("read"):
            status = self._check()
            if status is None:
                return None
            if _HAS_MODES and status.st_mode & 0o077:
                raise KeySinkError(f"{self._path} can be read by others; its mode must be 0600")
            with self._path.open("rb") as file:
                text = file.read(_LARGEST)
        return StoredKey.from_json(text)

    def _delete(self) -> bool:
        with self._explained("deleted"):
            existed = self._check() is not None
            self._path.unlink(missing_ok=True)
            for leftover in self._leftovers():
                leftover.unlink(missing_ok=True)
        return existed

    def _leftovers(self) -> list[Path]:
        folder = self._path.parent
        name = re.compile(re.escape(self._prefix) + r"\w{8}" + re.escape(_SUFFIX))
        return [path for path in folder.iterdir() if name.fullmatch(path.name)] if folder.exists() else []

    @property
    def _prefix(self) -> str:
        return f".{self._path.name}."

    def _check(self) -> os.stat_result | None:
        """What is at the path, if anything is; whatever is not safe is refused."""
        try:
            folder = self._path.parent.stat()
            if _HAS_MODES and folder.st_mode & stat.S_IWOTH:
                raise KeySinkError(f"{self._path.parent} can be written to by everybody")
            status = self._path.lstat()
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(status.st_mode):
            what = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "not a file"
            raise KeySinkError(f"{self._path} is {what}")
        return status

    @contextlib.contextmanager
    def _explained(self, verb: str) -> Iterator[None]:
        try:
            yield
        except OSError as failure:
            raise KeySinkError(f"{self._path} cannot be {verb}: {failure.strerror}") from failure


def _make_folder(folder: Path) -> None:
    # Path.mkdir gives its mode to the last of the folders alone.
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        missing.mkdir(0o700, exist_ok=True)


def _set_mode(descriptor: int) -> None:
    # The umask may have taken away even what the owner needs; and some file systems have a mode of their own for all.
    os.fchmod(descriptor, 0o600)
    if os.fstat(descriptor).st_mode & 0o077:
        raise KeySinkError("the file system of the folder has no modes")


def _sync_folder(folder: Path) -> None:
    """Make the move last, too, where a folder can be flushed."""
    if not _HAS_MODES:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
