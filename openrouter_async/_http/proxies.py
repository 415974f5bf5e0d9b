"""HTTP proxies, from an argument or from the environment."""

from __future__ import annotations

import os
from urllib.request import getproxies, proxy_bypass

from yarl import URL

from openrouter_async._values.frames import hide_arguments
from openrouter_async._values.models import parse_url
from openrouter_async.errors import RequestValidationError


@hide_arguments
def to_proxy(field: str, value: str | URL | None) -> URL | None:
    """Parse the URL of a proxy.

    Raises:
        RequestValidationError: The value is not an http or https URL.
    """
    if value is None:
        return None
    try:
        url = parse_url(value)
    except (ValueError, TypeError):
        url = URL()
    if url.scheme not in ("http", "https"):
        raise RequestValidationError(field, "must be an http or https URL")
    return url


@hide_arguments
def proxy_from_environment(url: URL) -> URL | None:
    """Return the proxy that the environment names for a URL; None when there is none.

    aiohttp's ``trust_env`` would also read passwords from ``~/.netrc``, and would use a SOCKS proxy as an HTTP proxy.

    Raises:
        RequestValidationError: The proxy cannot be used; the field is the variable's name.
    """
    proxies = getproxies()
    kind = url.scheme if url.scheme in proxies else "all"
    value = proxies.get(kind, "").strip()
    if not value or proxy_bypass(url.host or ""):
        return None
    name = f"{kind}_proxy"
    if "://" not in value:
        value = f"http://{value}"
    return to_proxy(name if name in os.environ else name.upper(), value)
