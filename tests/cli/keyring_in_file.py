from __future__ import annotations

import json
import os
from pathlib import Path
from typing import ClassVar

from keyring.backend import KeyringBackend
from keyring.errors import PasswordDeleteError


class KeyringInFile(KeyringBackend):
    """A keyring that processes share through a file, which ``KEYRING_FILE`` names."""

    priority: ClassVar[float] = 1

    @property
    def _path(self) -> Path:
        return Path(os.environ["KEYRING_FILE"])

    def _load(self) -> dict[str, str]:
        entries: dict[str, str] = json.loads(self._path.read_text()) if self._path.exists() else {}
        return entries

    def get_password(self, service: str, username: str) -> str | None:
        return self._load().get(f"{service}/{username}")

    def set_password(self, service: str, username: str, password: str) -> None:
        if self._path.is_dir():
            raise RuntimeError(f"cannot store {password}")
        self._path.write_text(json.dumps(self._load() | {f"{service}/{username}": password}))

    def delete_password(self, service: str, username: str) -> None:
        entries = self._load()
        if entries.pop(f"{service}/{username}", None) is None:
            raise PasswordDeleteError
        self._path.write_text(json.dumps(entries))
