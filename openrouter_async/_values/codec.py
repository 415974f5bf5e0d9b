"""JSON, by orjson where it is installed (the ``speed`` extra).

What is accepted and what is refused stays the same. orjson refuses some texts that the standard library reads, such as
``NaN``, a lone surrogate or a byte order mark, and reads a long integer as a float. So it only ever gives a quick
answer, and the standard library has the last word.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, NamedTuple

# Every answer that holds a key is far shorter. In longer ones the limits of the two would differ: a thousand levels,
# and thousands of digits.
_QUICK_LENGTH: Final = 512

_encode: Final = json.JSONEncoder(separators=(",", ":")).encode
_decode_start: Final = json.JSONDecoder().raw_decode


class Codec(NamedTuple):
    """A way to write and to read JSON.

    Attributes:
        name: The module that does it.
        dumps: Writes what it can of what JSON can hold, and raises TypeError for the rest; None writes nothing.
        loads: Reads what it can, and raises ValueError for the rest; None reads nothing.
    """

    name: str
    dumps: Callable[[Any], bytes] | None = None
    loads: Callable[[bytes], Any] | None = None


STANDARD: Final = Codec("json")

_active: Codec | None = None


def active() -> Codec:
    """The codec in use: the quickest that is installed. It is looked for when it is first needed."""
    return _active if _active is not None else select(find())


def select(codec: Codec) -> Codec:
    """Use another codec from now on."""
    global _active
    _active = codec
    return codec


def find() -> Codec:
    """The quickest codec that is installed."""
    try:
        import orjson
    except ImportError:
        return STANDARD
    return Codec("orjson", orjson.dumps, orjson.loads)


def dumps(value: Any) -> bytes:
    """Write JSON in UTF-8, without spaces."""
    quick = active().dumps
    if quick is not None:
        try:
            return quick(value)
        except TypeError:
            # An integer of more than 64 bits, or a lone surrogate.
            pass
    return _encode(value).encode()


def quick_loads(body: bytes) -> Any:
    """Read a short text; None when this needs `loads`. An integer of more than 64 bits may come as a float."""
    quick = active().loads
    if quick is None or len(body) > _QUICK_LENGTH:
        return None
    try:
        return quick(body)
    except ValueError:
        return None


def loads(body: bytes) -> Any:
    """Read JSON.

    Raises:
        ValueError: It is not JSON; `UnicodeDecodeError` when it is not UTF-8.
        RecursionError: It is nested too deeply.
    """
    text = body.decode()
    try:
        # To look for blanks around a text takes longer than to read a short one.
        value, end = _decode_start(text)
    except ValueError:
        pass
    else:
        if end == len(text):
            return value
    # RFC 8259, section 8.1, lets a parser overlook a byte order mark.
    return json.loads(text.removeprefix("\ufeff"))
