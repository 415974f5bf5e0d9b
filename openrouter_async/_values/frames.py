"""Secrets and the frames of a traceback: error reporters store the local variables of each."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

from openrouter_async.errors import OpenRouterError

P = ParamSpec("P")
R = TypeVar("R")
Kind = TypeVar("Kind", bound=type[Any])


def describe(error: BaseException) -> str:
    """Describe an error in a text that is safe to log.

    Only the messages of the library's own errors are known to hold no secret. For any other exception, the text names
    the class and the place where it was raised.
    """
    if isinstance(error, OpenRouterError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}"


def hide_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function whose `OpenRouterError` has no frame that holds an argument, or a part of one.

    The message says what is wrong with the argument, so the frames below are not missed.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except OpenRouterError as invalid:
            failure = invalid.with_traceback(None)
            failure.__context__ = None
        finally:
            del args, kwargs
        try:
            raise failure
        finally:
            # The traceback holds this frame.
            del failure

    return call


def hide_init_arguments(kind: Kind) -> Kind:
    """Apply `hide_arguments` to the ``__init__`` of a class, such as one that attrs writes."""
    kind.__init__ = hide_arguments(kind.__init__)
    return kind


def without_secrets(failure: BaseException, secrets: Iterable[str | None]) -> BaseException | None:
    """Return an exception of a hook as the cause of an error; None if its text, or that of its causes, shows a secret.

    Databases quote the statement that failed, and its parameters with it.
    """
    text = "".join(traceback.format_exception(failure))
    return None if any(secret and secret in text for secret in secrets) else failure
