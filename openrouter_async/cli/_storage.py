"""Storage of keys: in the system's keyring, a file of their own, or a line of a file ``.env``."""

from __future__ import annotations

import asyncio
import contextlib
import re
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs

from openrouter_async._values.clock import SYSTEM_CLOCK
from openrouter_async._values.models import ExchangeAuthCodeForAPIKeyRequest, ExchangeAuthCodeForAPIKeyResponse
from openrouter_async.cli._env_file import VARIABLE, EnvSink
from openrouter_async.cli._exit import ExitCode, OutputError, UsageError
from openrouter_async.cli._options import Output, Site, Storage, StoreKind
from openrouter_async.login._models import Grant
from openrouter_async.redaction import mask_key
from openrouter_async.sinks._base import KeySinkError, KeyVault, StoredKey
from openrouter_async.sinks._file import FileSink
from openrouter_async.sinks._private_file import PrivateFile

if TYPE_CHECKING:
    from openrouter_async.sinks._keyring import KeyringSink

__all__ = [
    "VARIABLE",
    "KeyLocation",
    "KeySaver",
    "describe",
    "fallback_location",
    "load_keys",
    "locate",
    "location_for_new_key",
    "locations_to_search",
]

T = TypeVar("T")

_APP: Final = "openrouter-async"
_DEFAULT_KEYRING_TIMEOUT: Final = 5.0
"""Seconds for the keyring when the user did not ask for it: the key file is the alternative."""
_EXPLICIT_KEYRING_TIMEOUT: Final = 60.0
"""Seconds for the keyring when the user asked for it: enough to type the password that unlocks it."""
_ANNOUNCE_AFTER: Final = 1.0


@attrs.frozen(kw_only=True)
class KeyLocation:
    """A location for a key.

    Attributes:
        kind: The kind of location.
        where: Its name in messages.
        vault: Reads, writes and deletes the key there.
        prepare: Checks that a key can be stored, by all steps except storing one; raises `KeySinkError` if not.
    """

    kind: StoreKind
    where: str
    vault: KeyVault = attrs.field(repr=False)
    prepare: Callable[[], Awaitable[object]] = attrs.field(repr=False)


def locate(kind: StoreKind, file: Path | None, site: str | None, *, timeout: float) -> KeyLocation:
    """Return the location of a kind.

    Args:
        kind: The kind; not PRINT, which stores nothing.
        file: A path instead of the default one.
        site: The name of the server that issued the keys; None for the real OpenRouter.
        timeout: Seconds for one call of the keyring.
    """
    suffix = "" if site is None else f"-{site}"
    if kind is StoreKind.KEYRING:
        # Importing keyring reads the metadata of all installed packages.
        from openrouter_async.sinks import KeyringSink

        name = f"default{suffix}"
        keyring = KeyringSink(_APP, username=name, timeout=timeout)
        probe = KeyringSink(_APP, username=f"{name}-probe", timeout=timeout)
        return KeyLocation(kind=kind, where="the keyring", vault=keyring, prepare=lambda: _try_keyring(probe))
    if kind is StoreKind.ENV:
        path = PrivateFile(file or Path(".env")).path
        env = EnvSink(path)
        return KeyLocation(kind=kind, where=str(path), vault=env, prepare=lambda: asyncio.to_thread(env.prepare))
    return _file_location(file or _data_folder() / f"key{suffix}.json")


def _file_location(path: Path) -> KeyLocation:
    private = PrivateFile(path)
    return KeyLocation(
        kind=StoreKind.FILE,
        where=str(private.path),
        vault=FileSink(private.path),
        prepare=lambda: asyncio.to_thread(private.prepare),
    )


async def _try_keyring(probe: KeyringSink) -> None:
    await probe.save("probe")
    await probe.delete()


async def location_for_new_key(storage: Storage, site: Site, output: Output) -> KeyLocation | None:
    """Find the location for a new key, and check it before a code is used up.

    Returns:
        The location; None if the key is printed and stored nowhere.

    Raises:
        UsageError: No key can be stored in the location that the user wants.
    """
    kind = storage.store
    if kind is StoreKind.PRINT:
        return None
    if kind is None and storage.file is None:
        from openrouter_async.sinks._keyring import NoKeyringError

        keyring = locate(StoreKind.KEYRING, None, site.name, timeout=_DEFAULT_KEYRING_TIMEOUT)
        try:
            await _announced(keyring, keyring.prepare(), output)
        except NoKeyringError:
            pass
        except KeySinkError as failure:
            output.note(f"The key will be stored in a file, because {failure}.")
        else:
            return keyring
    location = locate(kind or StoreKind.FILE, storage.file, site.name, timeout=_EXPLICIT_KEYRING_TIMEOUT)
    try:
        await _announced(location, location.prepare(), output)
    except KeySinkError as failure:
        raise UsageError(f"The key cannot be kept: {failure}. Choose another place by --store and --file.") from None
    return location


async def _announced(location: KeyLocation, work: Awaitable[T], output: Output) -> T:
    """Wait for a call, and tell the user if the keyring takes long."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait((task,), timeout=_ANNOUNCE_AFTER)
        if not task.done() and location.kind is StoreKind.KEYRING:
            output.note("Waiting for the keyring to answer; it may have to be unlocked …")
        return await task
    finally:
        task.cancel()


def locations_to_search(storage: Storage, site: Site) -> list[KeyLocation]:
    """Return where a key may be: the location that the user names, or all that `login` may have chosen."""
    if storage.store is StoreKind.PRINT:
        raise UsageError("What was printed is kept nowhere: --store print goes with login and exchange alone.")
    if storage.store is not None or storage.file is not None:
        kind = storage.store or StoreKind.FILE
        return [locate(kind, storage.file, site.name, timeout=_EXPLICIT_KEYRING_TIMEOUT)]
    kinds = (StoreKind.KEYRING, StoreKind.FILE)
    locations = [locate(kind, None, site.name, timeout=_DEFAULT_KEYRING_TIMEOUT) for kind in kinds]
    name = re.compile(re.escape(_rescue_prefix(site.name)) + r"[0-9a-f]{16}\.json")
    folder = _data_folder()
    with contextlib.suppress(OSError):
        locations += [_file_location(path) for path in sorted(folder.iterdir()) if name.fullmatch(path.name)]
    return locations


async def load_keys(
    storage: Storage, site: Site, output: Output
) -> AsyncIterator[tuple[KeyLocation, StoredKey | KeySinkError | None]]:
    """Yield each location that may hold a key, with its key or the error of reading it."""
    from openrouter_async.sinks._keyring import NoKeyringError

    for location in locations_to_search(storage, site):
        try:
            stored = await _announced(location, location.vault.load(), output)
        except NoKeyringError as failure:
            if storage.store is not None:
                yield location, failure
        except KeySinkError as failure:
            yield location, failure
        else:
            yield location, stored


def fallback_location(key_hash: str, site: str | None = None) -> KeyLocation:
    """Return the file for a key that its location did not accept."""
    return _file_location(_data_folder() / f"{_rescue_prefix(site)}{key_hash[:16]}.json")


def _rescue_prefix(site: str | None) -> str:
    return "rescued-" if site is None else f"rescued-{site}-"


def _data_folder() -> Path:
    import platformdirs

    try:
        folder = platformdirs.user_data_path(_APP, appauthor=False)
        if folder.is_absolute():
            return folder
    except RuntimeError:
        pass
    # "~" cannot be expanded without HOME or an entry in the password database; old platformdirs return it unexpanded.
    raise UsageError("This user has no home folder: name a file by --file, or set HOME.")


def describe(grant: Grant) -> dict[str, Any]:
    """Return the fields of a key that may be shown."""
    return {
        "key": mask_key(grant.key),
        "key_hash": grant.key_hash,
        "user_id": grant.user_id,
        "settings_url": grant.settings_url,
        "logs_url": grant.logs_url,
    }


class KeySaver:
    """Stores the key of an exchange, as ``on_key``, even if the user interrupts the command meanwhile.

    Args:
        location: Where the key is stored; None prints it.
        storage: The location that the user asked for.
        site: The server that issues the key.
        output: How to report it.

    Attributes:
        status: The exit status of the command; a failure if the key is not stored where the user wants it.
    """

    def __init__(self, location: KeyLocation | None, storage: Storage, site: Site, output: Output) -> None:
        self._location = location
        self._is_explicit = storage.store is not None or storage.file is not None
        self._site = site
        self._output = output
        self.status = ExitCode.DONE

    async def __call__(
        self, request: ExchangeAuthCodeForAPIKeyRequest, response: ExchangeAuthCodeForAPIKeyResponse
    ) -> None:
        """Store the key of an exchange.

        Raises:
            KeySinkError: It could not be stored anywhere.
        """
        grant = Grant(key=response.key, user_id=response.user_id)
        if self._location is None:
            self._print(grant)
            return
        try:
            await self._location.vault.save(grant.key, user_id=grant.user_id)
        except KeySinkError as failure:
            location = self._rescue(grant)
            if self._is_explicit or location is None:
                self.status = ExitCode.FAILED
            self._output.tell(f"The key could not be kept where you wanted it: {failure}.")
        except BaseException:
            # An interrupt cancels even this call, but not the synchronous write of a file.
            location = self._rescue(grant)
            self._report(grant, location)
            raise
        else:
            location = self._location
        self._report(grant, location)

    def _rescue(self, grant: Grant) -> KeyLocation | None:
        """Write the key to the first file that can be written.

        Returns:
            Where it is; None if it was shown on the terminal.
        """
        data = StoredKey.make(grant.key, grant.user_id, SYSTEM_CLOCK).to_json().encode() + b"\n"
        for find in self._rescue_locations(grant.key_hash):
            try:
                location = find()
                PrivateFile(Path(location.where)).write(data)
            except (KeySinkError, UsageError, OSError):
                continue
            return location
        if not self._output.is_terminal:
            raise KeySinkError("no file could be written")
        self._output.tell(f"No file could be written. This is the key, which is kept nowhere:\n\n{grant.key}\n")
        return None

    def _rescue_locations(self, key_hash: str) -> list[Callable[[], KeyLocation]]:
        name = self._site.name
        file_name = f"{_APP}-rescued-{key_hash[:16]}.json"
        usual = lambda: locate(StoreKind.FILE, None, name, timeout=0)  # noqa: E731
        return [
            # If the user named a location, do not replace a key in the default file.
            *([] if self._is_explicit else [usual]),
            lambda: fallback_location(key_hash, name),
            lambda: _file_location(Path(file_name)),
            lambda: _file_location(Path(tempfile.mkdtemp(prefix=f"{_APP}-")) / file_name),
        ]

    def _report(self, grant: Grant, location: KeyLocation | None) -> None:
        stored = "print" if location is None else location.kind.value
        where = "nowhere" if location is None else location.where
        document = describe(grant) | {"stored_in": stored, "stored_at": None if location is None else where}
        who = "Signed in" if grant.user_id is None else f"Signed in as {grant.user_id}"
        lines = (
            f"{who}. The key {mask_key(grant.key)} is in {where}.",
            f"Its limits, and how to delete it: {grant.settings_url}",
        )
        try:
            self._output.result(document, lines)
        except OutputError as failure:
            self.status = ExitCode.FAILED
            self._output.tell(f"{failure}\n{lines[0]}")

    def _print(self, grant: Grant) -> None:
        document = describe(grant) | {"key": grant.key, "stored_in": "print", "stored_at": None}
        try:
            self._output.result(document, (grant.key,))
        except OutputError as failure:
            self.status = ExitCode.FAILED
            location = self._rescue(grant)
            self._output.tell(str(failure))
            if location is not None:
                self._output.tell(f"The key {mask_key(grant.key)} is in {location.where}.")
        else:
            self._output.note(f"This key is kept nowhere. Its limits, and how to delete it: {grant.settings_url}")
