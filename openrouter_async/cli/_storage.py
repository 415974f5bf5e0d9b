"""Where a key is kept: the system's keyring, a file of its own, or a line of a file ``.env``."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import attrs

from openrouter_async._values.models import ExchangeAuthCodeForAPIKeyRequest, ExchangeAuthCodeForAPIKeyResponse
from openrouter_async.cli._exit import ExitCode, UsageError
from openrouter_async.cli._options import Output, Site, Storage, StoreKind
from openrouter_async.login._models import Grant
from openrouter_async.redaction import mask_key
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
class KeyLocation:
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


def locate(kind: StoreKind, file: Path | None, site: str | None) -> KeyLocation:
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
        return KeyLocation(kind=kind, where="the keyring", vault=keyring, check=_check_keyring)
    if kind is StoreKind.ENV:
        private = PrivateFile(file or Path(".env"))
        return KeyLocation(kind=kind, where=str(private.path), vault=EnvSink(private.path), check=private.check)
    private = PrivateFile(file or _data_folder() / f"key{suffix}.json")
    return KeyLocation(kind=kind, where=str(private.path), vault=FileSink(private.path), check=private.check)


def location_for_new_key(storage: Storage, site: Site) -> KeyLocation | None:
    """Where a new key goes; None when it is printed and kept nowhere.

    Raises:
        UsageError: Nothing can be kept in the place that the user wants.
    """
    kind = storage.store
    if kind is StoreKind.PRINT:
        return None
    if kind is None:
        kind = StoreKind.FILE if storage.file is not None or not _has_keyring() else StoreKind.KEYRING
    place = locate(kind, storage.file, site.name)
    try:
        place.check()
    except KeySinkError as failure:
        # Before a code is spent, it is the command that is wrong.
        raise UsageError(f"The key cannot be kept: {failure}. Choose another place by --store and --file.") from None
    return place


def locations_to_search(storage: Storage, site: Site) -> list[KeyLocation]:
    """Where a key may be: in the place that the user names, or else in the two that `login` takes by itself."""
    if storage.store is StoreKind.PRINT:
        raise UsageError("What was printed is kept nowhere: --store print goes with login and exchange alone.")
    if storage.store is not None:
        return [locate(storage.store, storage.file, site.name)]
    kinds = [StoreKind.FILE] if storage.file is not None or not _has_keyring() else [StoreKind.KEYRING, StoreKind.FILE]
    return [locate(kind, storage.file, site.name) for kind in kinds]


def fallback_location(key_hash: str) -> KeyLocation:
    """A file of its own for a key that its place did not take."""
    return locate(StoreKind.FILE, _data_folder() / f"rescued-{key_hash[:16]}.json", None)


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


def describe(grant: Grant) -> dict[str, Any]:
    """What may be shown of a key."""
    return {
        "key": mask_key(grant.key),
        "key_hash": grant.key_hash,
        "user_id": grant.user_id,
        "settings_url": grant.settings_url,
        "logs_url": grant.logs_url,
    }


class KeySaver:
    """Keeps the key of an exchange, as ``on_key``: also when the user interrupts the command meanwhile.

    Args:
        place: Where the key goes; None prints it.
        output: How to tell.

    Attributes:
        status: The exit status of the command: a key that is elsewhere than the user wants is a failure.
    """

    def __init__(self, place: KeyLocation | None, output: Output) -> None:
        self._place = place
        self._output = output
        self.status = ExitCode.DONE

    async def __call__(
        self, request: ExchangeAuthCodeForAPIKeyRequest, response: ExchangeAuthCodeForAPIKeyResponse
    ) -> None:
        """Keep the key of an exchange.

        Raises:
            KeySinkError: It cannot be kept anywhere.
        """
        grant = Grant(key=response.key, user_id=response.user_id)
        place = self._place
        if place is None:
            self._print(grant)
            return
        try:
            await place.vault.save(grant.key, user_id=grant.user_id)
        except KeySinkError as failure:
            place = fallback_location(grant.key_hash)
            await place.vault.save(grant.key, user_id=grant.user_id)
            self.status = ExitCode.FAILED
            self._output.tell(f"The key could not be kept where you wanted it: {failure}.")
        document = describe(grant) | {"stored_in": place.kind.value, "stored_at": place.where}
        who = "Signed in" if grant.user_id is None else f"Signed in as {grant.user_id}"
        self._output.result(
            document,
            (
                f"{who}. The key {mask_key(grant.key)} is in {place.where}.",
                f"Its limits, and how to delete it: {grant.settings_url}",
            ),
        )

    def _print(self, grant: Grant) -> None:
        self._output.result(describe(grant) | {"key": grant.key, "stored_in": "print", "stored_at": None}, (grant.key,))
        self._output.note(f"This key is kept nowhere. Its limits, and how to delete it: {grant.settings_url}")
