"""A key in the keyring of the system; needs the extra ``keyring``."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from openrouter_async._values.clock import SYSTEM_CLOCK, Clock
from openrouter_async.errors import RequestValidationError
from openrouter_async.sinks._base import BaseKeySink, KeySinkError, StoredKey

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend


class KeyringSink(BaseKeySink):
    """Holds a key in the keyring of the system: Keychain, Credential Locker, Secret Service, KWallet.

    The entry's password is the JSON that `StoredKey` tells of. What was put there is read back once, for a keyring that
    is switched off takes everything and keeps nothing.

    Args:
        service: The name of the entry: the app's.
        username: Whose key it is, when the app has several users.
        backend: The keyring; None takes the one that the computer or its settings name.
        clock: Where time comes from.

    Raises:
        ImportError: keyring is not installed.
        RequestValidationError: A name is empty or not a string.
    """

    def __init__(
        self,
        service: str = "openrouter-async",
        *,
        username: str = "default",
        backend: KeyringBackend | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        try:
            import keyring  # noqa: F401 - a missing extra is reported when the sink is made, not when a key is there
        except ImportError as missing:
            raise ImportError("KeyringSink needs keyring: pip install 'openrouter-async[keyring]'") from missing
        for field, value in (("service", service), ("username", username)):
            if not isinstance(value, str) or not value:
                raise RequestValidationError(field, "must be a string that is not empty")
        self._service = service
        self._username = username
        self._backend = backend
        self._clock = clock

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._service} {self._username}>"

    async def save(self, key: str, *, user_id: str | None = None) -> None:
        """Put the key into the keyring.

        Args:
            key: The user's API key.
            user_id: The user's id.

        Raises:
            RequestValidationError: The key is empty or not a string.
            KeySinkError: There is no keyring, or it does not take the key.
        """
        await asyncio.to_thread(self._save, StoredKey.make(key, user_id, self._clock))

    async def load(self) -> StoredKey | None:
        """Read the key; None when the keyring has none.

        Raises:
            KeySinkError: There is no keyring, it is locked, or what it has is something else.
        """
        text = await asyncio.to_thread(self._read)
        return None if text is None else StoredKey.from_json(text)

    async def delete(self) -> bool:
        """Take the key out of the keyring.

        Returns:
            Whether there was one.

        Raises:
            KeySinkError: There is no keyring, or it does not give the key up.
        """
        return await asyncio.to_thread(self._delete)

    # All of these block: they may ask the user to unlock the keyring, and even finding one reads files.

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
            raise KeySinkError("the keyring took the key and does not give it back: is it switched off?")

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
        raise KeySinkError("this computer has no keyring that can be used; store the key in a file instead") from None
    except Exception as failure:  # noqa: BLE001 - backends raise what their systems raise; it may quote the key
        raise KeySinkError(f"the keyring cannot be used: {type(failure).__name__}") from None
