"""The public type aliases, and types of public fields, for annotations in code that uses the library."""

from openrouter_async._client.config import ApiKeySource, ClientOptions, OnKey
from openrouter_async._http.chain import Handler, Middleware, SendState
from openrouter_async._http.retry import OnRetry
from openrouter_async._values.encryptor import EncryptionKeys
from openrouter_async.batch._progress import OnProgress
from openrouter_async.batch._results import Requests, StopOn
from openrouter_async.login._callbacks import CallbackInput
from openrouter_async.login._session import Prompt
from openrouter_async.sinks._base import Save

__all__ = [
    "ApiKeySource",
    "CallbackInput",
    "ClientOptions",
    "EncryptionKeys",
    "Handler",
    "Middleware",
    "OnKey",
    "OnProgress",
    "OnRetry",
    "Prompt",
    "Requests",
    "Save",
    "SendState",
    "StopOn",
]
