"""Masking of secrets in reprs, headers, foreign text and logs."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote, unquote

__all__ = ["SecretFilter"]

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
_ANY_KEY: Final = re.compile(r"sk-or-[\w-]+")
# Matches a key whose prefix is cut off or misspelt, or another opaque token. Ids that users quote to support (a UUID, a
# trace id of 32 digits, `cf-ray`) do not match: they are shorter or have dashes. Without a digit, a run is a name.
_LONG_RUN: Final = re.compile(r"(?<![0-9A-Za-z])(?=[A-Za-z]*[0-9])[0-9A-Za-z]{33,}")
_MIN_MASKABLE_LENGTH: Final = 24
_FORMATTER: Final = logging.Formatter()
_SECRET_NAMES: Final = frozenset({"api_key", "authorization", "code", "code_verifier", "key"})
# That of a login has 43 characters. Shorter ones are something else, such as the state of an address.
_STATE: Final = r"[A-Za-z0-9_%-]{16,}"
_JSON_ESCAPE: Final = re.compile(r"\\u([0-9a-fA-F]{4})|\\([\"\\/])")
_MAX_ENCODINGS: Final = 3
_WORDS: Final = re.compile(r"([\s\"'<>]+)")
# Attributes set by logging itself. The message is masked later, after its arguments have been inserted.
_OWN_ATTRIBUTES: Final = frozenset(vars(logging.makeLogRecord({}))) - {"args"}


def mask(_secret: object) -> str:
    """Return a mask that shows nothing of a secret."""
    return MASK


def mask_optional(secret: object) -> str:
    """Return a mask for a secret, or ``None`` if there is no secret."""
    return "None" if secret is None else MASK


def mask_key(key: str) -> str:
    """Return the prefix and the last four characters of an API key; of a short key, only a mask."""
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
    return _LONG_RUN.sub(MASK, _ANY_KEY.sub(MASK, text))


def _decode(text: str) -> str:
    """Return text without the escapes of JSON, URLs and HTML, also where one is within another."""
    for _ in range(_MAX_ENCODINGS):
        before = text
        if "\\" in text:
            text = _JSON_ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else found[2], text)
        if "%" in text:
            text = unquote(text)
        if "&" in text:
            # Imported here, because it loads a table of all entities.
            import html

            text = html.unescape(text)
        if text == before:
            break
    return text


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
        re.compile(rf"{start}(?:{state})(?:=|%3D)){_STATE}", re.IGNORECASE | re.ASCII),
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
        re.compile(rf"(\bstate=b?[\"']){_STATE}", re.IGNORECASE | re.ASCII),
        re.compile(rf"([\"'](?:code|code_verifier|key){between})[^\"'\\]*", re.IGNORECASE),
        re.compile(rf"([\"']state{between}){_STATE}", re.IGNORECASE | re.ASCII),
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
        words = _WORDS.split(text)
        text = "".join(
            word if _is_of_other_path(word, paths) else _mask_places(word, _query_places()) for word in words
        )
    else:
        text = _mask_places(text, _query_places())
    return _ANY_KEY.sub(MASK, _mask_places(text, _places()))


def _mask_places(text: str, places: Iterable[re.Pattern[str]]) -> str:
    for place in places:
        text = place.sub(rf"\1{MASK}", text)
    return text


def _is_of_other_path(word: str, paths: Iterable[str]) -> bool:
    path, mark, _ = word.partition("?")
    return bool(mark) and "/" in path and not any(own in path for own in paths)


class SecretFilter(logging.Filter):
    """Masks API keys, bearer tokens, and the codes, verifiers and states of logins in log records.

    This library logs none of them, but an app may, and so do the access logs of web servers, because the callback URL
    holds a code and a state. Add the filter to handlers: a logger's filters do not see the records of its children::

        for handler in logging.getLogger().handlers:
            handler.addFilter(SecretFilter())
        # Or aiohttp.access, granian.access, hypercorn.access.
        logging.getLogger("uvicorn.access").addFilter(SecretFilter())

    The message, its arguments, the fields of ``extra`` and the traceback are masked; a message that is a dict, as
    structlog's is, stays one. Values without a secret are not changed. If a traceback holds a secret, ``exc_info`` is
    removed and its masked text stays in ``exc_text``: some handlers would format the exception themselves.

    Args:
        paths: The paths of callbacks, such as ``/callback``. In the queries of other paths, ``code`` and ``state``
            stay as they are; by default they are masked in all queries.
    """

    def __init__(self, paths: Iterable[str] = ()) -> None:
        super().__init__()
        self._paths = tuple(paths)

    def filter(self, record: logging.LogRecord) -> bool:
        """Mask a record, and let it pass."""
        self._redact_traceback(record)
        if isinstance(record.args, Mapping) and type(record.args) is not dict:
            # Hypercorn passes a mapping that computes missing keys on lookup; copying it to a dict would lose them.
            with contextlib.suppress(Exception):
                record.msg, record.args = record.getMessage(), ()
        if isinstance(record.msg, dict):
            record.msg = self._redact(record.msg)
        for name, value in vars(record).items():
            if name not in _OWN_ATTRIBUTES:
                setattr(record, name, self._redact(value, name))
        if not isinstance(record.msg, dict):
            self._redact_message(record)
        return True

    def _redact_traceback(self, record: logging.LogRecord) -> None:
        if record.exc_info and not record.exc_text:
            # Formatters use this cached text instead of formatting the traceback themselves.
            record.exc_text = _FORMATTER.formatException(record.exc_info)
        if record.exc_text and (masked := redact_text(record.exc_text, self._paths)) != record.exc_text:
            record.exc_info, record.exc_text = None, masked

    def _redact_message(self, record: logging.LogRecord) -> None:
        # The arguments are masked one by one, because some formatters read them. A secret may span several, too.
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - a call of the app that does not fit; its handler will say so
            return
        if (masked := redact_text(message, self._paths)) != message:
            record.msg, record.args = masked, ()

    def _redact(self, value: Any, name: object = None) -> Any:
        if isinstance(value, str):
            return MASK if _is_secret(name, value) else redact_text(value, self._paths)
        if isinstance(value, bytes):
            # Every byte is a character of Latin-1, so nothing but secrets changes.
            return self._redact(value.decode("latin-1"), name).encode("latin-1")
        if type(value) in (tuple, list):
            return type(value)(map(self._redact, value))
        if isinstance(value, dict):
            return {inner_name: self._redact(inner, inner_name) for inner_name, inner in value.items()}
        return value


def _is_secret(name: object, value: str) -> bool:
    known = str(name).lower()
    return known in _SECRET_NAMES or (known == "state" and re.fullmatch(_STATE, value) is not None)
