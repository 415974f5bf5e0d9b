"""Reading what comes back from OpenRouter's page: strictly, and before anything is looked up."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl, urlsplit

import attrs
from yarl import URL

from openrouter_async.login._urls import CallbackTemplate
from openrouter_async.login.errors import InvalidCallbackError, LoginError, StateMismatchError
from openrouter_async.redaction import mask_optional

CallbackInput: TypeAlias = str | URL | Mapping[str, Any]
"""A callback: its full URL, its path and query, its query, or a mapping of its parameters."""

_LARGEST: Final = 8192
_MOST_PARAMETERS: Final = 50
_OURS: Final = ("code", "state", "error")
_CODE: Final = re.compile(r"[\x21-\x7e]{1,1024}")
_STATE: Final = re.compile(r"[A-Za-z0-9_-]{43}")
# Shorter than a state, which then cannot show as one (RFC 6749, section 4.1.2.1, has the codes).
_ERROR: Final = re.compile(r"[a-z][a-z0-9_.-]{0,39}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_PASTED_QUERY: Final = re.compile(r"(?:^|[?&])(?:code|error)=")
_SCHEMELESS: Final = re.compile(r"[^/?#=&\s]+(?:/[^?#=&\s]*)?\?")
_ABSOLUTE: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@attrs.frozen(kw_only=True)
class Callback:
    """What a callback says: a code, or an error.

    Attributes:
        state: Which login it is of; None when only an error came, without a state.
        code: The authorization code.
        error: The error code.
    """

    state: str | None = attrs.field(repr=mask_optional)
    code: str | None = attrs.field(default=None, repr=mask_optional)
    error: str | None = None


def read_callback(callback: CallbackInput, template: CallbackTemplate | None) -> Callback:
    """Read a callback that a browser brought.

    Args:
        callback: It.
        template: What its path looks like; None when it has none that matters.

    Raises:
        InvalidCallbackError: It is malformed, too large, has a parameter twice, or neither a code nor an error.
        StateMismatchError: It has a code and no state, a state that is none of ours, or two that differ.
    """
    try:
        return _check(_read(callback, template))
    except LoginError as failure:
        raise _without_frames(failure) from None
    finally:
        del callback


def read_pasted(text: str, template: CallbackTemplate | None, state: str) -> Callback:
    """Read what a user pasted: a bare code, ``code=…``, or the URL that the browser ended on.

    Args:
        text: It.
        template: What the path of such a URL looks like.
        state: The login that it is for.

    Raises:
        InvalidCallbackError: It is none of these.
        StateMismatchError: It is a URL of another login.
    """
    try:
        return _check(_read_pasted(text, template, state))
    except LoginError as failure:
        raise _without_frames(failure) from None
    finally:
        del text, state


def _without_frames(failure: LoginError) -> LoginError:
    # They hold the code and the state, which a traceback that shows local variables would show.
    failure.__context__ = None
    return failure.with_traceback(None)


def _read_pasted(text: str, template: CallbackTemplate | None, state: str) -> Callback:
    # A form that was left empty, or a chat message without text, gives None.
    if not isinstance(state, str) or not _STATE.fullmatch(state):
        raise StateMismatchError("the state is not one that was made here")
    if not isinstance(text, str):
        raise InvalidCallbackError("what was pasted must be text")
    _check_size(text)
    text = text.strip()
    if not _ABSOLUTE.match(text):
        if not _PASTED_QUERY.search(text):
            return Callback(state=state, code=text)
        if _SCHEMELESS.match(text):
            # Browsers leave the scheme out of what they show, and some out of what they copy.
            text = f"//{text}"
    callback = _read(text, template)
    if callback.state is not None and not hmac.compare_digest(callback.state.encode(), state.encode()):
        raise StateMismatchError("what was pasted belongs to another login")
    return attrs.evolve(callback, state=state)


def _read(callback: CallbackInput, template: CallbackTemplate | None) -> Callback:
    path, parameters = _split(callback)
    state = parameters.get("state")
    if state is not None and not _STATE.fullmatch(state):
        raise StateMismatchError("the state of the callback is not one that was made here")
    in_path = None if template is None or path is None else template.find_state(path)
    if state is not None and in_path is not None and not hmac.compare_digest(state.encode(), in_path.encode()):
        raise StateMismatchError("the callback has one state in its path and another one in its query")
    error = parameters.get("error")
    if error is not None and not _ERROR.fullmatch(error):
        # Foreign text that would end up in messages.
        error = "unknown"
    return Callback(state=state or in_path, code=parameters.get("code"), error=error)


def _check(callback: Callback) -> Callback:
    if (callback.code is None) == (callback.error is None):
        raise InvalidCallbackError("the callback must have either a code or an error")
    if callback.code is None:
        return callback
    if not _CODE.fullmatch(callback.code):
        raise InvalidCallbackError("the code must be 1 to 1024 visible ASCII characters")
    if callback.state is None:
        raise StateMismatchError("the callback has no state")
    return callback


def _check_size(text: str) -> None:
    if len(text) > _LARGEST:
        raise InvalidCallbackError(f"the callback must have at most {_LARGEST} characters")


def _split(callback: CallbackInput) -> tuple[str | None, dict[str, str]]:
    """The path, if there is one, and those parameters that matter."""
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
            query, keep_blank_values=True, strict_parsing=False, errors="strict", max_num_fields=_MOST_PARAMETERS
        )
    except ValueError:
        # UnicodeDecodeError is one of these. They quote what they were given.
        raise InvalidCallbackError("the callback must be a well-formed URL or query") from None
    return path, _single(pairs)


def _pairs(mapping: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    # Frameworks hide duplicates behind a mapping that gives one value, and each has its own way to ask for all.
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
