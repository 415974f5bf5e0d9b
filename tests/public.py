"""The public names of the library."""

from __future__ import annotations

import ast
import functools
import inspect
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Final

import attrs

import openrouter_async
from openrouter_async.errors import OpenRouterError

_AIOGRAM: Final = ("aiogram",) if find_spec("aiogram") else ()
"""It has no release for the newest Python."""

# The public modules whose names are documented.
_MODULES: Final = (
    "openrouter_async",
    *(f"openrouter_async.{name}" for name in ("batch", "encryption", "errors", "events", "login", "login.stores")),
    *(f"openrouter_async.{name}" for name in ("middlewares", "pkce", "redaction", "sinks", "testing", "typing")),
    *(f"openrouter_async.integrations.{name}" for name in (*_AIOGRAM, "aiohttp", "asgi", "bots", "discord", "fastapi")),
    *(f"openrouter_async.integrations.{name}" for name in ("opentelemetry", "starlette", "taskiq", "web")),
)


@attrs.frozen
class PublicName:
    """A name that users import.

    Attributes:
        value: The object.
        names: The full names under which the reference may document it.
    """

    value: Any
    names: frozenset[str]


def _find() -> Iterator[tuple[str, PublicName]]:
    for public in _MODULES:
        module = import_module(public)
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.ismodule(value):
                continue
            # Some names can be imported from more than one public module, and are documented under one of them.
            homes = {f"{other}.{name}" for other in _MODULES if getattr(import_module(other), name, None) is value}
            if isinstance(value, type) or inspect.isroutine(value):
                homes.add(f"{value.__module__}.{name}")
            yield f"{public}.{name}", PublicName(value, frozenset(homes))


@functools.cache
def public_names() -> dict[str, PublicName]:
    """Return everything that users import, by its full name."""
    return dict(_find())


def defined_in(module: ModuleType) -> Iterator[str]:
    """Yield the names without an underscore that a module defines, and does not import from another."""
    pending: list[ast.AST] = [ast.parse(inspect.getsource(module))]
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found = [node.name]
        else:
            found = [node.id] if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else []
            pending += ast.iter_child_nodes(node)
        yield from (name for name in found if not name.startswith("_"))


def undocumented() -> set[str]:
    """Return the names that can be imported without an underscore, and that no documented module has."""
    documented = {id(public.value) for public in public_names().values()}
    found = set()
    for module in pkgutil.walk_packages(openrouter_async.__path__, "openrouter_async."):
        parts = module.name.split(".")[1:]
        # The command line and the demo are programs.
        if any(part.startswith("_") for part in parts) or parts[0] == "cli" or parts == ["testing", "demo"]:
            continue
        if parts == ["integrations", "aiogram"] and not _AIOGRAM:
            continue
        loaded = import_module(module.name)
        for name in {*getattr(loaded, "__all__", ()), *defined_in(loaded)}:
            if id(getattr(loaded, name)) not in documented:
                found.add(f"{module.name}.{name}")
    return found


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
