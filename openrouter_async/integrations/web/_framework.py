"""The interface between a web framework and a login."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Generic, Protocol, Required, TypeAlias, TypedDict, TypeVar
from urllib.parse import parse_qs

import attrs
from yarl import URL

from openrouter_async._client.client import OpenRouter
from openrouter_async._values.clock import Clock
from openrouter_async._values.models import CodeChallengeMethod, Unset
from openrouter_async.errors import RequestValidationError
from openrouter_async.integrations.web._failures import LoginFailure
from openrouter_async.login._models import Grant, LoginCookie
from openrouter_async.login._records import LoginStore
from openrouter_async.login._urls import find_return_to
from openrouter_async.redaction import mask, mask_optional

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
"""A sync or async hook that returns the app's own response to a failed login; None shows a small page."""

_MAX_PARAMETERS: Final = 50


class FlowOptions(TypedDict, total=False):
    """The options that are passed on to `AuthorizationFlow`, which documents them."""

    auth_url: str | URL
    code_challenge_method: CodeChallengeMethod | str
    lifetime: float
    result_lifetime: float
    claim_ttl: float
    busy_timeout: float
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
    default_return_to: str
    key_label: str | None
    limit: float | None
    drain_timeout: float


class StartOptions(TypedDict, total=False):
    """The options of ``start``.

    Attributes:
        return_to: The path to which the user returns; by default ``next`` in the query.
        key_label: The name of the key; by default that of the app.
        limit: The credit limit that OpenRouter's page proposes, in US dollars; by default that of the app.
        context: JSON data that `openrouter_async.integrations.web.OnLogin` receives with the grant; see
            `AuthorizationFlow.start`.
    """

    return_to: str | None
    key_label: str | None
    limit: float | None
    context: Any


@attrs.frozen(kw_only=True)
class RequestInfo:
    """The parts of a request that a login reads.

    Attributes:
        method: The HTTP method.
        query: The raw query, without the question mark.
        headers: The headers, with case-insensitive names.
        state: The state in the path; None if the path has none.
        login_url: The path that starts a login, as seen by the browser; None if there is none.
    """

    method: str
    query: str = attrs.field(repr=mask)
    headers: Mapping[str, str] = attrs.field(repr=False)
    cookies: Mapping[str, str] = attrs.field(repr=False)
    state: str | None = attrs.field(repr=mask_optional)
    login_url: str | None

    @property
    def is_prefetch(self) -> bool:
        """Return whether the browser prefetches or previews the page without an act of its user."""
        # Sec-Purpose is the standard; Safari and older browsers send the others.
        return any("prefetch" in self.headers.get(name, "") for name in ("Sec-Purpose", "Purpose", "X-Moz"))

    def return_to(self, given: str | None) -> str | None:
        """Return the path to which the user returns: `given`, or else ``next`` in the query.

        Raises:
            RequestValidationError: The path could lead to another site, or is given twice.
        """
        values = self.parameters("next") if given is None else (given,)
        if len(values) > 1:
            raise RequestValidationError("next", "must not be there twice")
        return find_return_to("next", values[0]) if values else None

    def parameters(self, name: str) -> Sequence[str]:
        """Return the values of a query parameter; empty if the query is malformed."""
        try:
            return parse_qs(self.query, max_num_fields=_MAX_PARAMETERS).get(name, ())
        except ValueError:
            return ()


class Framework(Protocol[_RequestT_contra, ResponseT]):
    """The differences between web frameworks."""

    def read_request(self, request: _RequestT_contra, login_path: str | None) -> RequestInfo:
        """Return the parts of a request that a login reads."""
        ...

    def respond(self, status: int, page: str) -> ResponseT:
        """Return a response with an HTML page, or without a body if `page` is empty."""
        ...

    def add_headers(self, response: ResponseT, headers: Mapping[str, str], cookies: Sequence[LoginCookie]) -> None:
        """Set headers of a response, and add cookies."""
        ...
