"""Exit statuses, and descriptions of errors in one line."""

from __future__ import annotations

import enum
from typing import Any, Final

from openrouter_async.errors import (
    APIError,
    JournalError,
    KeyDeliveryError,
    OpenRouterError,
    Outcome,
    RequestValidationError,
    ResponseValidationError,
    TooManyRequestsResponseError,
    UnauthorizedResponseError,
)
from openrouter_async.login._models import Grant
from openrouter_async.login.errors import InvalidCallbackError, LoginError, LoginTimeoutError, LoopbackUnavailableError
from openrouter_async.sinks._base import KeySinkError


class ExitCode(enum.IntEnum):
    """The exit status of a command."""

    DONE = 0
    FAILED = 1
    """A file or the keyring of this computer failed, or there is no key."""
    USAGE = 2
    REFUSED = 3
    UNKNOWN = 4
    NETWORK = 5
    INTERRUPTED = 130


class UsageError(Exception):
    """Invalid input for a command; the message names the problem and a remedy."""


class OutputError(Exception):
    """A failure to write the standard output; the message gives the reason."""


# Fields of the library whose option has a different name.
_NAMES: Final = {"api_key": "the API key", "code": "the code", "path": "--file", "lifetime": "--wait"}
_START_AGAIN: Final = "Start again with `openrouter-async login`: a code is good for one use, and for ten minutes."


def exit_status(error: BaseException) -> ExitCode:
    """Return the exit status for an error."""
    match error:
        case KeyboardInterrupt():
            return ExitCode.INTERRUPTED
        case UsageError() | RequestValidationError() | LoopbackUnavailableError() | InvalidCallbackError():
            return ExitCode.USAGE
        case KeyDeliveryError() | KeySinkError() | JournalError():
            return ExitCode.FAILED
        case LoginTimeoutError():
            return ExitCode.REFUSED
        case OpenRouterError(outcome=Outcome.REFUSED):
            return ExitCode.REFUSED
        case OpenRouterError(outcome=Outcome.UNKNOWN):
            return ExitCode.UNKNOWN
        case LoginError():
            return ExitCode.REFUSED
        case OpenRouterError():
            return ExitCode.NETWORK
        case _:
            return ExitCode.FAILED


def explain(error: BaseException, command: str | None = None) -> str:
    """Describe an error and its remedy, in one line and without a secret.

    Args:
        error: The error.
        command: The command that failed.
    """
    match error:
        case KeyboardInterrupt():
            text = "Interrupted."
        case UsageError() | OutputError():
            text = str(error)
        case RequestValidationError():
            option = "--" + error.field.replace("_", "-")
            # A field in capitals is a variable of the environment.
            name = error.field if error.field.isupper() else _NAMES.get(error.field, option)
            text = _sentence(str(error).replace(f"{error.field}:", name, 1))
        case OpenRouterError():
            text = f"{_sentence(str(error))} {_advice(error, command)}"
        case OSError():
            text = _sentence(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error))
        case _:
            # An unexpected error's message may hold a secret, so show only its class.
            text = f"A bug in openrouter-async ({type(error).__name__}): see it with --debug, and please report it."
    return " ".join(text.split())


def as_document(error: BaseException, command: str | None = None) -> dict[str, Any]:
    """Describe an error as JSON fields; see `explain`."""
    document: dict[str, Any] = {
        "type": type(error).__name__,
        "message": explain(error, command),
        "exit_status": int(exit_status(error)),
    }
    if isinstance(error, OpenRouterError):
        document |= {"outcome": error.outcome.value, "attempts": error.attempts, "retry_after": error.retry_after}
    if isinstance(error, APIError):
        document |= {"status_code": error.status_code, "request_id": error.request_id}
    return document


def _advice(error: OpenRouterError, command: str | None) -> str:
    match error:
        case KeyDeliveryError():
            page = Grant(key=error.response.key).settings_url
            return f"The key was issued, but is lost: delete it at {page} and start again."
        case KeySinkError():
            return "Another place can be given with --store and --file."
        case JournalError():
            return "Nothing is sent without a journal."
        case LoginError():
            return error.user_message
        case _:
            return _advice_on_request(error, command)


def _advice_on_request(error: OpenRouterError, command: str | None) -> str:
    match error:
        case TooManyRequestsResponseError():
            return f"Try again in {_duration(error.retry_after)}; what you sent is still good."
        case UnauthorizedResponseError():
            return "Give a valid API key in OPENROUTER_API_KEY or by --api-key-file."
        case APIError(is_code_rejected=True, outcome=Outcome.REFUSED):
            return _START_AGAIN
        case APIError(outcome=Outcome.REFUSED):
            return "Correct what OpenRouter objects to."
        case OpenRouterError(outcome=Outcome.UNKNOWN) if command == "create-code":
            return "A code may have been created; creating another one does no harm."
        case ResponseValidationError():
            return f"Is --base-url right? {error.user_message}"
        case OpenRouterError(outcome=Outcome.NOT_SENT):
            return "Check the network and --base-url, and try again; nothing was sent."
        case _:
            return error.user_message


def _duration(seconds: float | None) -> str:
    return "a moment" if seconds is None else f"{seconds:.0f} seconds"


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "?", "!")) else text + "."
