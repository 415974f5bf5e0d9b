"""The kinds of errors as programs outside of this process read them: the ``type`` of RFC 9457."""

from __future__ import annotations

import re
from typing import Final

from openrouter_async.errors import OpenRouterError

DEFAULT_KIND: Final = "sign-in-failed"
"""The kind of an error that is not one of this library."""
_TYPE_PREFIX: Final = "urn:openrouter-async:"
_WORD: Final = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def kind_of(error: Exception) -> str:
    """Return the kind of an error: the words of its class, such as ``login-expired``."""
    if not isinstance(error, OpenRouterError):
        return DEFAULT_KIND
    return "-".join(_WORD.split(type(error).__name__.removesuffix("Error"))).lower()


def type_of(kind: str) -> str:
    """Return the URI of a kind."""
    return _TYPE_PREFIX + kind
