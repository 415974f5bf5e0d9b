"""What a web framework and a login need to know of each other."""

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
from openrouter_async.login._urls import validate_return_to
from openrouter_async.redaction import mask, mask_optional

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")
_RequestT_contra = TypeVar("_RequestT_contra", contravariant=True)

OnLogin: TypeAlias = Callable[[RequestT, Grant], Awaitable[ResponseT | None]]
"""Takes the key of a user who signed in, and may give the response; None leads the user back into the app.

It runs to its end also when the browser has gone. A browser that reloads its callback gets the same grant again, and so
does this: store keys by their user, or their ``key_hash``.
"""
OnError: TypeAlias = Callable[[RequestT, LoginFailure], Awaitable[ResponseT | None]]
"""Shows a failure in the app's own way; None shows a small page."""

_MOST_PARAMETERS: Final = 50


class FlowOptions(TypedDict, total=False):
    """What is handed on to `AuthorizationFlow`, where each is explained."""

    auth_url: str | URL
    code_challenge_method: CodeChallengeMethod | str
    lifetime: float
    result_lifetime: float
    claim_ttl: float
    busy_timeout: float
    clock: Clock | None


class LoginOptions(FlowOptions, Generic[RequestT, ResponseT], total=False):
    """What ``setup`` takes; each as for `WebLogin`."""

    callback_url: Required[str | URL]
    on_login: Required[OnLogin[RequestT, ResponseT]]
    on_error: OnError[RequestT, ResponseT] | None
    client: OpenRouter | Callable[[], OpenRouter]
    store: LoginStore | Callable[[], LoginStore] | None
    login_path: str | None
    callback_path: str | None | Unset
    home: str
    key_label: str | None
    limit: float | None
    drain_timeout: float


class StartOptions(TypedDict, total=False):
    """What ``start`` takes.

    Attributes:
        return_to: The path to lead the user to afterwards; by default ``next`` in the query.
        key_label: The name that the key will have; by default that of the app.
        limit: The credit limit that the page proposes, in US dollars; by default that of the app.
        context: What `openrouter_async.integrations.web.OnLogin` gets with the grant; see `AuthorizationFlow.start`.
    """

    return_to: str | None
    key_label: str | None
    limit: float | None
    context: Any


@attrs.frozen(kw_only=True)
class RequestInfo:
    """What a login needs to know of a request.

    Attributes:
        method: The HTTP method.
        query: The query as it came, without a question mark.
        headers: The headers, by names in any case.
        cookies: The cookies.
        state: The state in the path; None without.
        login_url: The path where a login is started, as the browser has to ask for it; None when there is none.
    """

    method: str
    query: str = attrs.field(repr=mask)
    headers: Mapping[str, str] = attrs.field(repr=False)
    cookies: Mapping[str, str] = attrs.field(repr=False)
    state: str | None = attrs.field(repr=mask_optional)
    login_url: str | None

    @property
    def is_prefetch(self) -> bool:
        """Whether the browser asks before its user does."""
        # The first is the standard; Safari and older browsers have the others.
        return any("prefetch" in self.headers.get(name, "") for name in ("Sec-Purpose", "Purpose", "X-Moz"))

    def return_to(self, given: str | None) -> str | None:
        """The path to lead the user to: what is given, else ``next`` in the query.

        Raises:
            RequestValidationError: It could lead to another site, or is there twice.
        """
        values = self.parameters("next") if given is None else (given,)
        if len(values) > 1:
            raise RequestValidationError("next", "must not be there twice")
        return validate_return_to("next", values[0]) if values else None

    def parameters(self, name: str) -> Sequence[str]:
        """The values of a parameter; none when the query is malformed."""
        try:
            return parse_qs(self.query, max_num_fields=_MOST_PARAMETERS).get(name, ())
        except ValueError:
            return ()


class Framework(Protocol[_RequestT_contra, ResponseT]):
    """What is different in each framework."""

    def visit(self, request: _RequestT_contra, login_path: str | None) -> RequestInfo:
        """Read a request."""
        ...

    def respond(self, status: int, page: str) -> ResponseT:
        """Make a response of HTML, or without a body."""
        ...

    def amend(self, response: ResponseT, headers: Mapping[str, str], cookies: Sequence[LoginCookie]) -> None:
        """Set headers, and add cookies."""
        ...
