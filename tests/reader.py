"""The acts of a reader of the documentation in a browser: open pages, consent, and deny.

As a program, it is the browser that ``BROWSER`` names: it opens the page that it is given, and its user consents.
"""

from __future__ import annotations

import html
import re
import sys
import urllib.error
import urllib.request
from http.cookiejar import CookieJar
from pathlib import Path
from urllib.parse import urlencode


class Browser:
    """A browser that keeps cookies, and whose user consents on OpenRouter's page.

    Args:
        decision: The user's decision there: ``authorize`` or ``deny``.
        fault: The fault that the exchange of the code is to meet, in the syntax of `Fault.from_spec`; empty for none.
    """

    def __init__(self, decision: str = "authorize", fault: str = "") -> None:
        self.cookies = CookieJar()
        self.url = ""
        self._form = urlencode({"decision": decision, "fault": fault}).encode()
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(self.cookies)
        )

    def open(self, url: str) -> str:
        """Return the text of a page after redirects and consent; `url` is the last address."""
        text = self._load(url)
        if url.startswith("file:") and (onward := re.search(r'url=([^"]+)"', text)):
            text = self._load(html.unescape(onward[1]))
        if "code_challenge=" in self.url:
            text = self._load(self.url, self._form)
        return text

    def _load(self, url: str, form: bytes | None = None) -> str:
        try:
            answer = self._opener.open(url, form, timeout=30)
        except urllib.error.HTTPError as refusal:
            answer = refusal
        with answer:
            self.url = answer.geturl()
            text: str = answer.read().decode()
        return text


def check_login(site: str, *, path: str = "/", login: str = "/auth/login", denial: str = 'href="/auth/login"') -> None:
    """Sign in to a site, whose page then shows the end of the key; say no another time.

    Args:
        site: The address of the site.
        path: The page.
        login: The path that starts a login.
        denial: The text that the site shows to a user who denied access.
    """
    browser = Browser()
    assert "Sign in with OpenRouter" in browser.open(site + path)
    shown = browser.open(f"{site}{login}?next={path}")
    assert browser.url == site + path, browser.url
    assert re.search(r"Your key ends in \w{4}\.", shown), shown
    denied = Browser("deny").open(site + login)
    assert denial in denied, denied


def make_environment(base_url: str, home: Path) -> dict[str, str]:
    """Return the variables of a reader whose OpenRouter is a fake one, and whose browser consents.

    Args:
        base_url: The fake's API.
        home: An empty folder.
    """
    folders = dict.fromkeys(("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"), str(home))
    return folders | {
        "OPENROUTER_BASE_URL": base_url,
        "BROWSER": f"{sys.executable} {__file__} %s",
        "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
    }


if __name__ == "__main__":
    Browser().open(sys.argv[1])
