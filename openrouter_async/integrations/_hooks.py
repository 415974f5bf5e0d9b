"""Hooks of the app, each a sync or async callable."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def call_hook(hook: Callable[..., Awaitable[T] | T], *arguments: Any) -> T:
    """Call a sync or async hook, and return its result."""
    try:
        result: Any = hook(*arguments)
    finally:
        # They hold codes and keys, which a traceback with local variables would show.
        del arguments
    value: T = await result if inspect.isawaitable(result) else result
    return value
