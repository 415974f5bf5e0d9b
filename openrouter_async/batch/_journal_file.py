"""The file of a journal before SQLite opens it: who controls it, and who may read it."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from openrouter_async._values.folders import find_unsafe_folder
from openrouter_async.errors import JournalError

_MIN_SIZE: Final = 512
"""The size of the smallest database in bytes: one page."""


def prepare_file(path: Path) -> None:
    """Create an empty file if there is none, and remove other users' permissions from an existing one.

    An existing file is never opened here: closing it would release SQLite's POSIX locks of this process, see
    https://sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_.
    """
    if not os.path.lexists(path):
        _check_folder(path)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        check_file(path)
        os.chmod(path, 0o600)
    else:
        check_file(path)


def check_file(path: Path) -> None:
    """Raise for a file that another user controls, as ssh does."""
    for name in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        try:
            status = name.lstat()
        except FileNotFoundError:
            if name == path:
                raise
            continue
        _check_status(name, status)
        if name == path and 0 < status.st_size < _MIN_SIZE:
            # SQLite treats a file of a single byte as an empty database.
            raise JournalError(f"{path}: it is not a journal")
    _check_folder(path)


def _check_folder(path: Path) -> None:
    unsafe = find_unsafe_folder(path.absolute().parent)
    if unsafe is not None:
        raise JournalError(f"{path}: {unsafe}")


def _check_status(name: Path, status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise JournalError(f"{name}: it is a symbolic link")
    if not stat.S_ISREG(status.st_mode):
        raise JournalError(f"{name}: it is not a file")
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        raise JournalError(f"{name}: it belongs to another user")
