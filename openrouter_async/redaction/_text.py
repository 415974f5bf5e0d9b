"""Masking of likely secrets in text of any kind."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from typing import Final

from openrouter_async.redaction._masks import ANY_KEY, MASK

# That of a login has 43 characters. Shorter ones are something else, such as the state of an address.
STATE: Final = r"[A-Za-z0-9_%-]{16,}"
_WORDS: Final = r"([\s\"'<>]+)"


def _spellings(*names: str) -> str:
    """Return a pattern of names, each of whose characters may be percent-encoded."""
    return "|".join("".join(f"(?:{re.escape(letter)}|%{ord(letter):02x})" for letter in name) for name in names)


# Compiled on first use, because compiling takes as long as importing many modules.
@functools.cache
def _query_places() -> tuple[re.Pattern[str], ...]:
    """Return patterns of secrets in a query; the first group is the part before the secret."""
    start = r"((?:(?<![\w%])|(?<=%3F)|(?<=%26))"
    code, state = _spellings("code_verifier", "code"), _spellings("state")
    return (
        re.compile(rf"{start}(?:{code})(?:=|%3D))(?!b[\"'])(?:(?!%26)[^&\s\"'<>])+", re.IGNORECASE),
        re.compile(rf"{start}(?:{state})(?:=|%3D)){STATE}", re.IGNORECASE | re.ASCII),
    )


@functools.cache
def _places() -> tuple[re.Pattern[str], ...]:
    """Return patterns of secrets elsewhere; the first group is the part before the secret."""
    # The quotes of JSON within JSON are escaped.
    quote = r"\\{0,7}[\"']"
    between = rf"{quote}\s?[:,]\s?b?{quote}"
    return (
        # Values in the repr of Python objects: code='x', code=b'x'.
        re.compile(r"(\b(?:code|code_verifier)=b?[\"'])[^\"']+", re.IGNORECASE),
        re.compile(rf"(\bstate=b?[\"']){STATE}", re.IGNORECASE | re.ASCII),
        re.compile(rf"([\"'](?:code|code_verifier|key){between})[^\"'\\]*", re.IGNORECASE),
        re.compile(rf"([\"']state{between}){STATE}", re.IGNORECASE | re.ASCII),
        re.compile(r"(\bbearer\s+)[\x21-\x7e]+", re.IGNORECASE),
        # The state of a login in the path of a callback URL.
        re.compile(r"(/|%2F)[\w-]{43}(?=[/?#&\s\"'%]|$)", re.ASCII | re.IGNORECASE),
        # The cookies of a login, and the tickets of bots.
        re.compile(r"(\b(?:__Host-)?openrouter-[\w-]{1,64}=)[^;,\s\"']+", re.ASCII | re.IGNORECASE),
        re.compile(r"(\bticket-)[\w-]{32}(?![\w-])", re.ASCII),
    )


def redact_text(text: str, paths: Sequence[str] = ()) -> str:
    """Mask likely secrets in text of any kind: a log line, a URL, JSON, a header.

    Args:
        text: The text.
        paths: Parts of the paths whose queries hold codes and states; if empty, those of all paths do.
    """
    if paths:
        words = re.split(_WORDS, text)
        text = "".join(
            word if _is_of_other_path(word, paths) else _mask_places(word, _query_places()) for word in words
        )
    else:
        text = _mask_places(text, _query_places())
    return re.sub(ANY_KEY, MASK, _mask_places(text, _places()))


def _mask_places(text: str, places: Iterable[re.Pattern[str]]) -> str:
    for place in places:
        text = place.sub(rf"\1{MASK}", text)
    return text


def _is_of_other_path(word: str, paths: Iterable[str]) -> bool:
    path, mark, _ = word.partition("?")
    return bool(mark) and "/" in path and not any(own in path for own in paths)
