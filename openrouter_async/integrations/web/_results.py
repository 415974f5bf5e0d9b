"""The page at the end of a login in a popup or in a tab of its own."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable
from typing import Final, Literal, TypeAlias

import attrs

from openrouter_async.integrations.web._browser import Display
from openrouter_async.login._pages import PRIVACY_HEADERS, render

MESSAGE_TYPE: Final = "openrouter-login"
"""The ``type`` of the message to the window that opened the popup, and the name of the broadcast channel."""

_POLICY: Final = "script-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_STRICT: Final = "default-src 'none'; style-src 'unsafe-inline'; "
# A `Cross-Origin-Opener-Policy` of a page on the way cuts the popup off from its opener. A broadcast channel still
# works, and only reaches pages of the same origin.
_TELL: Final = """const message = {message};
if (opener) opener.postMessage(message, location.origin);
else new BroadcastChannel(message.type).postMessage(message);
"""
# A reload must not send the code again.
_FORGET_CODE: Final = "history.replaceState(null, '', {home});\n"


@attrs.frozen(kw_only=True)
class ResultPage:
    """The content of a page at the end of a login, without a key or a code.

    A template of the app has to include `script`.

    Attributes:
        status: Whether the user is signed in.
        display: How the login ends: ``popup`` or ``page``.
        title: A heading.
        message: A sentence or two.
        links: Pairs of a link's text and address; an empty address is that of the page itself.
        login: The id of the login, as `WebLogin.start_json` returned it; None if unknown.
        home_url: The page of the app that a reload leads to.
        reason: As in `LoginFailure`.
        nonce: The nonce of the page's Content-Security-Policy.
    """

    status: Literal["finished", "failed"]
    display: Display
    title: str
    message: str
    links: Iterable[tuple[str, str]] = ()
    login: str | None = None
    home_url: str = "/"
    reason: str | None = None
    nonce: str = attrs.field(factory=lambda: secrets.token_urlsafe(16), repr=False)

    @property
    def script(self) -> str:
        """Return the script element, which notifies the app's window and closes the popup of a successful login."""
        lines = ""
        if self.status == "finished":
            lines += _FORGET_CODE.format(home=_literal(self.home_url))
        if self.display == "popup":
            message = {"type": MESSAGE_TYPE, "status": self.status, "login": self.login}
            lines += _TELL.format(message=_literal(message))
            if self.status == "finished":
                lines += "close();\n"
        return f'<script nonce="{self.nonce}">\n{lines}</script>\n'

    @property
    def html(self) -> str:
        """Return the page that is shown if the app has no template of its own."""
        return render(self.title, self.message, self.links, reason=self.reason, script=self.script)

    def headers(self, *, is_own: bool) -> dict[str, str]:
        """Return the headers of the page.

        Args:
            is_own: Whether the page comes from the app's own template, which may load styles and images.
        """
        policy = _POLICY.format(nonce=self.nonce)
        return PRIVACY_HEADERS | {"Content-Security-Policy": policy if is_own else _STRICT + policy}


RenderPage: TypeAlias = Callable[[ResultPage], str]
"""Returns the HTML of the app's own page, which has to include `ResultPage.script`."""


def finished_page(display: Display, login: str | None, home_url: str) -> ResultPage:
    """Return the page of a login that succeeded.

    Args:
        display: How the login ends.
        login: The id of the login.
        home_url: The page of the app that a reload leads to.
    """
    return ResultPage(
        status="finished",
        display=display,
        title="Signed in",
        message="You can close this tab." if display == "page" else "You can close this window.",
        login=login,
        home_url=home_url,
    )


def _literal(value: object) -> str:
    """Return a value as a JavaScript literal that cannot end its script element."""
    return json.dumps(value).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
