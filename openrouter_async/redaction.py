"""Masking of secrets in reprs, headers, foreign text and logs."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote

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
_MASKABLE_LENGTH: Final = 24
_FORMATTER: Final = logging.Formatter()
_SECRET_NAMES: Final = frozenset({"api_key", "authorization", "code", "code_verifier", "key", "state"})
# Attributes set by logging itself. The message is masked later, after its arguments have been inserted.
_OWN_ATTRIBUTES: Final = frozenset(vars(logging.makeLogRecord({}))) - {"args", "exc_text"}


def mask(_secret: object) -> str:
    """Return a mask that shows nothing of a secret."""
    return MASK


def mask_optional(secret: object) -> str:
    """Return a mask for a secret, or ``None`` if there is no secret."""
    return "None" if secret is None else MASK


def mask_key(key: str) -> str:
    """Return the prefix and the last four characters of an API key; of a short key, only a mask."""
    if len(key) < _MASKABLE_LENGTH:
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
        secrets: The secret values of the request. They are found verbatim, JSON-escaped and percent-encoded.
            Anything that looks like an OpenRouter API key is masked as well, and so is any run of more than 32
            letters and digits.
    """
    for secret in secrets:
        for form in {secret, json.dumps(secret)[1:-1], quote(secret, safe="")}:
            text = text.replace(form, MASK)
    return _LONG_RUN.sub(MASK, _ANY_KEY.sub(MASK, text))


# Compiled on first use, because compiling takes as long as importing many modules.
@functools.cache
def _places() -> tuple[re.Pattern[str], ...]:
    """Return patterns of secrets in foreign text; the first group is the part before the secret."""
    return (
        re.compile(
            r"((?:\b|(?<=%3F)|(?<=%26))(?:code|code_verifier|state)(?:=|%3D))(?:(?!%26)[^&\s\"'<>])+", re.IGNORECASE
        ),
        re.compile(r"([\"'](?:code|code_verifier|state|key)[\"']\s*:\s*[\"'])[^\"']*", re.IGNORECASE),
        re.compile(r"(\bbearer\s+)[\x21-\x7e]+", re.IGNORECASE),
        # The state of a login in the path of a callback URL.
        re.compile(r"(/|%2F)[\w-]{43}(?=[/?#&\s\"'%]|$)", re.ASCII | re.IGNORECASE),
    )


def redact_text(text: str) -> str:
    """Mask likely secrets in text of any kind: a log line, a URL, JSON, a header."""
    for place in _places():
        text = place.sub(rf"\1{MASK}", text)
    return _ANY_KEY.sub(MASK, text)


class SecretFilter(logging.Filter):
    """Masks API keys, bearer tokens, and the codes, verifiers and states of logins in log records.

    This library logs none of them, but an app may, and so do the access logs of web servers, because the callback URL
    holds a code and a state. Add the filter to handlers: a logger's filters do not see the records of its children::

        for handler in logging.getLogger().handlers:
            handler.addFilter(SecretFilter())
        logging.getLogger("uvicorn.access").addFilter(SecretFilter())  # or aiohttp.access, or hypercorn.access

    The message, its arguments, the fields of ``extra`` and the traceback are masked. Values without a secret are not
    changed.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Mask a record, and let it pass."""
        if record.exc_info and not record.exc_text:
            # Formatters use this cached text instead of formatting the traceback themselves.
            record.exc_text = _FORMATTER.formatException(record.exc_info)
        if isinstance(record.args, Mapping) and type(record.args) is not dict:
            # Hypercorn passes a mapping that computes missing keys on lookup; copying it to a dict would lose them.
            with contextlib.suppress(Exception):
                record.msg, record.args = record.getMessage(), ()
        for name, value in vars(record).items():
            if name not in _OWN_ATTRIBUTES:
                setattr(record, name, _redact_value(value, name))
        # The arguments are masked one by one, because some formatters read them. A secret may span several, too.
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - a call of the app that does not fit; its handler will say so
            return True
        if (masked := redact_text(message)) != message:
            record.msg, record.args = masked, ()
        return True


def _redact_value(value: Any, name: object = None) -> Any:
    if isinstance(value, str):
        return MASK if str(name).lower() in _SECRET_NAMES else redact_text(value)
    if type(value) in (tuple, list):
        return type(value)(map(_redact_value, value))
    if isinstance(value, dict):
        return {inner_name: _redact_value(inner, inner_name) for inner_name, inner in value.items()}
    return value
