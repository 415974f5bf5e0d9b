"""Key sinks: places to store keys, each of which can be a client's ``on_key``."""

from openrouter_async.sinks._base import CallbackSink, KeySink, KeySinkError, KeyVault, StoredKey
from openrouter_async.sinks._file import FileSink
from openrouter_async.sinks._keyring import KeyringSink, NoKeyringError

__all__ = [
    "CallbackSink",
    "FileSink",
    "KeySink",
    "KeySinkError",
    "KeyVault",
    "KeyringSink",
    "NoKeyringError",
    "StoredKey",
]
