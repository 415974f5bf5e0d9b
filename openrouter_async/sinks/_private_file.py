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

from openrouter_async.errors import RequestValidationError
from openrouter_async.sinks._base import KeySinkError

_LARGEST: Final = 65_536
_SUFFIX: Final = ".openrouter-tmp"
_HAS_MODES: Final = os.name == "posix"


def _to_path(value: str | os.PathLike[str]) -> Path:
    try:
        if not Path(value).name or b"\0" in os.fsencode(value):
            raise ValueError
        return Path(value).absolute()
    except (TypeError, ValueError):
        raise RequestValidationError("path", "must be the path of a file") from None


@attrs.frozen
class PrivateFile:
    """A file with mode 0600; `openrouter_async.sinks.FileSink` tells what is refused, and why.

    Attributes:
        path: The file, as an absolute path.

    Raises:
        RequestValidationError: The path is not one, or names a folder.
    """

    path: Path = attrs.field(converter=_to_path)

    def check(self) -> os.stat_result | None:
        """What is at the path, if anything is.

        Raises:
            KeySinkError: It is no place for a secret.
        """
        with self._explained("looked at"):
            return self._check()

    def write(self, data: bytes) -> None:
        """Put data in place of what is there; make folders that are missing.

        Raises:
            KeySinkError: It cannot be written, or would not be safe there.
        """
        self.replace((data,)).close()

    def replace(self, chunks: Iterable[bytes]) -> BinaryIO:
        """As `write`, and leave it open, so that more can be appended.

        Raises:
            KeySinkError: It cannot be written, or would not be safe there.
        """
        with self._explained("written"):
            _make_folder(self.path.parent)
            self._check()
            descriptor, temporary = tempfile.mkstemp(_SUFFIX, self._prefix, self.path.parent)
            file = open(descriptor, "wb")  # noqa: SIM115 - it may be left open
            try:
                if _HAS_MODES:
                    _set_mode(descriptor)
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
        """What it holds, at most 64 KiB; None when there is no such file.

        Raises:
            KeySinkError: It cannot be read, or others may read it.
        """
        with self._explained("read"):
            status = self._check()
            if status is None:
                return None
            if _HAS_MODES and status.st_mode & 0o077:
                raise KeySinkError(f"{self.path} can be read by others; its mode must be 0600")
            with self.path.open("rb") as file:
                return file.read(_LARGEST)

    def delete(self) -> bool:
        """Delete it, and what a process that was killed while it wrote may have left beside it.

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

    def _check(self) -> os.stat_result | None:
        """What is at the path, if anything is; whatever is not safe is refused."""
        try:
            folder = self.path.parent.stat()
            if _HAS_MODES and folder.st_mode & stat.S_IWOTH:
                raise KeySinkError(f"{self.path.parent} can be written to by everybody")
            status = self.path.lstat()
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(status.st_mode):
            what = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "not a file"
            raise KeySinkError(f"{self.path} is {what}")
        return status

    @contextlib.contextmanager
    def _explained(self, verb: str) -> Iterator[None]:
        try:
            yield
        except OSError as failure:
            raise KeySinkError(f"{self.path} cannot be {verb}: {failure.strerror}") from failure


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
