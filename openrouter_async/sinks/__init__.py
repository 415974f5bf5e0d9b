"""Safe places for a key: each can be given to a client as ``on_key``."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from openrouter_async.sinks._base import CallbackSink, KeySink, KeySinkError, KeyVault, StoredKey
from openrouter_async.sinks._file import FileSink

if TYPE_CHECKING:
    from openrouter_async.sinks._keyring import KeyringSink

# It needs an extra.
_ON_DEMAND: Final = {"KeyringSink": "openrouter_async.sinks._keyring"}


def __getattr__(name: str) -> Any:
    if name in _ON_DEMAND:
        return getattr(import_module(_ON_DEMAND[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "CallbackSink",
    "FileSink",
    "KeySink",
    "KeySinkError",
    "KeyVault",
    "KeyringSink",
    "StoredKey",
]
