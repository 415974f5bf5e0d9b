"""Encryption of what leaves the process; needs the extra ``cookie`` or ``journal``, which are the same."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias

from openrouter_async.errors import RequestValidationError

try:
    from cryptography.fernet import Fernet, InvalidToken, MultiFernet
except ImportError as missing:
    raise ImportError("sealing needs cryptography: pip install 'openrouter-async[cookie]'") from missing

Keys: TypeAlias = str | bytes | Iterable[str | bytes]
"""A Fernet key, or some: the first one seals, all of them open. `generate_encryption_key` makes one."""

_PADDING: Final = b"="


def generate_encryption_key() -> str:
    """A new key for stores and journals: keep it as secret as a password, and the same in all workers."""
    return Fernet.generate_key().decode("ascii")


class DecryptionError(Exception):
    """What should be opened is altered, cut off, sealed for something else, or with a key that is not there."""


class Encryptor:
    """Encrypts and authenticates by Fernet: AES-128-CBC and HMAC-SHA256.

    Fernet knows no associated data, so what a value is sealed for is sealed with it: one login's data cannot be put in
    the place of another's, nor a pending login in the place of a result.

    Args:
        keys: See `Keys`.

    Raises:
        RequestValidationError: There is no key, or one is not 32 bytes in base64url.
    """

    def __init__(self, keys: Keys) -> None:
        several = (keys,) if isinstance(keys, (str, bytes)) else tuple(keys)
        if not several:
            raise RequestValidationError("keys", "must hold a key at least")
        try:
            self._fernet = MultiFernet([Fernet(key) for key in several])
        except (ValueError, TypeError):
            raise RequestValidationError("keys", "must be Fernet keys: 32 bytes in base64url") from None

    def encrypt(self, purpose: str, data: bytes) -> bytes:
        """Encrypt.

        Args:
            purpose: What it is for; it takes the same to open it.
            data: What to encrypt.

        Returns:
            Characters of base64url, without padding, which some parsers of cookies would put in quotes.
        """
        return self._fernet.encrypt(purpose.encode() + b"\n" + data).rstrip(_PADDING)

    def decrypt(self, purpose: str, sealed: bytes) -> bytes:
        """Decrypt.

        Raises:
            DecryptionError: It was not sealed so, with one of the keys, for this purpose.
        """
        try:
            data = self._fernet.decrypt(sealed + _PADDING * (-len(sealed) % 4))
        except InvalidToken:
            raise DecryptionError from None
        found, _, data = data.partition(b"\n")
        # It is authenticated by now, so how long this takes tells nothing that is secret.
        if found != purpose.encode():
            raise DecryptionError
        return data


if __name__ == "__main__":
    print(generate_encryption_key())  # noqa: T201
