"""Checks of arguments and fields that the whole library shares."""

from __future__ import annotations

import inspect
import math
from typing import Any, TypeGuard

import attrs

from openrouter_async.errors import RequestValidationError


def is_finite_number(value: object) -> TypeGuard[float]:
    """Return whether a value is a number that fits into a finite float; True and False are none."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def check_number(field: str, value: object, *, least: float, exclusive: bool = False) -> None:
    """Raise unless `value` is a finite number >= `least` (> `least` if `exclusive`).

    Args:
        field: The name to use in the message.
        value: The value to check.
        least: The lower bound.
        exclusive: Whether the bound itself is refused.

    Raises:
        RequestValidationError: The value is not such a number.
    """
    if not is_finite_number(value) or value < least or (exclusive and value == least):
        raise RequestValidationError(
            field, f"must be a finite number {'above' if exclusive else 'of at least'} {least:g}"
        )


def check_integer(field: str, value: object, *, least: int = 1, most: int | None = None) -> None:
    """Raise unless `value` is an integer from `least` to `most`.

    Args:
        field: The name to use in the message.
        value: The value to check.
        least: The lower bound.
        most: The upper bound; None if there is none.

    Raises:
        RequestValidationError: The value is not such an integer.
    """
    accepted = isinstance(value, int) and not isinstance(value, bool) and value >= least
    if not accepted or (most is not None and value > most):  # type: ignore[operator]
        raise RequestValidationError(
            field, f"must be an integer {f'of at least {least}' if most is None else f'from {least} to {most}'}"
        )


def check_port(port: object) -> None:
    """Raise unless the argument ``port`` is a port to listen on, or 0 for any free one.

    Raises:
        RequestValidationError: The value is not a port.
    """
    check_integer("port", port, least=0, most=65535)


def check_hook(field: str, hook: object, *arguments: str, optional: bool = True) -> None:
    """Raise unless a hook, sync or async, can be called with these arguments.

    Args:
        field: The name to use in the message.
        hook: The hook.
        arguments: The names of the positional arguments that the hook is called with.
        optional: Whether None is accepted, for no hook.

    Raises:
        RequestValidationError: The hook cannot be called with these arguments.
    """
    if hook is None and optional:
        return
    requirement = f"must be callable with ({', '.join(arguments)})"
    if not callable(hook):
        raise RequestValidationError(field, requirement)
    try:
        signature = inspect.signature(hook)
    except (ValueError, TypeError):
        # Some callables written in C have no signature.
        return
    try:
        signature.bind(*arguments)
    except TypeError:
        raise RequestValidationError(field, requirement) from None


def is_count(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Raise unless a field is a positive integer."""
    check_integer(attribute.name, value)


def is_interval(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Raise unless a field is a finite number that is not negative."""
    check_number(attribute.name, value, least=0)


def is_duration(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Raise unless a field is a positive finite number."""
    check_number(attribute.name, value, least=0, exclusive=True)


def is_flag(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Raise unless a field is a bool."""
    if not isinstance(value, bool):
        raise RequestValidationError(attribute.name, "must be True or False")
