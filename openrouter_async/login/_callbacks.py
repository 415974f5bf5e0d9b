"""Strict parsing of callbacks and pasted codes, before any login is looked up."""

from __future__ import annotations

import hmac
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

import attrs
from yarl import URL

from openrouter_async.login._urls import CallbackTemplate
from openrouter_async.login.errors import InvalidCallbackError, LoginError, StateMismatchError
from openrouter_async.redaction._masks import mask_optional

CallbackInput: TypeAlias = str | URL | Mapping[str, Any]
"""A callback: its full URL, its path and query, its query, or a mapping of its parameters."""

_MAX_SIZE: Final = 8192
_MAX_PARAMETERS: Final = 50
_OURS: Final = ("code", "state", "error")
_CODE: Final = re.compile(r"[\x21-\x7e]{1,1024}")
_STATE: Final = re.compile(r"[A-Za-z0-9_-]{43}")
# Shorter than a state, so that no state can be shown as an error. RFC 6749, section 4.1.2.1, lists the codes.
_ERROR: Final = re.compile(r"[a-z][a-z0-9_.-]{0,39}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_PASTED_QUERY: Final = re.compile(r"(?:^|[?&])(?:code|error)=")
_SCHEMELESS: Final = re.compile(r"[^/?#=&\s]+(?:/[^?#=&\s]*)?\?")
# Possessive, so that blanks in great number take linear time.
_CODE_LABEL: Final = re.compile(
    r"""(?i)(?:(?:your|the|authorization)\s++)*+["']?code["']?+(?:\s*+(?:is\s*+)?+[:=]|\s++is\s)\s*+(?=\S)"""
)
# Quote and list markers before a line.
_BEFORE_A_LINE: Final = re.compile(r"(?:[>*\u2022\u2013-]\s+)+")
# The escape sequences that a terminal puts around pasted text.
_BRACKETED_PASTE: Final = re.compile(r"\x1b\[20[01]~")
# Emoji presentation, which is invisible after other characters.
_VARIATION_SELECTOR: Final = re.compile("[\ufe00-\ufe0f]")
_HYPHENS: Final = str.maketrans("\u2010\u2011", "--")
_MAX_LAYERS: Final = 16
"""The most quotes, brackets and signs that are removed at each end: more are not there by mistake, and take time."""
_PUNCTUATION: Final = (".", ",", ";", ":", "!", "?", "。", "、")
_MARKDOWN_LINK: Final = re.compile(r"\[[^\]\n]*\]\(([^()\s]+)\)")
_AMPERSAND_ENTITY: Final = re.compile(r"&(?:amp|#38|#x26);", re.IGNORECASE)
_ENCODED_QUERY: Final = re.compile(r"(?i)(?:^|[?&]|%3f|%26)(?:code|error)%3d")
_SEMICOLON: Final = re.compile(r";(?=(?:code|state|error)=)")
# Pairs of quotes and brackets that chat programs, documents and mails put around a code.
_WRAPPERS: Final = frozenset(
    {'""', "''", "``", "<>", "()", "[]", "{}", "“”", "„“", "”“", "«»", "»«", "\u2018\u2019", "\u201a\u2018", "**"}
)
# Also within more text, such as a line of a `.env`, and of other services. A code may have `sk-` by chance.
_API_KEY: Final = re.compile(r"(?i)(?<![\w-])sk-")
_NOT_A_CODE: Final = "This is not a code. Please copy the code or the whole address that the page shows, and paste it."
_IS_A_KEY: Final = (
    "This is an API key, not a code; it was not sent. Please copy the code that the page shows. Keep keys to yourself."
)
_IS_CUT_OFF: Final = "This code is cut off. Please copy the whole code, and paste it again."
_ABSOLUTE: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@attrs.frozen(kw_only=True)
class Callback:
    """A parsed callback: a code, or an error.

    Attributes:
        state: The state of its login; None when an error came without one.
        code: The authorization code.
        error: The error code.
        is_pasted: Whether the user pasted it, and so can paste another one.
    """

    state: str | None = attrs.field(repr=mask_optional)
    code: str | None = attrs.field(default=None, repr=mask_optional)
    error: str | None = None
    is_pasted: bool = attrs.field(default=False, eq=False, repr=False)


def read_callback(callback: CallbackInput, template: CallbackTemplate | None) -> Callback:
    """Read a callback that a browser brought.

    Args:
        callback: The callback.
        template: The callback URL of the flow, which may have the state in its path; None when there is none.

    Returns:
        A code with its state, or an error.

    Raises:
        InvalidCallbackError: The callback is malformed or too large, repeats a parameter, or has neither a code nor an
            error.
        StateMismatchError: The callback has a code but no state, a malformed state, or two states that differ.
    """
    try:
        return _check(_read(callback, template))
    except LoginError as failure:
        raise _without_frames(failure) from None
    finally:
        del callback


def read_pasted(text: str, template: CallbackTemplate | None, state: str) -> Callback:
    """Read the text that a user pasted: a bare code, ``code=…``, or the URL that the browser ended on.

    Args:
        text: The text.
        template: The callback URL of the flow; None when there is none.
        state: The state of the login.

    Returns:
        A code or an error, with the state of the login.

    Raises:
        InvalidCallbackError: The text is none of these.
        StateMismatchError: The text is a URL of another login.
    """
    try:
        return _check(_read_pasted(text, template, state))
    except InvalidCallbackError as failure:
        if failure.restart_login:
            failure.let_user_retry(_NOT_A_CODE)
        raise _without_frames(failure) from None
    except LoginError as failure:
        raise _without_frames(failure) from None
    finally:
        del text, state


def _without_frames(failure: LoginError) -> LoginError:
    # The frames hold the code and the state, which error reporters with local variables would store.
    failure.__context__ = None
    return failure.with_traceback(None)


def _read_pasted(text: str, template: CallbackTemplate | None, state: str) -> Callback:
    # An empty form field and a chat message without text give None.
    if not isinstance(state, str) or not _STATE.fullmatch(state):
        raise StateMismatchError("the state is not one that was made here")
    if not isinstance(text, str):
        raise InvalidCallbackError("the pasted text must be a string")
    _check_size(text)
    text = _clean(text)
    if not _ABSOLUTE.match(text) and not _PASTED_QUERY.search(text):
        return _read_bare_code(text, state)
    # Browsers hide the scheme in the address bar, and some do not copy it.
    is_schemeless = not _ABSOLUTE.match(text) and _SCHEMELESS.match(text)
    callback = _read(f"//{text}" if is_schemeless else text, template)
    if callback.state is not None and not hmac.compare_digest(callback.state.encode(), state.encode()):
        raise StateMismatchError("the pasted text belongs to another login")
    return attrs.evolve(callback, state=state, is_pasted=True)


def _read_bare_code(text: str, state: str) -> Callback:
    if "..." in text or text in ("auth_code", "auth_code_"):
        raise InvalidCallbackError("the code is cut off", hint=_IS_CUT_OFF)
    return Callback(state=state, code=text, is_pasted=True)


def _clean(text: str) -> str:
    """Return pasted text without the marks that were added on its way from the page."""
    text = _BRACKETED_PASTE.sub("", text)
    # Full-width letters and other forms of ASCII characters, which no code has.
    text = _VARIATION_SELECTOR.sub("", unicodedata.normalize("NFKC", text).translate(_HYPHENS))
    # Zero-width characters, soft hyphens, direction marks and byte order marks.
    text = "".join(character for character in text if unicodedata.category(character) != "Cf").strip()
    for _ in range(_MAX_LAYERS):
        text = _unwrap(text)
    text = _AMPERSAND_ENTITY.sub("&", text)
    if not _PASTED_QUERY.search(text) and _ENCODED_QUERY.search(text):
        text = unquote(text)
    return _SEMICOLON.sub("&", text)


def _unwrap(text: str) -> str:
    """Remove one layer of quotes, brackets or punctuation around a code or an address."""
    if (link := _MARKDOWN_LINK.fullmatch(text)) is not None:
        text = link[1]
    if len(text) > 2 and text[0] + text[-1] in _WRAPPERS:
        text = text[1:-1].strip()
    if (before := _BEFORE_A_LINE.match(text)) is not None:
        text = text[before.end() :]
    # No code ends with these; an ellipsis shows that a code is cut off.
    if text.endswith(_PUNCTUATION) and not text.endswith("..."):
        text = text[:-1].rstrip()
    # One of a pair whose other one was not copied.
    if len(text) > 1 and sum(map(text.count, '"`')) == 1:
        text = text.strip('"`')
    if (label := _CODE_LABEL.match(text)) is not None and "&" not in text and ";" not in text:
        text = text[label.end() :]
    return text


def _read(callback: CallbackInput, template: CallbackTemplate | None) -> Callback:
    path, parameters = _split(callback)
    in_path = None if template is None or path is None else template.find_state(path)
    state = _one_state(in_path, parameters.get("state"))
    error = parameters.get("error")
    if error is not None and not _ERROR.fullmatch(error):
        # Do not show text from the callback in messages.
        error = "unknown"
    return Callback(state=state, code=parameters.get("code"), error=error)


def _one_state(in_path: str | None, in_query: str | None) -> str | None:
    if in_query is None:
        return in_path
    if not _STATE.fullmatch(in_query):
        raise StateMismatchError("the state of the callback is not one that was made here")
    if in_path is not None and not hmac.compare_digest(in_query.encode(), in_path.encode()):
        raise StateMismatchError("the callback has one state in its path and another one in its query")
    return in_query


def _check(callback: Callback) -> Callback:
    if (callback.code is None) == (callback.error is None):
        raise InvalidCallbackError("the callback must have either a code or an error")
    if callback.code is None:
        return callback
    if _API_KEY.search(unquote(callback.code)):
        raise InvalidCallbackError(
            "the code must not be an API key; it was not sent", hint=_IS_A_KEY if callback.is_pasted else None
        )
    if not _CODE.fullmatch(callback.code):
        raise InvalidCallbackError("the code must be 1 to 1024 visible ASCII characters")
    if callback.state is None:
        raise StateMismatchError("the callback has no state")
    return callback


def _check_size(text: str) -> None:
    if len(text) > _MAX_SIZE:
        raise InvalidCallbackError(f"the callback must have at most {_MAX_SIZE} characters")


def _split(callback: CallbackInput) -> tuple[str | None, dict[str, str]]:
    """Return the path, or None for a bare query, and the parameters `code`, `state` and `error`."""
    if isinstance(callback, Mapping):
        return None, _single(_pairs(callback))
    text = str(callback)
    _check_size(text)
    if _CONTROL.search(text):
        raise InvalidCallbackError("the callback must not have control characters")
    path: str | None = None
    try:
        if text.startswith("/") or _ABSOLUTE.match(text):
            _, _, path, query, _ = urlsplit(text)
        else:
            query = text.removeprefix("?")
        pairs = parse_qsl(
            query, keep_blank_values=True, strict_parsing=False, errors="strict", max_num_fields=_MAX_PARAMETERS
        )
    except ValueError:
        # This includes UnicodeDecodeError. The messages quote the input.
        raise InvalidCallbackError("the callback must be a well-formed URL or query") from None
    return path, _single(pairs)


def _pairs(mapping: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    # The mappings of web frameworks return one of several values; each framework has its own method to get all.
    get_all = getattr(mapping, "getall", None) or getattr(mapping, "getlist", None)
    for name in _OURS:
        if name not in mapping:
            continue
        values: Any = get_all(name) if get_all is not None else mapping[name]
        for value in values if isinstance(values, (list, tuple)) else (values,):
            if not isinstance(value, str):
                raise InvalidCallbackError("the parameters of the callback must be strings")
            _check_size(value)
            yield name, value


def _single(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for name, value in pairs:
        if name not in _OURS:
            continue
        if name in parameters:
            raise InvalidCallbackError(f"the callback must not have {name} twice (RFC 6749, section 3.1)")
        if _CONTROL.search(value):
            raise InvalidCallbackError(f"the callback must not have control characters in {name}")
        parameters[name] = value
    return parameters
