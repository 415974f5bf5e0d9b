"""The answers of all routes: redirects, pages, JSON, and failures as pages or JSON."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, Generic

import attrs

from openrouter_async.errors import OpenRouterError
from openrouter_async.integrations._hooks import call_hook
from openrouter_async.integrations.web._browser import Display
from openrouter_async.integrations.web._failures import NOT_SIGNED_IN, LoginFailure, describe
from openrouter_async.integrations.web._framework import Framework, OnError, RequestInfo, RequestT, ResponseT
from openrouter_async.integrations.web._results import RenderPage, ResultPage
from openrouter_async.login._models import LoginCookie
from openrouter_async.login._pages import PAGE_HEADERS, PRIVACY_HEADERS
from openrouter_async.login._problems import log_failure

logger = logging.getLogger("openrouter_async.integrations.web")

JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"
_HTML: Final = "text/html"


class Refusal(Exception):  # noqa: N818 - it never leaves the routes
    """Ends a request with a failure that is not one of the login itself.

    Args:
        status: The HTTP status of the answer.
        kind: The kind of the failure; see `LoginFailure`.
        message: A sentence that is safe to show.
        retry_after: Seconds until another try may succeed.
    """

    def __init__(self, status: int, kind: str, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.failure = LoginFailure(
            status=status, title=NOT_SIGNED_IN, message=message, kind=kind, retry_after=retry_after
        )


def prefers_json(accept: str, *, default: bool) -> bool:
    """Return whether a client prefers JSON to HTML.

    Args:
        accept: The value of its ``Accept`` header.
        default: The result if it prefers neither, or names neither, as with ``*/*``.

    See Also:
        RFC 9110, section 12.5.1.
    """
    weights: dict[str, float] = {}
    for part in accept.split(","):
        kind, *parameters = (field.strip().lower() for field in part.split(";"))
        quality = next((value[2:] for value in parameters if value.startswith("q=")), "1")
        try:
            weights[kind] = float(quality)
        except ValueError:
            continue
    for_json = max(weights.get(JSON, 0.0), weights.get(PROBLEM, 0.0))
    for_html = weights.get(_HTML, 0.0)
    return default if for_json == for_html else for_json > for_html


@attrs.frozen(kw_only=True)
class Answers(Generic[RequestT, ResponseT]):
    """Makes the responses of an app.

    Attributes:
        framework: The adapter to the framework.
        on_error: The app's own hook for failures.
        render_page: The app's own template for the ends of logins in popups and tabs.
        login_path: The path that starts a login.
        home_url: The page of the app to which failure pages link.
        local_origin: The origin of a callback URL on a loopback host, as in development; None for any other.
    """

    framework: Framework[RequestT, ResponseT]
    on_error: OnError[RequestT, ResponseT] | None
    render_page: RenderPage | None
    login_path: str | None
    home_url: str
    local_origin: str | None

    def see_other(self, url: str, cookies: Sequence[LoginCookie] = ()) -> ResponseT:
        """Return a redirect."""
        return self._respond(303, "", _HTML, PRIVACY_HEADERS | {"Location": url}, cookies)

    def json(
        self,
        value: Mapping[str, Any],
        *,
        status: int = 200,
        content_type: str = JSON,
        headers: Mapping[str, str] | None = None,
        cookies: Sequence[LoginCookie] = (),
    ) -> ResponseT:
        """Return a JSON object."""
        return self._respond(status, json.dumps(value), content_type, PRIVACY_HEADERS | dict(headers or {}), cookies)

    def page(
        self,
        status: int,
        page: str,
        headers: Mapping[str, str] | None = None,
        cookies: Sequence[LoginCookie] = (),
    ) -> ResponseT:
        """Return a page without scripts."""
        return self._respond(status, page, _HTML, PAGE_HEADERS | dict(headers or {}), cookies)

    def result(self, status: int, result: ResultPage, headers: Mapping[str, str] | None = None) -> ResponseT:
        """Return the page at the end of a login in a popup or a tab, in the app's own template if it has one."""
        is_own = self.render_page is not None
        page = result.html if self.render_page is None else self.render_page(result)
        return self._respond(status, page, _HTML, result.headers(is_own=is_own) | dict(headers or {}))

    def refuse(self, status: int, headers: Mapping[str, str] | None = None) -> ResponseT:
        """Return a response without a body."""
        return self._respond(status, "", _HTML, PRIVACY_HEADERS | dict(headers or {}))

    def refuse_method(self, request: RequestT, methods: Sequence[str]) -> ResponseT:
        """Return the answer to a method that a route does not have."""
        allowed = ", ".join(methods)
        failure = Refusal(405, "method-not-allowed", f"This address accepts only {allowed}.").failure
        info = self.framework.read_request(request)
        if prefers_json(info.headers.get("Accept", ""), default=False):
            return self._problem(failure, {"Allow": allowed})
        return self.refuse(405, {"Allow": allowed})

    def login_url(self, info: RequestInfo) -> str | None:
        """Return the path that starts a login as the browser sees it; None if there is none."""
        return None if self.login_path is None else info.root_path + self.login_path

    def failure_of(
        self, info: RequestInfo, error: OpenRouterError, *, return_to: str | None = None, lacks_cookie: bool = False
    ) -> LoginFailure:
        """Describe an error to a browser; see `describe`."""
        return describe(
            error,
            login_url=self.login_url(info),
            return_to=getattr(error, "return_to", return_to),
            home_url=self.home_url,
            lacks_cookie=lacks_cookie,
            local_origin=self.local_origin,
        )

    def complete_failure(self, info: RequestInfo, failure: LoginFailure) -> LoginFailure:
        """Return a failure with the links of this app."""
        return attrs.evolve(failure, login_url=self.login_url(info), home_url=self.home_url)

    async def fail(
        self,
        request: RequestT,
        info: RequestInfo,
        failure: LoginFailure,
        *,
        path: str | None,
        as_json: bool = False,
        display: Display = "redirect",
        login: str | None = None,
    ) -> ResponseT:
        """Log a failure, and return the answer: JSON to a client that prefers it, or a page.

        Args:
            request: The request.
            info: The parts of the request.
            failure: The failure.
            path: The path of the route, without secrets.
            as_json: Whether a client that prefers neither gets JSON.
            display: How the login ends.
            login: The id of the login; None if unknown.
        """
        log_failure(logger, failure.error, status=failure.status, kind=failure.kind, path=path)
        if prefers_json(info.headers.get("Accept", ""), default=as_json):
            return self._problem(failure, failure.headers)
        response = None if self.on_error is None else await call_hook(self.on_error, request, failure)
        if response is not None:
            self.framework.add_headers(response, PRIVACY_HEADERS, ())
            return response
        if display == "redirect":
            return self.page(failure.status, failure.page, failure.headers)
        result = ResultPage(
            status="failed",
            display=display,
            title=failure.title,
            message=failure.message,
            reason=failure.reason,
            links=tuple(failure.links()),
            login=login,
            home_url=self.home_url,
        )
        return self.result(failure.status, result, failure.headers)

    def _problem(self, failure: LoginFailure, headers: Mapping[str, str]) -> ResponseT:
        return self.json(failure.problem, status=failure.status, content_type=PROBLEM, headers=headers)

    def _respond(
        self,
        status: int,
        body: str,
        content_type: str,
        headers: Mapping[str, str],
        cookies: Sequence[LoginCookie] = (),
    ) -> ResponseT:
        response = self.framework.respond(status, body, content_type)
        self.framework.add_headers(response, headers, cookies)
        return response
