"""The cookie that binds a login to the browser that started it."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Final, Literal, Self, TypeAlias

import attrs

from openrouter_async.integrations.web._cookies import surplus_cookies
from openrouter_async.login._models import LoginCookie
from openrouter_async.login._records import login_id
from openrouter_async.redaction._masks import mask, mask_optional

Display: TypeAlias = Literal["redirect", "popup", "page"]
"""How a login ends in the browser.

``redirect`` leads back into the app. ``popup`` is for a window that the app opened by script: its page tells the window
that opened it, and closes. ``page`` is for a tab that the user closes.
"""

DISPLAYS: Final[Mapping[str, Display]] = {"redirect": "redirect", "popup": "popup", "page": "page"}

_VALUE: Final = re.compile(r"([\w-]{43})(?:\.(redirect|popup|page)(?:\.([\w-]{43}))?)?", re.ASCII)
_NAME: Final = "openrouter-browser-"
_ID_LENGTH: Final = 16
# Longer than any login, so that a missing cookie never means an expired one.
_LIFETIME: Final = 24 * 3600


@attrs.frozen(kw_only=True)
class BrowserBinding:
    """The value of the cookie.

    Attributes:
        value: A random value of 256 bits, the ``binding`` of the login.
        display: How the login ends.
        state: The state of a login whose status can be asked for; None for any other. Routes that name a login by its
            id need it, and it must not be in their URLs, which servers log.
    """

    value: str = attrs.field(factory=lambda: secrets.token_urlsafe(32), repr=mask)
    display: Display = "redirect"
    state: str | None = attrs.field(default=None, repr=mask_optional)

    def __str__(self) -> str:
        """Return the value of the cookie: only `value` for a login that ends with a redirect and has no status."""
        if self.state is not None:
            return f"{self.value}.{self.display}.{self.state}"
        return self.value if self.display == "redirect" else f"{self.value}.{self.display}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Parse the value of a cookie; None if it is not a binding."""
        found = _VALUE.fullmatch(text)
        if found is None:
            return None
        return cls(value=found[1], display=DISPLAYS[found[2] or "redirect"], state=found[3])


class BrowserCookies:
    """Makes and reads the cookies of bindings.

    Args:
        is_secure: Whether they are for https alone, with the prefix ``__Host-``. Without https, which is accepted only
            on the user's own computer, some browsers refuse secure cookies.
    """

    def __init__(self, *, is_secure: bool) -> None:
        self._is_secure = is_secure
        self._prefix = ("__Host-" if is_secure else "") + _NAME

    def find(self, cookies: Mapping[str, str], login: str) -> BrowserBinding | None:
        """Return the binding of a login that the browser started; None if it did not start the login.

        Args:
            cookies: The cookies of the request.
            login: The `login_id` of the login.
        """
        text = cookies.get(self._name(login))
        binding = None if text is None else BrowserBinding.parse(text)
        if binding is not None and binding.state is not None and login_id(binding.state) != login:
            return None
        return binding

    def issue(
        self, cookies: Mapping[str, str], login: str, binding: BrowserBinding, other: LoginCookie | None
    ) -> Sequence[LoginCookie]:
        """Return the cookies to set at the start of a login, with deletions of the oldest ones.

        Args:
            cookies: The cookies of the request.
            login: The `login_id` of the login.
            binding: The binding of the login.
            other: The cookie of the store; None if it needs none.
        """
        added = [self._make(self._name(login), str(binding))]
        prefixes: tuple[str, ...] = (self._prefix,)
        if other is not None:
            added.append(other)
            prefixes += (other.name[:-_ID_LENGTH],)
        size = sum(len(cookie.name) + len(cookie.value) + 3 for cookie in added)
        return [*map(self._make, surplus_cookies(cookies, prefixes, size)), *added]

    def forget(self, cookies: Mapping[str, str]) -> Sequence[LoginCookie]:
        """Return deletions of the bindings of all logins of this browser."""
        return [self._make(name) for name in cookies if name.startswith(self._prefix)]

    def _name(self, login: str) -> str:
        return self._prefix + login[:_ID_LENGTH]

    def _make(self, name: str, value: str = "") -> LoginCookie:
        return LoginCookie(name=name, value=value, max_age=_LIFETIME if value else 0, secure=self._is_secure)
