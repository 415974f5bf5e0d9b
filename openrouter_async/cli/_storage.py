"""Where a key is kept: the system's keyring, a file of its own, or a line of a file ``.env``."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import attrs

from openrouter_async.cli._exit import UsageError
from openrouter_async.cli._options import Site, Storage, StoreKind
from openrouter_async.sinks._base import BaseKeySink, KeySinkError, KeyVault, StoredKey
from openrouter_async.sinks._file import FileSink
from openrouter_async.sinks._private_file import PrivateFile

VARIABLE: Final = "OPENROUTER_API_KEY"
"""The variable that programs read the key from."""

_APP: Final = "openrouter-async"
_LINE: Final = re.compile(rf"(?P<before>[ \t]*(export[ \t]+)?{VARIABLE}[ \t]*=[ \t]*)(?P<value>.*?)[ \t]*")


class EnvSink(BaseKeySink):
    """Holds a key as a line of a file that sets variables; its other lines stay as they are."""

    def __init__(self, path: Path) -> None:
        self._file = PrivateFile(path)

    async def save(self, key: str, *, user_id: str | None = None) -> None:
        """Write the line, in place of the one that is there."""
        await asyncio.to_thread(self._save, key)

    async def load(self) -> StoredKey | None:
        """The key of the last such line; None when there is none."""
        found = [match for line in await asyncio.to_thread(self._read) if (match := _LINE.fullmatch(line))]
        key = found[-1]["value"].strip("\"'") if found else ""
        if not key:
            return None
        changed = await asyncio.to_thread(os.stat, self._file.path)
        return StoredKey(key=key, created_at=datetime.fromtimestamp(int(changed.st_mtime), UTC))

    async def delete(self) -> bool:
        """Take all such lines out."""
        return await asyncio.to_thread(self._replace, None)

    def _save(self, key: str) -> None:
        self._replace(key)

    def _replace(self, key: str | None) -> bool:
        lines = self._read()
        kept: list[str] = []
        found = False
        for line in lines:
            match = _LINE.fullmatch(line)
            if match is None:
                kept.append(line)
            elif not found and key is not None:
                kept.append(match["before"] + key)
            found = found or match is not None
        if key is not None and not found:
            kept.append(f"{VARIABLE}={key}")
        if kept != lines:
            self._file.write("".join(line + "\n" for line in kept).encode())
        return found

    def _read(self) -> list[str]:
        if self._file.check() is None:
            return []
        try:
            return self._file.path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as failure:
            raise KeySinkError(f"{self._file.path} cannot be read") from failure


@attrs.frozen(kw_only=True)
class Place:
    """A place for the key.

    Attributes:
        kind: Which one.
        where: What it is called in messages.
        vault: What puts a key there, and gives it back.
        check: Raises `KeySinkError` when it can be told beforehand that no key can be kept there.
    """

    kind: StoreKind
    where: str
    vault: KeyVault = attrs.field(repr=False)
    check: Callable[[], object] = attrs.field(repr=False)


def find_place(kind: StoreKind, file: Path | None, site: str | None) -> Place:
    """The place of a kind.

    Args:
        kind: It; there is no place for what is printed.
        file: Another path than the usual one.
        site: Which OpenRouter the keys there are of; None for the real one.
    """
    suffix = "" if site is None else f"-{site}"
    if kind is StoreKind.KEYRING:
        # It reads the metadata of all packages that are installed.
        from openrouter_async.sinks import KeyringSink

        keyring = KeyringSink(_APP, username=f"default{suffix}")
        return Place(kind=kind, where="the keyring", vault=keyring, check=_check_keyring)
    if kind is StoreKind.ENV:
        private = PrivateFile(file or Path(".env"))
        return Place(kind=kind, where=str(private.path), vault=EnvSink(private.path), check=private.check)
    private = PrivateFile(file or _data_folder() / f"key{suffix}.json")
    return Place(kind=kind, where=str(private.path), vault=FileSink(private.path), check=private.check)


def place_for(storage: Storage, site: Site) -> Place | None:
    """Where a new key goes; None when it is printed and kept nowhere.

    Raises:
        UsageError: Nothing can be kept in the place that the user wants.
    """
    kind = storage.store
    if kind is StoreKind.PRINT:
        return None
    if kind is None:
        kind = StoreKind.FILE if storage.file is not None or not _has_keyring() else StoreKind.KEYRING
    place = find_place(kind, storage.file, site.name)
    try:
        place.check()
    except KeySinkError as failure:
        # Before a code is spent, it is the command that is wrong.
        raise UsageError(f"The key cannot be kept: {failure}. Choose another place by --store and --file.") from None
    return place


def places_of(storage: Storage, site: Site) -> list[Place]:
    """Where a key may be: in the place that the user names, or else in the two that `login` takes by itself."""
    if storage.store is StoreKind.PRINT:
        raise UsageError("What was printed is kept nowhere: --store print goes with login and exchange alone.")
    if storage.store is not None:
        return [find_place(storage.store, storage.file, site.name)]
    kinds = [StoreKind.FILE] if storage.file is not None or not _has_keyring() else [StoreKind.KEYRING, StoreKind.FILE]
    return [find_place(kind, storage.file, site.name) for kind in kinds]


def rescue_place(key_hash: str) -> Place:
    """A file of its own for a key that its place did not take."""
    return find_place(StoreKind.FILE, _data_folder() / f"rescued-{key_hash[:16]}.json", None)


def _data_folder() -> Path:
    import platformdirs

    return platformdirs.user_data_path(_APP, appauthor=False)


def _has_keyring() -> bool:
    try:
        _check_keyring()
    except KeySinkError:
        return False
    return True


def _check_keyring() -> None:
    import keyring

    try:
        # A keyring that is switched off has a negative priority, one that is none has 0.
        usable = keyring.get_keyring().priority > 0
    except Exception:  # noqa: BLE001 - backends raise what their systems raise
        usable = False
    if not usable:
        raise KeySinkError("this computer has no keyring that can be used")
