"""The strict converter between models and JSON, whose errors show no values.

For a string, cattrs by default turns None into "None" and 7 into "7", and its errors quote the input. Here, a wrong
type is an error, and an error names only the field and the expected type.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeVar, get_args

import attrs
import cattrs
from cattrs.fns import identity
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from openrouter_async._values.current_key import CurrentKey, GetCurrentKeyResponse
from openrouter_async._values.models import (
    AuthKeysCode,
    CreateAuthKeysCodeRequest,
    CreateAuthKeysCodeResponse,
    ExchangeAuthCodeForAPIKeyRequest,
    ExchangeAuthCodeForAPIKeyResponse,
    HttpMeta,
)
from openrouter_async._values.validation import is_finite_number

T = TypeVar("T")
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode
_decode_start: Final = json.JSONDecoder().raw_decode

R = TypeVar("R", ExchangeAuthCodeForAPIKeyResponse, CreateAuthKeysCodeResponse, GetCurrentKeyResponse)


class MalformedBodyError(ValueError):
    """A body that does not match its model; the message shows nothing of the body."""


MAX_KEY_LENGTH: Final = 1_024
"""The maximum number of characters of an API key."""

# Visible ASCII except quotes, dollar sign, backquote and backslash, which a shell would interpret.
_KEY: Final = re.compile(r"[!#%&(-\[\]-_a-~]+")


def _strict(kind: type[T], value: object) -> T:
    # To isinstance(), a bool is an int; in JSON, true is not a number.
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError
    return value


class _BadKeyError(ValueError):
    pass


def _key(value: object, _type: object) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError
    # Keys end up in files, shells and terminals, where a line break or a quote would allow an injection.
    if len(value) > MAX_KEY_LENGTH or not _KEY.fullmatch(value):
        raise _BadKeyError
    return value


def _number(value: object, _type: object) -> float:
    # Python's parser takes NaN and Infinity, which RFC 8259 does not allow, and integers of any size.
    if not is_finite_number(value):
        raise TypeError
    return float(value)


def _flag(value: object, _type: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _user_id(value: object, _type: object) -> str | None:
    # An invalid user id must not make the exchange fail: the code is used up, and the key would be lost.
    return value if isinstance(value, str) else None


def _timestamp(value: object, _type: object) -> datetime:
    moment = datetime.fromisoformat(_strict(str, value))
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _rfc3339(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


@functools.cache
def _converter(*, detailed: bool = False) -> cattrs.Converter:
    # Created on first use, because it takes longer than importing all modules of this package. Detailed validation is
    # over half of the structuring time, so a second converter does it, and only after the first one failed.
    converter = cattrs.Converter(detailed_validation=detailed)
    converter.register_structure_hook(str, lambda value, _: _strict(str, value))
    converter.register_structure_hook(int, lambda value, _: _strict(int, value))
    converter.register_structure_hook(float, _number)
    converter.register_structure_hook(bool, _flag)
    converter.register_structure_hook(datetime, _timestamp)
    # `load` adds this value from the transport to the fields of the body, so it needs no conversion.
    converter.register_structure_hook(HttpMeta, lambda value, _: value)
    structure_key = make_dict_structure_fn(CurrentKey, converter)
    converter.register_structure_hook(CurrentKey, lambda value, kind: structure_key(_strict(dict, value), kind))
    structure_code = make_dict_structure_fn(AuthKeysCode, converter)
    converter.register_structure_hook(AuthKeysCode, lambda value, kind: structure_code(_strict(dict, value), kind))
    converter.register_structure_hook(
        ExchangeAuthCodeForAPIKeyResponse,
        make_dict_structure_fn(
            ExchangeAuthCodeForAPIKeyResponse,
            converter,
            key=override(struct_hook=_key),
            user_id=override(struct_hook=_user_id),
        ),
    )
    converter.register_unstructure_hook(datetime, _rfc3339)
    for model in (ExchangeAuthCodeForAPIKeyRequest, CreateAuthKeysCodeRequest):
        # The models hold what JSON can hold already, except for timestamps.
        as_they_are: dict[str, Any] = {
            name: override(unstruct_hook=identity) for name in attrs.fields_dict(model) if name != "expires_at"
        }
        converter.register_unstructure_hook(
            model, make_dict_unstructure_fn(model, converter, _cattrs_omit_if_default=True, **as_they_are)
        )
    return converter


# Cached, because the converter takes longer to find a hook than some hooks take to run.
_structure_hook: Final[Callable[[Any], Callable[..., Any]]] = functools.cache(
    lambda kind: _converter().get_structure_hook(kind)
)
_unstructure_hook: Final[Callable[[Any], Callable[..., Any]]] = functools.cache(
    lambda kind: _converter().get_unstructure_hook(kind)
)


def dump(model: ExchangeAuthCodeForAPIKeyRequest | CreateAuthKeysCodeRequest) -> bytes:
    """Serialize a request, without the fields that are not set."""
    fields: dict[str, object] = _unstructure_hook(type(model))(model)
    # For a dict, `JSONEncoder` makes a new encoder each time, which takes three times as long as encoding its strings.
    members = [f'"{name}":{_encode(value)}' for name, value in fields.items()]
    return f"{{{','.join(members)}}}".encode()


def load_json(body: bytes) -> Any:
    """Parse JSON.

    Raises:
        MalformedBodyError: The body is not UTF-8 or not JSON.
    """
    try:
        return _decode(body.decode())
    except UnicodeDecodeError:
        raise MalformedBodyError("the body is not UTF-8") from None
    except (ValueError, RecursionError):
        raise MalformedBodyError("the body is not JSON" if body.strip() else "the body is empty") from None


def load(kind: type[R], body: bytes, http_meta: HttpMeta) -> R:
    """Parse the body of a response.

    Args:
        kind: The class of the response.
        body: The raw body.
        http_meta: The HTTP metadata of the answer, which becomes a field of the response.

    Raises:
        MalformedBodyError: The body is not UTF-8, not JSON, or does not match the API's documentation.
    """
    payload = load_json(body)
    if not isinstance(payload, dict):
        raise MalformedBodyError("the body is not a JSON object")
    payload["http_meta"] = http_meta
    try:
        result: R = _structure_hook(kind)(payload, kind)
    except (TypeError, ValueError, KeyError):
        problems = _explain(payload, kind)
    else:
        return result
    raise MalformedBodyError("; ".join(problems))


def _decode(text: str) -> Any:
    try:
        # Faster than `json.loads`, which first searches for surrounding white space.
        value, end = _decode_start(text)
    except ValueError:
        pass
    else:
        if end == len(text):
            return value
    # RFC 8259, section 8.1, lets a parser ignore a byte order mark.
    return json.loads(text.removeprefix("\ufeff"))


def _explain(payload: object, kind: type[object]) -> list[str]:
    problems: list[str] = []
    try:
        _converter(detailed=True).structure(payload, kind)
    except cattrs.BaseValidationError as invalid:
        problems = cattrs.transform_error(invalid, format_exception=_describe)
    return problems


_WANTED: Final[Mapping[object, str]] = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    datetime: "an ISO 8601 timestamp",
}


def _describe(error: BaseException, kind: type | None) -> str:
    if isinstance(error, KeyError):
        return "missing"
    if isinstance(error, _BadKeyError):
        return "not a key of visible ASCII characters"
    # For `float | None`, name the type of the value: the first of the union.
    wanted = next(iter(get_args(kind)), kind)
    return f"not {_WANTED.get(wanted, 'an object')}"
