"""The options and parts of a login that its routes share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Generic, TypeVar

import attrs
from yarl import URL

from openrouter_async._client.client import OpenRouter
from openrouter_async.errors import APIError, OpenRouterError
from openrouter_async.integrations.web._answers import Answers, Refusal
from openrouter_async.integrations.web._browser import BrowserBinding, BrowserCookies
from openrouter_async.integrations.web._framework import (
    Framework,
    OnLogin,
    OnLogout,
    RequestInfo,
    RequestT,
    ResponseT,
)
from openrouter_async.integrations.web._guards import AddressLimit, is_same_origin
from openrouter_async.integrations.web._statuses import Statuses
from openrouter_async.login._flow import AuthorizationFlow
from openrouter_async.login._urls import AUTHORIZATION_URL, CallbackTemplate
from openrouter_async.login.errors import CodeRejectedError

_Part = TypeVar("_Part")


@attrs.frozen(kw_only=True)
class Paths:
    """The paths of the routes; None for a route that the app does not have."""

    login: str | None
    callback: str | None
    status: str | None
    complete: str | None
    exchange: str | None
    logout: str | None


@attrs.define(kw_only=True, eq=False)
class LoginSite(Generic[RequestT, ResponseT]):
    """The login of an app, for its routes.

    Attributes:
        framework: The adapter to the framework.
        answers: Makes the responses.
        cookies: Makes and reads the cookies of bindings.
        template: The callback URL.
        paths: The paths of the routes.
        on_login: The app's hook for keys.
        on_logout: The app's hook for signing out.
        default_return_to: The path to which users return by default.
        key_label: The name of the keys.
        limit: The credit limit that OpenRouter's page proposes.
        rejections: The bound on rejected codes.
        exchanges: The bound on exchanges for pages that do PKCE themselves.
        running_client: The client while the app runs.
        running_flow: The flow while the app runs.
        running_statuses: The statuses of logins while the app runs.
        waiting_requests: The requests that wait for a status.
    """

    framework: Framework[RequestT, ResponseT]
    answers: Answers[RequestT, ResponseT]
    cookies: BrowserCookies
    template: CallbackTemplate
    paths: Paths
    on_login: OnLogin[RequestT, ResponseT]
    on_logout: OnLogout[RequestT, ResponseT] | None
    default_return_to: str
    key_label: str | None
    limit: float | None
    rejections: AddressLimit
    exchanges: AddressLimit
    running_client: OpenRouter | None = None
    running_flow: AuthorizationFlow | None = None
    running_statuses: Statuses | None = None
    waiting_requests: int = 0

    @property
    def callback_url(self) -> URL:
        """Return the callback URL, with its placeholder."""
        return URL(self.template.callback_url)

    @property
    def client(self) -> OpenRouter:
        """Return the client of the running app."""
        return _check_running(self.running_client)

    @property
    def flow(self) -> AuthorizationFlow:
        """Return the flow of the running app."""
        return _check_running(self.running_flow)

    @property
    def statuses(self) -> Statuses:
        """Return the statuses of the logins of the running app."""
        return _check_running(self.running_statuses)

    @property
    def is_running(self) -> bool:
        """Return whether the app runs."""
        return self.running_statuses is not None

    @contextlib.contextmanager
    def waiting(self) -> Iterator[int]:
        """Count a request that waits for a status, and yield the number of such requests."""
        self.waiting_requests += 1
        try:
            yield self.waiting_requests
        finally:
            self.waiting_requests -= 1

    def check_origin(self, info: RequestInfo) -> None:
        """Raise unless a page of the app itself made a request.

        Raises:
            Refusal: Another site made the request, or the client does not say which.
        """
        if not is_same_origin(info, self.callback_url):
            raise Refusal(403, "other-origin", "Only pages of this app may use this address.")

    def check_rejections(self, info: RequestInfo) -> None:
        """Raise if OpenRouter rejected too many codes of an address.

        Raises:
            Refusal: The address has to wait.
        """
        self._check_limit(self.rejections, info, "too-many-attempts", "Too many sign-ins failed.")

    def note_exchange(self, info: RequestInfo) -> None:
        """Count an exchange of an address for a page that does PKCE itself.

        Raises:
            Refusal: The address has to wait.
        """
        self._check_limit(self.exchanges, info, "too-many-exchanges", "Too many sign-ins.")
        self.exchanges.note(info.address, self.client.clock)

    def _check_limit(self, limit: AddressLimit, info: RequestInfo, kind: str, problem: str) -> None:
        wait = limit.retry_after(info.address, self.client.clock)
        if wait is not None:
            raise Refusal(429, kind, f"{problem} Please try again later.", retry_after=wait)

    def note_rejection(self, info: RequestInfo, error: OpenRouterError) -> None:
        """Count an error of an address if it is a rejected code."""
        if isinstance(error, CodeRejectedError) or (isinstance(error, APIError) and error.is_code_rejected):
            self.rejections.note(info.address, self.client.clock)

    @property
    def secret_paths(self) -> list[str]:
        """Return the parts of paths whose queries hold codes and states, each the part just before the state."""
        own = [URL(self.template.callback_url).path, URL(AUTHORIZATION_URL).path]
        if self.paths.callback is not None:
            own.append(self.paths.callback)
        # The last part alone: frameworks may leave out the path at which an app is mounted, and servers log the rest.
        return ["/" + path.partition("{")[0].rstrip("/").rpartition("/")[2] for path in own]

    def find_binding(self, info: RequestInfo, login: str) -> BrowserBinding | None:
        """Return the binding of a login that the browser has; None if it has none."""
        return self.cookies.find(info.cookies, login)


def _check_running(part: _Part | None) -> _Part:
    if part is None:
        raise RuntimeError(
            "the login is not running: the lifespan of its app has not begun, or is over. "
            "The lifespan of a mounted app runs only if the outer app enters it."
        )
    return part
