"""Describe failed logins to the browser."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlencode

import attrs

from openrouter_async.errors import OpenRouterError, Outcome
from openrouter_async.login._pages import render
from openrouter_async.login._problems import DEFAULT_KIND, find_by_class, kind_of, status_of, type_of
from openrouter_async.login.errors import LoginAlreadyUsedError, LoginCancelledError, LoginInProgressError

NOT_SIGNED_IN: Final = "Not signed in"
_TITLES: Final[tuple[tuple[type[OpenRouterError], str], ...]] = (
    (LoginAlreadyUsedError, "Already finished"),
    (LoginInProgressError, "One moment"),
    (LoginCancelledError, "Cancelled"),
)


@attrs.frozen(kw_only=True)
class LoginFailure:
    """The reason why a login failed, in words that are safe to show.

    Attributes:
        status: The HTTP status of the answer.
        title: A heading.
        message: A sentence or two.
        kind: The kind of the failure in lowercase words with dashes, such as ``login-expired``.
        error: The error behind the failure; None if there is none.
        login_url: The URL that starts a new login; None if a new login would not help.
        home_url: The page of the app to which the failure page links.
        can_retry: Whether loading the same page again may succeed.
        retry_after: Seconds until another try may succeed; None if unknown.
        reason: The error in words for the developer, without secrets; None unless the callback URL is on a loopback
            host, as in development.
    """

    status: int
    title: str
    message: str
    kind: str = DEFAULT_KIND
    error: OpenRouterError | None = None
    login_url: str | None = None
    home_url: str = "/"
    can_retry: bool = False
    retry_after: float | None = None
    reason: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers of the answer: ``Retry-After`` if the error says when to try again."""
        seconds = self.retry_after
        return {} if seconds is None else {"Retry-After": str(math.ceil(seconds))}

    @property
    def page(self) -> str:
        """Return the page that is shown if the app does not show its own."""
        return render(self.title, self.message, self.links(), reason=self.reason)

    @property
    def problem(self) -> dict[str, Any]:
        """Return the members of a problem document, as programs read it.

        See Also:
            RFC 9457, section 3.
        """
        return {
            "type": type_of(self.kind),
            "title": self.title,
            "status": self.status,
            "detail": self.message,
            "outcome": str(Outcome.NOT_SENT if self.error is None else self.error.outcome),
            "restart_login": False if self.error is None else self.error.restart_login,
            "retry_after": None if self.retry_after is None else math.ceil(self.retry_after),
        }

    def links(self) -> Iterator[tuple[str, str]]:
        """Return the texts and addresses of the links of the page; an empty address is that of the page itself."""
        if self.can_retry:
            # An empty address is the callback itself, whose code can still be exchanged.
            yield "Try again", ""
        if self.login_url is not None:
            yield "Sign in again", self.login_url
        yield "Back to the app", self.home_url


def describe(
    error: OpenRouterError,
    *,
    login_url: str | None,
    return_to: str | None,
    home_url: str,
    lacks_cookie: bool,
    local_origin: str | None = None,
) -> LoginFailure:
    """Describe an error to the browser.

    Args:
        error: The error.
        login_url: The URL that starts a login; None if the app has none.
        return_to: The path on the app's site to which a new login returns.
        home_url: The page of the app to which the failure page links.
        lacks_cookie: Whether the browser did not send the cookie that was set when the login started.
        local_origin: The origin of a callback URL on a loopback host; None for any other.
    """
    title = find_by_class(_TITLES, error) or NOT_SIGNED_IN
    message = error.user_message
    reason = None if local_origin is None else f"{type(error).__name__}: {error}"
    if lacks_cookie:
        title = "Cookies are needed"
        message = (
            "Your browser did not send the cookie of this sign-in. Cookies may be blocked, or the sign-in was started "
            "in another browser or at another address. Please allow cookies for this site, and sign in again."
        )
        if reason is not None:
            reason += f"; start the login at {local_origin}, the host of the callback URL"
    if login_url is not None and return_to is not None:
        login_url += "?" + urlencode({"next": return_to})
    return LoginFailure(
        status=status_of(error),
        title=title,
        message=message,
        kind=kind_of(error),
        error=error,
        login_url=login_url if error.restart_login else None,
        home_url=home_url,
        can_retry=not error.restart_login,
        retry_after=error.retry_after,
        reason=reason,
    )
