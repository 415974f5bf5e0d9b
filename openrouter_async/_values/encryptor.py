"""Encryption of data that leaves the process: pending logins, queued exchanges, journals.

It needs cryptography, which the extras ``cookie``, ``redis``, ``taskiq`` and ``journal`` bring. The package is imported
when the first `Encryptor` is made, so that stores can be imported without it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, TypeAlias

from openrouter_async._values.frames import hide_arguments
from openrouter_async.errors import RequestValidationError

EncryptionKeys: TypeAlias = str | bytes | Iterable[str | bytes]
"""A Fernet key, or several: the first one encrypts, all of them decrypt. `generate_encryption_key` makes one."""

_PADDING: Final = b"="
_BASE64URL: Final = rb"[A-Za-z0-9_-]*"


class DecryptionError(Exception):
    """The data were altered, truncated, encrypted in another context, or encrypted with a key that was not given."""


class Encryptor:
    """Encrypts and authenticates by Fernet: AES-128-CBC and HMAC-SHA256.

    Fernet has no associated data, so the context of a value is encrypted together with it: one login's data cannot
    replace another's, nor can a pending login replace a result.

    Args:
        encryption_keys: See `EncryptionKeys`.
        extra: The extra that the error names when cryptography is missing.

    Raises:
        ImportError: cryptography is not installed.
        RequestValidationError: There is no key, or one is not 32 bytes in base64url.
    """

    @hide_arguments
    def __init__(self, encryption_keys: EncryptionKeys, *, extra: str = "cookie") -> None:
        try:
            from cryptography.fernet import Fernet, InvalidToken, MultiFernet
        except ImportError as missing:
            raise to_hint(extra) from missing
        keys = (encryption_keys,) if isinstance(encryption_keys, (str, bytes)) else tuple(encryption_keys)
        if not keys:
            raise RequestValidationError("encryption_keys", "must hold at least one key")
        try:
            self._fernet = MultiFernet([Fernet(key) for key in keys])
        except (ValueError, TypeError):
            raise RequestValidationError("encryption_keys", "must be Fernet keys: 32 bytes in base64url") from None
        finally:
            del keys, encryption_keys
        self._invalid_token = InvalidToken

    def encrypt(self, context: str, data: bytes) -> bytes:
        """Encrypt data for a context.

        Args:
            context: The use of the data; `decrypt` has to be given the same.
            data: The plain data.

        Returns:
            Text in base64url without padding, because some cookie parsers require quotes around "=".
        """
        return self._fernet.encrypt(context.encode() + b"\n" + data).rstrip(_PADDING)

    def decrypt(self, context: str, sealed: bytes) -> bytes:
        """Decrypt data of a context.

        Args:
            context: The context that was given to `encrypt`.
            sealed: The result of `encrypt`.

        Returns:
            The plain data.

        Raises:
            DecryptionError: The data were not encrypted with one of the keys in this context.
        """
        # Decoders skip other characters, so that altered data would pass; on Python 3.15 they also warn of some.
        if not re.fullmatch(_BASE64URL, sealed):
            raise DecryptionError
        try:
            data = self._fernet.decrypt(sealed + _PADDING * (-len(sealed) % 4))
        except self._invalid_token:
            raise DecryptionError from None
        found, _, data = data.partition(b"\n")
        # Fernet has authenticated the data, so the time of this comparison reveals nothing secret.
        if found != context.encode():
            # Not in a frame of the error.
            del data
            raise DecryptionError
        return data


def to_hint(extra: str) -> ImportError:
    return ImportError(f"encryption needs cryptography: pip install 'openrouter-async[{extra}]'")
