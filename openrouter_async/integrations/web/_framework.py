"""The interface between a web framework and a login."""

from __future__ import annotations

import functools
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Generic, Protocol, Required, TypeAlias, TypedDict, TypeVar
from urllib.parse import parse_qs

import attrs
from yarl import URL

from openrouter_async._client.client import OpenRouter
from openrouter_async._values.clock import Clock
from openrouter_async._values.models import CodeChallengeMethod, Unset
from openrouter_async.errors import RequestValidationError
from openrouter_async.integrations.web._browser import Display
from openrouter_async.integrations.web._cookies import read_cookies
from openrouter_async.integrations.web._failures import LoginFailure
from openrouter_async.integrations.web._results import RenderPage
from openrouter_async.login._models import Grant, LoginCookie
from openrouter_async.login._store import LoginStore
from openrouter_async.login._urls import validate_return_to
from openrouter_async.redaction._masks import mask

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")
_RequestT_contra = TypeVar("_RequestT_contra", contravariant=True)

OnLogin: TypeAlias = Callable[[RequestT, Grant], Awaitable[ResponseT | None] | ResponseT | None]
"""A sync or async hook that takes the key of a user who signed in.

It may return the response; None redirects the user back into the app. The hook runs to its end even if the browser
disconnects. If a browser reloads its callback, the hook is called again with the same grant: store keys by their user
or by their ``key_hash``.
"""
OnError: TypeAlias = Callable[[RequestT, LoginFailure], Awaitable[ResponseT | None] | ResponseT | None]
"""A sync or async hook that returns the app's own response to a failed login; None shows a small page.

It is not called for clients that prefer JSON, which get a problem document (RFC 9457).
"""

OnLogout: TypeAlias = Callable[[RequestT], Awaitable[ResponseT | None] | ResponseT | None]
"""A sync or async hook that ends the session of a user who signs out, and deletes the user's key.

It returns the response, which ``sign_out`` makes; None shows a page with a link to all keys of the user.
"""

_MAX_PARAMETERS: Final = 50
# A cookie store keeps it in a cookie, and each cookie counts against the limits of servers.
_MAX_NEXT_LENGTH: Final = 256
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


class FlowOptions(TypedDict, total=False):
    """The options that are passed on to `AuthorizationFlow`, which documents them."""

    auth_url: str | URL | Unset
    code_challenge_method: CodeChallengeMethod | str
    lifetime: float
    result_lifetime: float
    claim_ttl: float
    busy_timeout: float
    verify: bool
    clock: Clock | None


class LoginOptions(FlowOptions, Generic[RequestT, ResponseT], total=False):
    """The options of ``setup``, which `WebLogin` documents."""

    callback_url: Required[str | URL]
    on_login: Required[OnLogin[RequestT, ResponseT]]
    on_error: OnError[RequestT, ResponseT] | None
    client: OpenRouter | Callable[[], OpenRouter]
    store: LoginStore | Callable[[], LoginStore] | None
    login_path: str | None
    callback_path: str | None | Unset
    status_path: str | None | Unset
    complete_path: str | None | Unset
    exchange_path: str | None
    logout_path: str | None
    on_logout: OnLogout[RequestT, ResponseT] | None
    render_page: RenderPage | None
    default_return_to: str
    key_label: str | None
    limit: float | None
    drain_timeout: float
    max_rejections: int
    max_exchanges: int


class StartOptions(TypedDict, total=False):
    """The options of ``start``.

    Attributes:
        return_to: The path to which the user returns; by default ``next`` in the query.
        key_label: The name of the key; by default that of the app.
        limit: The credit limit that OpenRouter's page proposes, in US dollars; by default that of the app.
        display: How the login ends in the browser, ``redirect``, ``popup`` or ``page``; by default ``display`` in the
            query, or else ``redirect``.
        headless: Whether OpenRouter's page shows a code for the user to paste, instead of sending the browser back.
        context: JSON data that `openrouter_async.integrations.web.OnLogin` receives with the grant; see
            `AuthorizationFlow.start`.
    """

    return_to: str | None
    key_label: str | None
    limit: float | None
    display: Display
    headless: bool
    context: Any


@attrs.frozen(kw_only=True)
class RequestInfo:
    """The parts of a request that a login reads.

    Attributes:
        method: The HTTP method.
        query: The raw query, without the question mark.
        path: The path that the browser requested, percent-encoded.
        headers: The headers, with case-insensitive names.
        cookie_headers: The values of all ``Cookie`` headers.
        path_params: The parameters in the path, ``state`` or ``login``, decoded.
        root_path: The path at which the app is mounted in another one; empty if it is not.
        address: The address of the client, as the framework tells it; None if unknown.
    """

    method: str
    path: str = attrs.field(repr=mask)
    query: str = attrs.field(repr=mask)
    headers: Mapping[str, str] = attrs.field(repr=False)
    cookie_headers: Sequence[str] = attrs.field(repr=False)
    path_params: Mapping[str, str] = attrs.field(factory=dict[str, str], repr=False)
    root_path: str = ""
    address: str | None = None

    @property
    def is_prefetch(self) -> bool:
        """Return whether the browser prefetches or previews the page without being asked by its user."""
        # Sec-Purpose is the standard; Safari and older browsers send the others.
        headers = (self.headers.get(name) for name in ("Sec-Purpose", "Purpose", "X-Purpose", "X-Moz"))
        return any("prefetch" in value.lower() or "preview" in value.lower() for value in headers if value)

    @property
    def cookies(self) -> dict[str, str]:
        """Return the cookies; see `read_cookies`."""
        return read_cookies(self.cookie_headers)

    @property
    def is_forced(self) -> bool:
        """Return whether another site opened the page without a click of the user (Fetch Metadata)."""
        return self.headers.get("Sec-Fetch-Site") == "cross-site" and self.headers.get("Sec-Fetch-User") != "?1"

    def return_to(self, given: str | None) -> str | None:
        """Return the path to which the user returns: the given one, or else ``next`` in the query, percent-encoded.

        Raises:
            RequestValidationError: The path could lead to another site, is too long, or is given twice.
        """
        if given is not None:
            return validate_return_to("return_to", given)
        values = self.parameters("next")
        if len(values) > 1:
            raise RequestValidationError("next", "must not be given twice")
        if not values:
            return None
        if len(values[0]) > _MAX_NEXT_LENGTH or _CONTROL.search(values[0]):
            raise RequestValidationError(
                "next", f"must be at most {_MAX_NEXT_LENGTH} characters, without control characters"
            )
        return validate_return_to("next", values[0])

    def parameters(self, name: str) -> Sequence[str]:
        """Return the values of a query parameter; empty if the query is malformed."""
        return self._parameters.get(name, ())

    @functools.cached_property
    def _parameters(self) -> Mapping[str, Sequence[str]]:
        try:
            return parse_qs(self.query, max_num_fields=_MAX_PARAMETERS)
        except ValueError:
            return {}


class Framework(Protocol[_RequestT_contra, ResponseT]):
    """The adapter of a web framework: how a `WebLogin` reads its requests and makes its responses."""

    def read_request(self, request: _RequestT_contra) -> RequestInfo:
        """Return the parts of a request that a login reads."""
        ...

    async def read_body(self, request: _RequestT_contra, max_size: int) -> bytes:
        """Return the body of a request.

        Args:
            request: The request.
            max_size: The maximum size in bytes. Of a larger body, return any part that is larger than that.
        """
        ...

    def respond(self, status: int, body: str, content_type: str = "text/html") -> ResponseT:
        """Return a response.

        Args:
            status: The HTTP status.
            body: The text, sent as UTF-8. If it is empty, the response has no body.
            content_type: The media type of the text.
        """
        ...

    def add_headers(self, response: ResponseT, headers: Mapping[str, str], cookies: Sequence[LoginCookie]) -> None:
        """Set headers of a response, and add cookies to it.

        Args:
            response: The response; it may be one that a hook of the app returned.
            headers: The headers, which replace those of the same name.
            cookies: The cookies; ``header`` is the value of their ``Set-Cookie``.
        """
        ...

    async def stream(
        self, request: _RequestT_contra, headers: Mapping[str, str], chunks: AsyncGenerator[bytes, None]
    ) -> ResponseT:
        """Return a response of status 200 whose body is sent chunk by chunk, until the browser disconnects.

        Args:
            request: The request.
            headers: The headers of the response.
            chunks: The chunks of the body. The generator must be closed at the end, as by ``contextlib.aclosing``.
        """
        ...


@attrs.frozen(kw_only=True)
class Route(Generic[RequestT, ResponseT]):
    """A route of a login, which the module of a framework adds to an app.

    Attributes:
        name: The kind of the route, such as ``login`` or ``callback``.
        path: The path, with ``{state}`` or ``{login}`` as its parameter.
        handlers: The handlers by HTTP method.
        refuse: Returns the answer to any other method, given the methods that the route has.
    """

    name: str
    path: str
    handlers: Mapping[str, Callable[[RequestT], Awaitable[ResponseT]]]
    refuse: Callable[[RequestT, Sequence[str]], ResponseT] = attrs.field(repr=False)

    async def handle(self, request: RequestT, method: str) -> ResponseT:
        """Return the answer to a request of this route.

        Args:
            request: The request.
            method: The HTTP method of the request; one that the route does not have is refused.
        """
        handler = self.handlers.get(method)
        return self.refuse(request, tuple(self.handlers)) if handler is None else await handler(request)


def spellings(path: str) -> tuple[str, ...]:
    """Return a path with and without a slash at its end.

    A framework's redirect between the two would send the code on, over plain http behind some proxies.
    """
    bare = path.rstrip("/")
    return (path, bare if path.endswith("/") else path + "/") if bare else (path,)
