"""What may be shown of a secret: masks for reprs, headers, foreign text and logs."""

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
# A key whose prefix is cut off or misspelt, or another opaque token. What people quote to support is shorter, or has
# dashes: a UUID, a trace id of 32 digits, `cf-ray`. A run that has no digit is a name.
_LONG_RUN: Final = re.compile(r"(?<![0-9A-Za-z])(?=[A-Za-z]*[0-9])[0-9A-Za-z]{33,}")
_MASKABLE_LENGTH: Final = 24
_FORMATTER: Final = logging.Formatter()
_SECRET_NAMES: Final = frozenset({"api_key", "authorization", "code", "code_verifier", "key", "state"})
# What logging itself puts into a record; the message is masked when its arguments are in it.
_OWN_ATTRIBUTES: Final = frozenset(vars(logging.makeLogRecord({}))) - {"args", "exc_text"}


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
            percent-encoded; whatever looks like an OpenRouter API key is taken out as well, and any run of
            more than 32 letters and digits.
    """
    for secret in secrets:
        for form in {secret, json.dumps(secret)[1:-1], quote(secret, safe="")}:
            text = text.replace(form, MASK)
    return _LONG_RUN.sub(MASK, _ANY_KEY.sub(MASK, text))


# Compiled when there is a text to look through: that takes as long as the import of many modules.
@functools.cache
def _places() -> tuple[re.Pattern[str], ...]:
    """Where a secret may stand in text that somebody else wrote; what is kept comes before it."""
    return (
        re.compile(
            r"((?:\b|(?<=%3F)|(?<=%26))(?:code|code_verifier|state)(?:=|%3D))(?:(?!%26)[^&\s\"'<>])+", re.IGNORECASE
        ),
        re.compile(r"([\"'](?:code|code_verifier|state|key)[\"']\s*:\s*[\"'])[^\"']*", re.IGNORECASE),
        re.compile(r"(\bbearer\s+)[\x21-\x7e]+", re.IGNORECASE),
        # The state of a login, where the callback URL has it in its path.
        re.compile(r"(/|%2F)[\w-]{43}(?=[/?#&\s\"'%]|$)", re.ASCII | re.IGNORECASE),
    )


def redact_text(text: str) -> str:
    """Mask what looks like a secret in text of any kind: a log line, a URL, JSON, a header."""
    for place in _places():
        text = place.sub(rf"\1{MASK}", text)
    return _ANY_KEY.sub(MASK, text)


class SecretFilter(logging.Filter):
    """Masks API keys, bearer tokens, and the codes, verifiers and states of logins in log records.

    This library writes none of them. Access logs of web servers do, for the callback's URL holds a code and a state,
    and so may an app. Put it on handlers, for a logger's filters do not see what its children write::

        for handler in logging.getLogger().handlers:
            handler.addFilter(SecretFilter())
        logging.getLogger("uvicorn.access").addFilter(SecretFilter())  # or aiohttp.access, or hypercorn.access

    The message, its arguments, the fields of ``extra`` and the traceback are masked; what has nothing to mask stays as
    it is.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Mask a record; it is never dropped."""
        if record.exc_info and not record.exc_text:
            # Formatters take this text instead of making their own.
            record.exc_text = _FORMATTER.formatException(record.exc_info)
        if isinstance(record.args, Mapping) and type(record.args) is not dict:
            # Hypercorn's answers also for what it does not hold, which a copy would not.
            with contextlib.suppress(Exception):
                record.msg, record.args = record.getMessage(), ()
        for name, value in vars(record).items():
            if name not in _OWN_ATTRIBUTES:
                setattr(record, name, _redact_value(value, name))
        # The arguments are masked one by one, for some formatters read them. Put together they may show more.
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
