"""Masks for single values: secrets in reprs, headers, and text of other parties."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import quote, unquote

MASK: Final = "***"

# Only the values of these headers are shown, so that an unforeseen header cannot leak a secret.
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
# Strings, because compiling them would slow the import down: `re` does so on first use.
ANY_KEY: Final = r"sk-or-[\w-]+"
# Matches a key whose prefix is cut off or misspelt, or another opaque token. Ids that users quote to support (a UUID, a
# trace id of 32 digits, `cf-ray`) do not match: they are shorter or have dashes. Nor does a run without a
# digit, which is a name.
_LONG_RUN: Final = r"(?<![0-9A-Za-z])(?=[A-Za-z]*[0-9])[0-9A-Za-z]{33,}"
_MIN_MASKABLE_LENGTH: Final = 24
_JSON_ESCAPE: Final = r"\\u([0-9a-fA-F]{4})|\\([\"\\/])"
_MAX_ENCODINGS: Final = 3


def mask(_secret: object) -> str:
    """Return a mask that shows nothing of a secret."""
    return MASK


def mask_optional(secret: object) -> str:
    """Return a mask for a secret, or ``None`` if there is no secret."""
    return "None" if secret is None else MASK


def mask_key(key: str | None) -> str:
    """Return the prefix and the last four characters of an API key; of a short key, only a mask; ``None`` of none."""
    if key is None:
        return "None"
    if len(key) < _MIN_MASKABLE_LENGTH:
        return MASK
    return f"{_KEY_PREFIX if key.startswith(_KEY_PREFIX) else ''}…{key[-4:]}"


def redact_headers(headers: Mapping[str, str]) -> str:
    """Return the headers with all values masked except those known to be harmless."""
    shown = {name: value if name.lower() in _SHOWN_HEADERS else MASK for name, value in headers.items()}
    return repr(shown)


def scrub(text: str, secrets: Iterable[str]) -> str:
    """Mask secrets in text from another party.

    Args:
        text: The text, such as the body of an error.
        secrets: The secret values of the request. They are found verbatim and in the escapes of JSON, URLs and HTML.
            Anything that looks like an OpenRouter API key is masked as well, and so is any run of more than 32
            letters and digits.

    Returns:
        The text; if a secret was escaped in it, without any escapes.
    """
    known = tuple(secrets)
    text = _scrub_verbatim(text, known)
    decoded = _decode(text)
    if decoded != text and (scrubbed := _scrub_verbatim(decoded, known)) != decoded:
        return scrubbed
    return text


def _scrub_verbatim(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        for form in {secret, json.dumps(secret)[1:-1], quote(secret, safe="")}:
            text = text.replace(form, MASK)
    return re.sub(_LONG_RUN, MASK, re.sub(ANY_KEY, MASK, text))


def _decode(text: str) -> str:
    """Return text without the escapes of JSON, URLs and HTML, also where one is within another."""
    for _ in range(_MAX_ENCODINGS):
        before = text
        if "\\" in text:
            text = re.sub(_JSON_ESCAPE, lambda found: chr(int(found[1], 16)) if found[1] else found[2], text)
        if "%" in text:
            text = unquote(text)
        if "&" in text:
            # Imported here, because it loads a table of all entities.
            import html

            text = html.unescape(text)
        if text == before:
            break
    return text
