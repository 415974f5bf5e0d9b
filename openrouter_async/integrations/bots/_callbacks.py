"""Checks of the callbacks and texts that users bring to a bot."""

from __future__ import annotations

import re
from typing import Final

from yarl import URL

from openrouter_async.login._callbacks import read_callback, read_pasted
from openrouter_async.login._flow import AuthorizationFlow
from openrouter_async.login._urls import CallbackTemplate
from openrouter_async.login.errors import InvalidCallbackError

_MAX_CALLBACK_LENGTH: Final = 4096
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")


class CallbackReader:
    """Checks the callbacks and pasted texts of the logins of a flow.

    Attributes:
        template: The callback URL of the flow; None if it has none.
    """

    def __init__(self, flow: AuthorizationFlow) -> None:
        self.template = None if flow.callback_url is None else CallbackTemplate(flow.callback_url)
        self._hosts = {flow.auth_url.host}
        if flow.callback_url is not None:
            self._hosts.add(URL(flow.callback_url).host)

    def check(self, callback: str | URL) -> str:
        """Return the text of a callback that came to a web app.

        Raises:
            InvalidCallbackError: The callback is not a well-formed URL of at most 4,096 characters.
            StateMismatchError: It has a code but no well-formed state.
        """
        text = str(callback)
        try:
            is_text = isinstance(callback, str | URL) and len(text) <= _MAX_CALLBACK_LENGTH
            if is_text and not _SURROGATE.search(text):
                # Checked before it is kept, so that other values cannot evict callbacks.
                read_callback(callback, self.template)
                return text
        finally:
            del callback, text
        raise InvalidCallbackError(f"the callback must be valid Unicode of at most {_MAX_CALLBACK_LENGTH} characters")

    def is_own_url(self, text: str) -> bool:
        """Return whether a text is not a URL, or is one at the host of the callback or of OpenRouter's page."""
        address = text if "://" in text else f"https://{text}"
        if ("?" not in text and "://" not in text) or text.startswith("?"):
            return True
        try:
            return URL(address).host in self._hosts
        except ValueError:
            return False

    def check_pasted(self, text: str, state: str) -> None:
        """Raise if a text is not a code, or is one that must not be sent."""
        try:
            if not self.is_own_url(text):
                raise InvalidCallbackError("the pasted URL must be the callback's or OpenRouter's")
            read_pasted(text, self.template, state)
        finally:
            del text, state
