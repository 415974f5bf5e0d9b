"""What the library offers to its users, and what it says about that."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib import import_module
from typing import Any, Final

import attrs

from openrouter_async.errors import OpenRouterError

# The rooms that users import from, with their names where no `__all__` says them.
_ROOMS: Final[dict[str, tuple[str, ...]]] = {
    "openrouter_async": (),
    "openrouter_async.errors": (),
    "openrouter_async.pkce": (),
    "openrouter_async.middlewares": (),
    "openrouter_async.login": (),
    "openrouter_async.login.stores": (),
    "openrouter_async.typing": (),
    "openrouter_async.sinks": (),
    "openrouter_async.testing": (),
    "openrouter_async.batch": (),
    "openrouter_async.events": ("Event",),
    "openrouter_async.redaction": ("SecretFilter",),
    "openrouter_async.encryption": ("generate_encryption_key",),
    "openrouter_async.integrations.aiogram": ("create_router",),
    "openrouter_async.integrations.aiohttp": ("finish", "get_client", "get_flow", "redirect", "setup", "start"),
    "openrouter_async.integrations.bots": (),
    "openrouter_async.integrations.discord": ("add_commands",),
    "openrouter_async.integrations.fastapi": (),
    "openrouter_async.integrations.opentelemetry": (),
    "openrouter_async.integrations.starlette": (
        *("attach", "create_app", "finish", "get_client", "get_flow", "lifespan", "redirect", "setup", "start"),
    ),
    "openrouter_async.integrations.web": ("WebLogin",),
    "openrouter_async.integrations.taskiq": ("ExchangeQueue", "ExchangedKey"),
}
# The parts that a batch is made of, which `OAuth` puts together.
_SEAMS: Final = frozenset({"Plan", "Run", "Source"})


@attrs.frozen
class PublicName:
    """Something that users import.

    Attributes:
        value: It.
        names: The full names that it goes by in its own room.
    """

    value: Any
    names: frozenset[str]


def _find() -> Iterator[tuple[str, PublicName]]:
    for room, names in _ROOMS.items():
        module = import_module(room)
        for name in names or module.__all__:
            value = getattr(module, name)
            if name in _SEAMS or inspect.ismodule(value):
                continue
            # Some names can be imported from more than one public module, and are documented under one of them.
            homes = {f"{other}.{name}" for other in _ROOMS if getattr(import_module(other), name, None) is value}
            if isinstance(value, type) or inspect.isroutine(value):
                homes.add(f"{value.__module__}.{name}")
            yield f"{room}.{name}", PublicName(value, frozenset(homes))


PUBLIC: Final[dict[str, PublicName]] = dict(_find())
"""Everything that users import, by its full name."""


def errors() -> set[type[OpenRouterError]]:
    """All errors that callers can meet."""
    import_module("openrouter_async.login.errors")
    import_module("openrouter_async.sinks")
    found = {OpenRouterError}
    while more := {kind for error in found for kind in error.__subclasses__()} - found:
        found |= more
    return {
        error
        for error in found
        if error.__module__.startswith("openrouter_async") and ".testing." not in error.__module__
    }
