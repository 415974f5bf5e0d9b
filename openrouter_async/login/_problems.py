"""The kinds and HTTP statuses of errors, for programs outside of this process: members of RFC 9457's problems."""

from __future__ import annotations

import logging
import re
from typing import Final, TypeVar

from openrouter_async.errors import APIError, OpenRouterError, Outcome, RequestValidationError
from openrouter_async.events import Event
from openrouter_async.login.errors import (
    AuthorizationDeniedError,
    AuthorizationError,
    LoginAlreadyUsedError,
    LoginCancelledError,
    LoginError,
    LoginExpiredError,
    LoginInProgressError,
    LoginLostError,
    LoginStoreError,
)

_T = TypeVar("_T")

DEFAULT_KIND: Final = "sign-in-failed"
"""The kind of an error that is not one of this library."""
_TYPE_PREFIX: Final = "urn:openrouter-async:"
_STATUSES: Final[tuple[tuple[type[OpenRouterError], int], ...]] = (
    (AuthorizationDeniedError, 403),
    (AuthorizationError, 502),
    (LoginAlreadyUsedError, 409),
    (LoginInProgressError, 409),
    (LoginCancelledError, 410),
    (LoginExpiredError, 410),
    (LoginLostError, 502),
    (LoginStoreError, 503),
    (LoginError, 400),
    (RequestValidationError, 400),
)
_WORD: Final = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def kind_of(error: Exception) -> str:
    """Return the kind of an error: the words of its class, such as ``login-expired``."""
    if not isinstance(error, OpenRouterError):
        return DEFAULT_KIND
    return "-".join(_WORD.split(type(error).__name__.removesuffix("Error"))).lower()


def type_of(kind: str) -> str:
    """Return the URI of a kind."""
    return _TYPE_PREFIX + kind


def status_of(error: OpenRouterError) -> int:
    """Return the HTTP status for an error: 4xx if the user can do something about it."""
    status = find_by_class(_STATUSES, error)
    if status is not None:
        return status
    if isinstance(error, APIError) and error.outcome is Outcome.REFUSED:
        if error.is_code_rejected:
            return 400
        return 503 if not error.restart_login else 500
    return {Outcome.NOT_SENT: 503, Outcome.UNKNOWN: 502}.get(error.outcome, 500)


def log_failure(
    logger: logging.Logger, error: OpenRouterError | None, *, status: int, kind: str, path: str | None = None
) -> None:
    """Log a failed login: a warning if the user can do nothing about it.

    Args:
        logger: The logger.
        error: The error; None if there is none.
        status: Its HTTP status.
        kind: Its kind.
        path: The path of the route, without secrets; None outside of web apps.
    """
    logger.log(
        logging.WARNING if status >= 500 else logging.INFO,
        "a login failed: %s",
        kind if error is None else error,
        extra={
            "event": Event.LOGIN_FAILED,
            "error_class": None if error is None else type(error).__name__,
            "outcome": str(Outcome.NOT_SENT if error is None else error.outcome),
            "path": path,
        },
    )


def find_by_class(table: tuple[tuple[type[OpenRouterError], _T], ...], error: OpenRouterError) -> _T | None:
    """Return the value of the first class that an error is an instance of; None if there is none."""
    return next((value for kind, value in table if isinstance(error, kind)), None)
