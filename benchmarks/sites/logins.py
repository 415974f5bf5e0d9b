"""Logins that are pending: a state and a verifier for each, the browser it is bound to, and a lifetime."""

import asyncio
import hmac
import re
import secrets
import time
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TypeVar
from urllib.parse import urlencode

from fastapi import Request, Response

from benchmarks.sites.app import APP_URL, PRIVATE
from benchmarks.sites.exchange import BASE_URL, Grant, SignInError, exchange

AUTH_URL = BASE_URL.removesuffix("/api/v1") + "/auth"
LIFETIME = 600
MAX_LOGINS = 10_000
LOGINS: dict[str, "Login"] = {}

R = TypeVar("R", bound=Response)


@dataclass(eq=False)
class Login:
    return_to: str
    state: str = field(default_factory=secrets.token_urlsafe)
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(48))
    browser: str = field(default_factory=secrets.token_urlsafe)
    expires_at: float = field(default_factory=lambda: time.time() + LIFETIME)
    exchange: asyncio.Task[Grant] | None = None

    @property
    def url(self) -> str:
        """The page on which the user consents."""
        challenge = urlsafe_b64encode(sha256(self.verifier.encode()).digest()).rstrip(b"=").decode()
        query = {"callback_url": f"{APP_URL}/callback/{self.state}", "code_challenge": challenge}
        return f"{AUTH_URL}?{urlencode(query | {'code_challenge_method': 'S256'})}"

    def bind(self, response: R) -> R:
        """Bind the login to the browser that gets this response."""
        secure = APP_URL.startswith("https:")
        response.set_cookie(cookie_of(self.state), self.browser, LIFETIME, httponly=True, samesite="lax", secure=secure)
        response.headers.update(PRIVATE)
        return response

    async def finish(self, request: Request, code: str) -> Grant:
        """Exchange the code once: a repeated callback gets the same grant, and a caller that leaves cancels nothing."""
        if self.exchange is None or (self.exchange.done() and self.exchange.exception() is not None):
            self.exchange = asyncio.create_task(exchange(request, code, self.verifier))
        return await asyncio.shield(self.exchange)


def start(next_page: str) -> Login:
    """Start a login that returns to a page of this app."""
    now = time.time()
    # The oldest ones come first.
    while LOGINS and (oldest := next(iter(LOGINS.values()))).expires_at <= now:
        del LOGINS[oldest.state]
    if len(LOGINS) >= MAX_LOGINS:
        raise SignInError("Too many people are signing in. Please try again later.", 503)
    login = Login(next_page if re.fullmatch(r"/(?![/\\])[!-\[\]-~]*", next_page) else "/")
    LOGINS[login.state] = login
    return login


def find(request: Request, state: str) -> Login:
    """Find the login of this state and of this browser."""
    login, cookie = LOGINS.get(state), request.cookies.get(cookie_of(state))
    if cookie is None:
        raise SignInError("Please allow cookies for this site, and sign in again in the same browser.")
    if login is None or login.expires_at <= time.time():
        raise SignInError("This sign-in has expired. Please sign in again.")
    if not hmac.compare_digest(cookie.encode(), login.browser.encode()):
        raise SignInError("This sign-in was started in another browser.")
    return login


async def finish_callback(request: Request, state: str, code: str, error: str) -> tuple[Login, Grant]:
    """Finish the login that a callback belongs to."""
    login = find(request, state)
    if error or not code:
        raise SignInError("You cancelled the sign-in.")
    return login, await login.finish(request, code)


def cookie_of(state: str) -> str:
    """Return the name of a login's cookie."""
    return f"login-{sha256(state.encode()).hexdigest()[:16]}"
