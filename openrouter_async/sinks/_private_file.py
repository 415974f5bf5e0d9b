"""A file that only its owner can read, written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

import attrs

from openrouter_async._values.folders import HAS_MODES, find_unsafe_folder
from openrouter_async.errors import RequestValidationError
from openrouter_async.sinks._base import KeySinkError

MAX_SIZE: Final = 65_536
_SUFFIX: Final = ".openrouter-tmp"


def _to_path(value: str | os.PathLike[str]) -> Path:
    try:
        if not Path(value).name or b"\0" in os.fsencode(value):
            raise ValueError
        return Path(value).absolute()
    except (TypeError, ValueError):
        raise RequestValidationError("path", "must be the path of a file") from None
    except OSError:
        raise RequestValidationError("path", "is relative to the current folder, which no longer exists") from None


@attrs.frozen
class PrivateFile:
    """A file with mode 0600; `openrouter_async.sinks.FileSink` documents which files are refused, and why.

    Attributes:
        path: The file, as an absolute path.

    Raises:
        RequestValidationError: The path is not one, or names a folder.
    """

    path: Path = attrs.field(converter=_to_path)

    def check(self) -> os.stat_result | None:
        """Check whether a secret is safe at the path.

        Returns:
            The status of the file; None if there is none.

        Raises:
            KeySinkError: The file or one of its folders is not safe for a secret.
        """
        with self._explained("looked at"):
            return self._check()

    def prepare(self) -> None:
        """Do all that `write` does except replacing the file: create the folders and write a temporary file.

        Raises:
            KeySinkError: The file could not be written, or a secret would not be safe there.
        """
        with self._explained("written"):
            descriptor, temporary = self._open_temporary()
            try:
                os.write(descriptor, b"\0" * 4096)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
                os.unlink(temporary)

    def write(self, data: bytes) -> None:
        """Replace the content of the file, creating missing folders.

        Raises:
            KeySinkError: It cannot be written, or a secret would not be safe there.
        """
        self.replace((data,)).close()

    def replace(self, chunks: Iterable[bytes]) -> BinaryIO:
        """Write like `write`, and leave the file open.

        Returns:
            The open file, to which more can be appended.

        Raises:
            KeySinkError: It cannot be written, or would not be safe there.
        """
        with self._explained("written"):
            descriptor, temporary = self._open_temporary()
            file = open(descriptor, "wb")  # noqa: SIM115 - it may be left open
            try:
                file.writelines(chunks)
                file.flush()
                os.fsync(descriptor)
                os.replace(temporary, self.path)
                _sync_folder(self.path.parent)
            except BaseException:
                with contextlib.suppress(OSError):
                    file.close()
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
            return file

    def read(self) -> bytes | None:
        """Read a file that only its owner may read.

        Returns:
            At most 64 KiB of its content; None if there is no such file.

        Raises:
            KeySinkError: It cannot be read, or others may read it.
        """
        return self._read(is_private=True, limit=MAX_SIZE)

    def read_shared(self) -> bytes | None:
        """Read the whole file, which others may read, too; otherwise like `read`."""
        return self._read(is_private=False, limit=-1)

    def _read(self, *, is_private: bool, limit: int) -> bytes | None:
        with self._explained("read"):
            if self._check() is None:
                return None
            # Without following a link, or waiting for a pipe, that took the place of the file since the check.
            flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
            with open(os.open(self.path, os.O_RDONLY | flags), "rb") as file:
                status = os.fstat(file.fileno())
                self._check_file(status)
                if is_private and HAS_MODES and status.st_mode & 0o077:
                    raise KeySinkError(f"{self.path} can be read by others; its mode must be 0600")
                return file.read(limit)

    def delete(self) -> bool:
        """Delete the file, and temporary files that a process left when it was killed while writing.

        Returns:
            Whether there was one.

        Raises:
            KeySinkError: It cannot be deleted.
        """
        with self._explained("deleted"):
            existed = self._check() is not None
            self.path.unlink(missing_ok=True)
            for leftover in self._leftovers():
                leftover.unlink(missing_ok=True)
        return existed

    def _leftovers(self) -> list[Path]:
        folder = self.path.parent
        name = re.compile(re.escape(self._prefix) + r"\w{8}" + re.escape(_SUFFIX))
        return [path for path in folder.iterdir() if name.fullmatch(path.name)] if folder.exists() else []

    @property
    def _prefix(self) -> str:
        return f".{self.path.name}."

    def _open_temporary(self) -> tuple[int, str]:
        _make_folder(self.path.parent)
        self._check()
        descriptor, temporary = tempfile.mkstemp(_SUFFIX, self._prefix, self.path.parent)
        try:
            if HAS_MODES:
                _set_mode(descriptor)
        except BaseException:
            os.close(descriptor)
            os.unlink(temporary)
            raise
        return descriptor, temporary

    def _check(self) -> os.stat_result | None:
        try:
            unsafe = find_unsafe_folder(self.path.parent)
            if unsafe is not None:
                raise KeySinkError(unsafe)
            status = self.path.lstat()
        except FileNotFoundError:
            return None
        self._check_file(status)
        return status

    def _check_file(self, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            what = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "not a file"
            raise KeySinkError(f"{self.path} is {what}")
        if HAS_MODES and status.st_uid not in (0, os.geteuid()):
            raise KeySinkError(f"{self.path} belongs to another user")

    @contextlib.contextmanager
    def _explained(self, verb: str) -> Iterator[None]:
        try:
            yield
        except OSError as failure:
            raise KeySinkError(f"{self.path} cannot be {verb}: {failure.strerror}") from failure


def _make_folder(folder: Path) -> None:
    # Path.mkdir applies its mode only to the last of the folders.
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        missing.mkdir(0o700, exist_ok=True)


def _set_mode(descriptor: int) -> None:
    # The umask may have removed even the owner's rights, and some file systems (FAT) have one fixed mode for all files.
    os.fchmod(descriptor, 0o600)
    if os.fstat(descriptor).st_mode & 0o077:
        raise KeySinkError("the file system of the folder has no modes")


def _sync_folder(folder: Path) -> None:
    """Flush the rename to the disk, where a folder can be flushed."""
    if not HAS_MODES:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
