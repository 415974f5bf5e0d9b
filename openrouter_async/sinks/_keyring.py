"""A key in the system's keyring; needs the extra ``keyring``."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeVar

from openrouter_async._values.clock import SYSTEM_CLOCK, Clock
from openrouter_async._values.threads import run_in_daemon_thread
from openrouter_async._values.validation import check_number
from openrouter_async.errors import RequestValidationError
from openrouter_async.sinks._base import BaseKeySink, KeySinkError, StoredKey

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend
else:
    # keyring is optional at run time, but `typing.get_type_hints` must be able to resolve this name.
    KeyringBackend = Any


T = TypeVar("T")

DEFAULT_TIMEOUT: Final = 60.0
"""Seconds for one call: long enough to type a password into the dialog that unlocks a keyring."""


class NoKeyringError(KeySinkError):
    """This computer has no keyring."""


class KeyringSink(BaseKeySink):
    """Store a key in the system's keyring: Keychain, Credential Locker, Secret Service, KWallet.

    The password of the entry is the JSON described at `StoredKey`. A saved key is read back once, because a disabled
    keyring accepts everything and stores nothing. Every call runs in a daemon thread and is bounded by ``timeout``: a
    locked Secret Service waits for a dialog that nobody sees, over SSH for example.

    Args:
        service: The name of the entry, usually the app's name.
        username: The user whose key it is, for an app with several users.
        backend: The keyring; None uses the default one of this computer.
        timeout: Seconds to wait for one answer of the keyring, including the user who unlocks it; None waits for ever.
        clock: The source of time.

    Raises:
        ImportError: keyring is not installed.
        RequestValidationError: A name is empty or not a string, or the timeout is not a positive number.
    """

    def __init__(
        self,
        service: str = "openrouter-async",
        *,
        username: str = "default",
        backend: KeyringBackend | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        try:
            import keyring  # noqa: F401 - a missing extra is reported when the sink is made, not when a key is there
        except ImportError as missing:
            raise ImportError("KeyringSink needs keyring: pip install 'openrouter-async[keyring]'") from missing
        if timeout is not None:
            check_number("timeout", timeout, least=0, exclusive=True)
        for field, value in (("service", service), ("username", username)):
            if not isinstance(value, str) or not value:
                raise RequestValidationError(field, "must be a string that is not empty")
        self._service = service
        self._username = username
        self._backend = backend
        self._timeout = timeout
        self._clock = clock

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._service} {self._username}>"

    async def save(self, key: str, *, user_id: str | None = None) -> None:
        """Store the key in the keyring, replacing the one before; see `KeySink.save`.

        Raises:
            RequestValidationError: The key is empty or not a string.
            KeySinkError: There is no keyring, it refuses the key, or it does not answer in time.
        """
        stored = StoredKey.make(key, user_id, self._clock)
        del key
        await self._bounded(lambda: self._save(stored))

    async def load(self) -> StoredKey | None:
        """Read the key.

        Returns:
            The key; None if the keyring has none.

        Raises:
            KeySinkError: There is no keyring, it is locked, it does not answer in time, or the entry is not a key.
        """
        text = await self._bounded(self._read)
        try:
            return None if text is None else StoredKey.from_json(text)
        finally:
            # A traceback that shows local variables would show the key.
            del text

    async def delete(self) -> bool:
        """Delete the key from the keyring.

        Returns:
            Whether there was one.

        Raises:
            KeySinkError: There is no keyring, it refuses to delete the key, or it does not answer in time.
        """
        return await self._bounded(self._delete)

    async def _bounded(self, call: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(self._timeout):
                return await run_in_daemon_thread(call, name="openrouter-async-keyring")
        except TimeoutError:
            raise KeySinkError(f"the keyring did not answer within {self._timeout:g} seconds") from None

    # All of these block: they may ask the user to unlock the keyring, and even finding the backend reads files.

    def _find(self) -> KeyringBackend:
        import keyring

        return keyring.get_keyring() if self._backend is None else self._backend

    def _save(self, stored: StoredKey) -> None:
        text = stored.to_json()
        with _explained():
            backend = self._find()
            backend.set_password(self._service, self._username, text)
            kept = backend.get_password(self._service, self._username)
        if kept != text:
            raise KeySinkError("the keyring accepted the key but does not return it: is it disabled?")

    def _read(self) -> str | None:
        with _explained():
            return self._find().get_password(self._service, self._username)

    def _delete(self) -> bool:
        with _explained():
            backend = self._find()
            if backend.get_password(self._service, self._username) is None:
                return False
            backend.delete_password(self._service, self._username)
            return True


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    import keyring.errors

    try:
        yield
    except keyring.errors.NoKeyringError:
        raise NoKeyringError("this computer has no keyring that can be used; store the key in a file instead") from None
    # Backends raise whatever their systems raise, such as a panic of Rust; the message may quote the key.
    except BaseException as failure:  # noqa: BLE001 - this thread is there for the keyring alone
        raise KeySinkError(f"the keyring cannot be used: {type(failure).__name__}") from None
