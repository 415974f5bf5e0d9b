"""Tests that every public name and each of its arguments is documented."""

from __future__ import annotations

import enum
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import attrs

from tests.public import public_names


def callables() -> Iterator[tuple[str, Any]]:
    """The public classes and functions, and the public methods and properties of the classes, each once."""
    seen: set[int] = set()
    for name, public in public_names().items():
        value = public.value
        if id(value) in seen or not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        seen.add(id(value))
        yield name, value
        if inspect.isclass(value):
            for member, found in vars(value).items():
                function = getattr(found, "__func__", found)
                if not member.startswith("_") and (inspect.isfunction(function) or isinstance(function, property)):
                    yield f"{name}.{member}", function


_EXPLAINED = re.compile(r"^    \*{0,2}(\w+): \S", re.MULTILINE)
DOCUMENTED = dict(callables())


# The interfaces of other parts of the library, which users do not call.
_SEAMS = frozenset({"Batch"})
PROTOCOLS = [public.value for public in public_names().values() if getattr(public.value, "_is_protocol", False)]


def faults_of(value: Any) -> list[str]:
    """Return the omissions of the docstring of a class, a function or a property."""
    text = inspect.cleandoc(value.__doc__ or "")
    summary, _, rest = text.partition("\n")
    faults = []
    # Some end in a colon, and their second line is an example.
    if not summary.endswith((".", ":", "``")) or rest[:1].strip():
        faults.append("no summary in one line")
    # Other arguments may be explained where the docstring refers to, or in the protocol that a method implements.
    texts = [text, *(inspect.cleandoc(other.__doc__) for other in _others(value, text) if other.__doc__)]
    explained = {name for text in texts for name in _EXPLAINED.findall(text)}
    return faults + [f"{name} is not explained" for name in _names_of(value) if name not in explained]


def _others(value: Any, text: str) -> Iterator[Any]:
    for reference in re.findall(r"[Ss]ee `([\w.]+)`", text):
        yield from (other for name, other in DOCUMENTED.items() if name.endswith(f".{reference}"))
    if inspect.isfunction(value):
        yield from (getattr(protocol, value.__name__, None) for protocol in PROTOCOLS)


def _names_of(value: Any) -> list[str]:
    if isinstance(value, property) or _has_nothing_to_explain(value):
        return []
    if inspect.isclass(value) and attrs.has(value):
        return [field.alias for field in attrs.fields(value) if field.init and not field.name.startswith("_")]
    function: Callable[..., Any] = value.__init__ if inspect.isclass(value) else value
    parameters = list(inspect.signature(function).parameters.values())
    if inspect.isclass(value) or (parameters[:1] and parameters[0].name in ("self", "cls")):
        del parameters[0]
    # One argument that the summary is about needs no list.
    if not inspect.isclass(value) and len(parameters) == 1:
        return []
    return [parameter.name for parameter in parameters]


def _has_nothing_to_explain(value: Any) -> bool:
    if not inspect.isclass(value):
        return value.__qualname__ in _SEAMS
    # Nobody makes these by hand.
    made_by_the_library = issubclass(value, enum.Enum | BaseException) or value.__qualname__ in _SEAMS
    has_arguments = attrs.has(value) or inspect.getmodule(value.__init__) is inspect.getmodule(value)
    return made_by_the_library or getattr(value, "_is_protocol", False) or not has_arguments


def test_docstrings_of_public_names_are_complete() -> None:
    assert {name: faults for name, value in DOCUMENTED.items() if (faults := faults_of(value))} == {}
    assert len(DOCUMENTED) > 300


def test_docstring_check_finds_an_omission() -> None:
    def undocumented(first: int, second: int) -> None: ...

    def half(first: int, second: int) -> None:
        """Do it.

        Args:
            first: Seconds.
        """

    def whole(first: int, second: int) -> None:
        """Do it.

        Args:
            first: Seconds.
            second: Seconds.
        """

    assert faults_of(undocumented) == [
        "no summary in one line",
        "first is not explained",
        "second is not explained",
    ]
    assert faults_of(half) == ["second is not explained"]
    assert faults_of(whole) == []
