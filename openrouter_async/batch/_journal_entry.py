"""An entry of a journal, and how the key in it is encrypted."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import attrs

from openrouter_async._values.encryptor import DecryptionError, Encryptor
from openrouter_async.batch._status import RequestStatus
from openrouter_async.errors import JournalError
from openrouter_async.redaction._masks import mask_key


@attrs.frozen(kw_only=True)
class JournalEntry:
    """A journal's record of one request.

    Attributes:
        request: The `request_digest` of the request.
        status: The status of the request.
        at: When that was written.
        key: The user's API key; None if there is none, or if the journal does not store it or it cannot be decrypted.
        key_hash: The SHA-256 of the key in lowercase hex, by which OpenRouter's pages name it; None without a key.
        user_id: The user's id; None if OpenRouter did not send it, or if it cannot be decrypted.
        error: The failure of the last attempt; None if it succeeded, or if its result is not known.
    """

    request: str
    status: RequestStatus
    at: datetime
    key: str | None = attrs.field(default=None, repr=mask_key)
    key_hash: str | None = None
    user_id: str | None = None
    error: str | None = None


def seal(encryptor: Encryptor, request: str, key: str, user_id: str | None) -> bytes:
    """Encrypt a key together with its user, so that neither can be swapped with that of another entry."""
    return encryptor.encrypt(f"journal {request}", json.dumps([key, user_id]).encode())


def unseal(encryptor: Encryptor, request: str, sealed: bytes, path: Path) -> tuple[str, str | None]:
    """Decrypt what `seal` made.

    Raises:
        JournalError: It was sealed with other keys, or for another request.
    """
    try:
        key, user_id = json.loads(encryptor.decrypt(f"journal {request}", sealed))
    except DecryptionError:
        raise JournalError(f"{path}: a key in it was not sealed with the given encryption_keys") from None
    return key, user_id
