"""Masking of secrets in logs."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from openrouter_async.redaction._masks import MASK
from openrouter_async.redaction._text import STATE, redact_text

__all__ = ["SecretFilter"]

_FORMATTER: Final = logging.Formatter()
_SECRET_NAMES: Final = frozenset({"api_key", "authorization", "code", "code_verifier", "key"})
# Attributes set by logging itself. The message is masked later, after its arguments have been inserted.
_OWN_ATTRIBUTES: Final = frozenset(vars(logging.makeLogRecord({}))) - {"args"}


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
            # Latin-1 has a character for every byte, so nothing but secrets changes.
            return self._redact(value.decode("latin-1"), name).encode("latin-1")
        if type(value) in (tuple, list):
            return type(value)(map(self._redact, value))
        if isinstance(value, dict):
            return {inner_name: self._redact(inner, inner_name) for inner_name, inner in value.items()}
        return value


def _is_secret(name: object, value: str) -> bool:
    known = str(name).lower()
    return known in _SECRET_NAMES or (known == "state" and re.fullmatch(STATE, value) is not None)
