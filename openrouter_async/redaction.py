"""What may be shown of a secret: masks for reprs, headers and foreign text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import quote

MASK: Final = "***"

# Values are shown for these names alone, so a header nobody thought of cannot leak.
_SHOWN_HEADERS: Final = frozenset(
    {
        "accept",
        "accept-encoding",
        "cf-mitigated",
        "cf-ray",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "date",
        "http-referer",
        "retry-after",
        "retry-after-ms",
        "server",
        "transfer-encoding",
        "user-agent",
        "x-openrouter-categories",
        "x-openrouter-title",
        "x-request-id",
    }
)
_KEY_PREFIX: Final = "sk-or-v1-"
_ANY_KEY: Final = re.compile(r"sk-or-[\w-]+")
_MASKABLE_LENGTH: Final = 24


def mask(_secret: object) -> str:
    """Show that a secret is there, and nothing of it."""
    return MASK


def mask_optional(secret: object) -> str:
    """Show whether a secret is there: ``None``, or a mask."""
    return "None" if secret is None else MASK


def mask_key(key: str) -> str:
    """Show an API key as its prefix and its last four characters; a short one not at all."""
    if len(key) < _MASKABLE_LENGTH:
        return MASK
    return f"{_KEY_PREFIX if key.startswith(_KEY_PREFIX) else ''}…{key[-4:]}"


def redact_headers(headers: Mapping[str, str]) -> str:
    """Show header names, and the values of those that are known to be harmless."""
    shown = {name: value if name.lower() in _SHOWN_HEADERS else MASK for name, value in headers.items()}
    return repr(shown)


def scrub(text: str, secrets: Iterable[str]) -> str:
    """Take secrets out of foreign text.

    Args:
        text: What another party wrote, such as the body of an error.
        secrets: The values that this request sent. They are found as they are, JSON-escaped and
            percent-encoded; whatever looks like an OpenRouter API key is taken out as well.
    """
    for secret in secrets:
        for form in {secret, json.dumps(secret)[1:-1], quote(secret, safe="")}:
            text = text.replace(form, MASK)
    return _ANY_KEY.sub(MASK, text)
