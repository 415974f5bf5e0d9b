"""Hooks of the app, each a sync or async callable."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from openrouter_async.errors import RequestValidationError

T = TypeVar("T")


def check_hook(field: str, hook: object, arguments: int) -> None:
    """Raise unless `hook` can be called with so many positional arguments.

    Args:
        field: The name to use in the message.
        hook: The hook.
        arguments: The number of positional arguments.

    Raises:
        RequestValidationError: The hook is not callable, or takes another number of arguments.
    """
    if not callable(hook):
        raise RequestValidationError(field, "must be a sync or async callable")
    try:
        signature = inspect.signature(hook)
    except (TypeError, ValueError):
        # Some callables that are written in C do not tell their signature.
        return
    try:
        signature.bind(*range(arguments))
    except TypeError:
        raise RequestValidationError(field, f"must take {arguments} positional argument(s)") from None


async def call_hook(hook: Callable[..., Awaitable[T] | T], *arguments: Any) -> T:
    """Call a sync or async hook, and return its result."""
    try:
        result: Any = hook(*arguments)
    finally:
        # They hold codes and keys, which a traceback with local variables would show.
        del arguments
    value: T = await result if inspect.isawaitable(result) else result
    return value
