"""Storage of keys: in the system's keyring, a file of their own, or a line of a file ``.env``."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs
from yarl import URL

from openrouter_async.cli._env_file import EnvSink
from openrouter_async.cli._exit import UsageError
from openrouter_async.cli._options import Output, Site, Storage, StoreKind
from openrouter_async.login._models import Grant
from openrouter_async.login._urls import AUTHORIZATION_URL
from openrouter_async.redaction._masks import mask_key
from openrouter_async.sinks._base import KeySinkError, KeyVault, StoredKey
from openrouter_async.sinks._file import FileSink
from openrouter_async.sinks._private_file import PrivateFile

if TYPE_CHECKING:
    from openrouter_async.sinks._keyring import KeyringSink

T = TypeVar("T")

APP: Final = "openrouter-async"
_KEY_FILE: Final = re.compile(r"key(?:-(.+-\d+))?\.json")
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
        keyring = KeyringSink(APP, username=name, timeout=timeout)
        probe = KeyringSink(APP, username=f"{name}-probe", timeout=timeout)
        return KeyLocation(kind=kind, where="the keyring", vault=keyring, prepare=lambda: _try_keyring(probe))
    if kind is StoreKind.ENV:
        path = PrivateFile(file or Path(".env")).path
        env = EnvSink(path)
        return KeyLocation(kind=kind, where=str(path), vault=env, prepare=lambda: asyncio.to_thread(env.prepare))
    return file_location(file or _data_folder() / f"key{suffix}.json")


def file_location(path: Path) -> KeyLocation:
    """Return the location of a file for a key."""
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
        UsageError: A key cannot be stored in the location that the user wants.
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
        raise UsageError("A printed key is stored nowhere: --store print is for login and exchange only.")
    if storage.store is not None or storage.file is not None:
        kind = storage.store or StoreKind.FILE
        return [locate(kind, storage.file, site.name, timeout=_EXPLICIT_KEYRING_TIMEOUT)]
    kinds = (StoreKind.KEYRING, StoreKind.FILE)
    locations = [locate(kind, None, site.name, timeout=_DEFAULT_KEYRING_TIMEOUT) for kind in kinds]
    name = re.compile(re.escape(_rescue_prefix(site.name)) + r"[0-9a-f]{16}\.json")
    folder = _data_folder()
    with contextlib.suppress(OSError):
        locations += [file_location(path) for path in sorted(folder.iterdir()) if name.fullmatch(path.name)]
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


def other_servers(site: Site) -> list[str]:
    """Return the hosts and ports of the other servers whose keys are in files here."""
    found: list[str] = []
    with contextlib.suppress(OSError, UsageError):
        for path in sorted(_data_folder().iterdir()):
            match = _KEY_FILE.fullmatch(path.name)
            if match is not None and match[1] != site.name:
                host = match[1] or f"{URL(AUTHORIZATION_URL).host}-443"
                found.append(":".join(host.rsplit("-", 1)).removesuffix(":443"))
    return found


def fallback_location(key_hash: str, site: str | None = None) -> KeyLocation:
    """Return the file for a key that its location did not accept."""
    return file_location(_data_folder() / f"{_rescue_prefix(site)}{key_hash[:16]}.json")


def _rescue_prefix(site: str | None) -> str:
    return "rescued-" if site is None else f"rescued-{site}-"


def _data_folder() -> Path:
    import platformdirs

    try:
        folder = platformdirs.user_data_path(APP, appauthor=False)
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
