"""Keys for the encryption of data that leaves the process: pending logins, queued exchanges, journals.

It needs cryptography, which the extras ``cookie``, ``redis``, ``taskiq`` and ``journal`` bring.
"""

from __future__ import annotations

from openrouter_async._values.encryptor import EncryptionKeys, to_hint

__all__ = ["EncryptionKeys", "generate_encryption_key"]


def generate_encryption_key() -> str:
    """Return a new Fernet key for stores, queues and journals.

    Keep it as secret as a password, and give the same one to all workers.

    Raises:
        ImportError: cryptography is not installed.
    """
    try:
        from cryptography.fernet import Fernet
    except ImportError as missing:
        raise to_hint("cookie") from missing
    return Fernet.generate_key().decode("ascii")


if __name__ == "__main__":
    print(generate_encryption_key())  # noqa: T201
