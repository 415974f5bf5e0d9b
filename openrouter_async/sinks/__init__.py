"""Safe places for a key: each can be given to a client as ``on_key``."""

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
