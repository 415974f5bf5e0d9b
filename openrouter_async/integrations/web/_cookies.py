"""The cookies of logins, read strictly and kept within a bound."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*")
# nginx refuses header lines of more than 8 KiB by default, and the app needs room for its own cookies.
MAX_COOKIE_BYTES: Final = 4096
MAX_PENDING_LOGINS: Final = 8
_ID_LENGTH: Final = 16


def read_cookies(headers: Iterable[str]) -> dict[str, str]:
    """Return the cookies of a request, read from its raw ``Cookie`` headers.

    Parsers of cookies differ: some strip characters that browsers send as part of a name, and some unquote values.
    Another subdomain can use that to set a cookie that the parser takes for one with the prefix ``__Host-``, and so
    to sign a user in to an account of the attacker. This function splits at ``;``, strips only spaces and tabs,
    accepts names and values of visible ASCII characters as they are, and ignores a name that occurs more than once.

    Args:
        headers: The values of all ``Cookie`` headers of the request.

    See Also:
        RFC 6265, section 4.1.1; RFC 6265bis, section 4.1.3.
    """
    pairs = [pair.strip(" \t").partition("=") for header in headers for pair in header.split(";")]
    counts = Counter(name for name, _, _ in pairs)
    return {
        name: value
        for name, separator, value in pairs
        if separator and counts[name] == 1 and _NAME.fullmatch(name) and _VALUE.fullmatch(value)
    }


def surplus_cookies(cookies: Mapping[str, str], prefixes: tuple[str, ...], added: int) -> list[str]:
    """Return the names of the oldest login cookies to delete, so that new ones fit into the bounds.

    Args:
        cookies: The cookies of the request, the oldest first, as browsers send them (RFC 6265, section 5.4).
        prefixes: The prefixes of the names of all login cookies.
        added: The bytes of the cookies that are about to be set.
    """
    names = [name for name in cookies if name.startswith(prefixes)]
    # A login may have two cookies: that of the browser and that of a `CookieStore`. Both end in its id.
    logins = dict.fromkeys(name[-_ID_LENGTH:] for name in names)
    size = added + _size(cookies, names)
    surplus: list[str] = []
    left = len(logins)
    for login in logins:
        if left < MAX_PENDING_LOGINS and size <= MAX_COOKIE_BYTES:
            break
        dropped = [name for name in names if name[-_ID_LENGTH:] == login]
        size -= _size(cookies, dropped)
        surplus.extend(dropped)
        left -= 1
    return surplus


def _size(cookies: Mapping[str, str], names: Iterable[str]) -> int:
    """Return the bytes of cookies in a header, each with ``=`` and ``; ``."""
    return sum(len(name) + len(cookies[name]) + 3 for name in names)
