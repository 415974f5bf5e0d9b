from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import ClassVar

from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked, PasswordDeleteError


class KeyringInFile(KeyringBackend):
    """A keyring that processes share through a file, which ``KEYRING_FILE`` names.

    With ``KEYRING_FAULT`` it misbehaves: ``hang`` never answers, ``locked`` raises, ``late`` raises for all but the
    probe, and ``late-hang`` answers the probe alone. A file ``….hanging`` shows that a call hangs.
    """

    priority: ClassVar[float] = 1

    @property
    def _path(self) -> Path:
        return Path(os.environ["KEYRING_FILE"])

    def _misbehave(self, username: str) -> None:
        fault = os.environ.get("KEYRING_FAULT", "")
        if fault.startswith("late") and username.endswith("-probe"):
            return
        if fault.endswith("hang"):
            self._path.with_suffix(".hanging").touch()
            threading.Event().wait()
        if fault:
            raise KeyringLocked("locked")

    def _load(self) -> dict[str, str]:
        entries: dict[str, str] = json.loads(self._path.read_text()) if self._path.exists() else {}
        return entries

    def get_password(self, service: str, username: str) -> str | None:
        self._misbehave(username)
        return self._load().get(f"{service}/{username}")

    def set_password(self, service: str, username: str, password: str) -> None:
        self._misbehave(username)
        self._path.write_text(json.dumps(self._load() | {f"{service}/{username}": password}))

    def delete_password(self, service: str, username: str) -> None:
        self._misbehave(username)
        entries = self._load()
        if entries.pop(f"{service}/{username}", None) is None:
            raise PasswordDeleteError
        self._path.write_text(json.dumps(entries))
