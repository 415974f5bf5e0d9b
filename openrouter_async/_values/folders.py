"""Which folders are safe for a file with secrets, for journals and key files alike."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

HAS_MODES: Final = os.name == "posix"
"""Whether files have an owner and permissions that this process can check."""


def find_unsafe_folder(folder: Path) -> str | None:
    """Look for a folder in which somebody else could replace a file of this user, from a folder up to the root.

    These are the checks of sshd's StrictModes, except that groups may write: the default umask of many distributions
    lets the user's private group do so. A folder above may be writable by everybody if it is sticky, as /tmp is.

    Args:
        folder: The folder of the file; symbolic links in it are followed.

    Returns:
        The problem, with the path of the folder; None if there is none, or if the system has no modes.

    Raises:
        FileNotFoundError: The folder does not exist.
        OSError: A folder cannot be looked at.
    """
    if not HAS_MODES:
        return None
    folder = Path(os.path.realpath(folder))
    for above in (folder, *folder.parents):
        status = above.stat()
        if status.st_uid not in (0, os.geteuid()):
            return f"the folder {above} belongs to another user"
        if status.st_mode & stat.S_IWOTH and (above == folder or not status.st_mode & stat.S_ISVTX):
            return f"everybody can write to the folder {above}"
    return None
