"""Guards of the routes of a login: bounds for each address, the origin of a request, and the host of its start."""

from __future__ import annotations

import functools
import ipaddress
from collections import OrderedDict, deque
from typing import Final

from yarl import URL

from openrouter_async._values.clock import Clock
from openrouter_async.integrations.web._framework import RequestInfo

LIMIT_WINDOW: Final = 600.0
_MAX_ADDRESSES: Final = 10_000
# Behind a proxy that does not pass on the client's address, all users share the proxy's.
_SHARED_FACTOR: Final = 10
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0"})  # noqa: S104 - never bound
_HOST_MARK: Final = "openrouter_host"


class AddressLimit:
    """A limit on the events of one client address within ten minutes.

    Without it, a client that sends invented codes could use up the rate limit of the whole app at OpenRouter.

    Args:
        limit: The maximum number of events within ten minutes, or ten times as many for an address that is not public,
            which may be that of a proxy.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._moments: OrderedDict[str, deque[float]] = OrderedDict()

    def note(self, address: str | None, clock: Clock) -> None:
        """Count an event."""
        if address is None:
            return
        network = network_of(address)
        key = network or address
        limit = self._limit * (_SHARED_FACTOR if network is None else 1)
        self._moments.setdefault(key, deque(maxlen=limit)).append(clock.monotonic())
        self._moments.move_to_end(key)
        while len(self._moments) > _MAX_ADDRESSES:
            self._moments.popitem(last=False)

    def retry_after(self, address: str | None, clock: Clock) -> float | None:
        """Return the seconds until the address may try again; None if it may now."""
        moments = self._moments.get(network_of(address) or address or "")
        if moments is None or len(moments) != moments.maxlen:
            return None
        seconds = moments[0] + LIMIT_WINDOW - clock.monotonic()
        return seconds if seconds > 0 else None


# The browser of a sign-in comes twice, and parsing its address takes a fortieth of the sign-in's CPU time.
@functools.lru_cache(maxsize=1024)
def network_of(address: str | None) -> str | None:
    """Return the network that identifies a client: a public IPv4 address, or the /64 of a public IPv6 address.

    Returns:
        None for any other address: it may be that of a proxy, which all users share. A cookie would not identify a
        client either, because a client can invent one for each request.
    """
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    if not parsed.is_global:
        return None
    if isinstance(parsed, ipaddress.IPv6Address):
        # A subscriber has at least 2^64 addresses.
        return str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))
    return str(parsed)


def is_same_origin(info: RequestInfo, callback_url: URL) -> bool:
    """Return whether a page of the app itself made a request that changes something.

    Browsers say so in ``Sec-Fetch-Site``, or else in ``Origin``, which every current browser sends with a POST. A
    client that sends neither is refused. If the app runs on the user's own computer, ``Host`` must be a name of this
    computer: another site could otherwise make its own name resolve to the same address (DNS rebinding).

    See Also:
        Fetch Metadata Request Headers (W3C), section 2; RFC 6454, section 7.
    """
    host = _host(info)
    if callback_url.host in _LOOPBACK and host not in _LOOPBACK:
        return False
    site = info.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    origin = info.headers.get("Origin")
    try:
        url = URL(origin or "")
        return url.origin() == callback_url.origin() or url.authority == URL(f"http://{info.headers['Host']}").authority
    except (KeyError, ValueError):
        return False


def is_foreign(info: RequestInfo) -> bool:
    """Return whether a browser says that a page of another origin made a request that only reads."""
    return info.headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}


def is_other_host(info: RequestInfo, callback_url: URL) -> bool:
    """Return whether a login starts at a host to which the browser will not return.

    Ports do not matter, because cookies ignore them. Behind a proxy the ``Host`` header may be the proxy's choice.
    """
    if any(name in info.headers for name in ("Forwarded", "X-Forwarded-Host", "X-Forwarded-For", "Via")):
        return False
    host = _host(info)
    return host is not None and host != callback_url.host


def move_url(info: RequestInfo, callback_url: URL) -> str | None:
    """Return the URL of the same login at the host of its callback.

    Returns:
        None unless both hosts are names of this computer, and the browser has not been moved before.
    """
    if info.method != "GET" or info.parameters(_HOST_MARK):
        return None
    if callback_url.host not in _LOOPBACK or _host(info) not in _LOOPBACK:
        return None
    # The port stays that of the request: the callback's may be forwarded to it, or belong to something else.
    query = f"{info.query}&" if info.query else ""
    return f"{callback_url.origin()}{info.path}?{query}{_HOST_MARK}=1"


def _host(info: RequestInfo) -> str | None:
    try:
        return URL(f"http://{info.headers['Host']}").host
    except (KeyError, ValueError):
        return None
