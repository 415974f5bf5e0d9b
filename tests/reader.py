"""What a reader of the documentation does beside typing: opens pages, consents, says no.

As a program, it is the browser that ``BROWSER`` names: it opens the page that it is given, and its user consents.
"""

from __future__ import annotations

import html
import re
import sys
import urllib.error
import urllib.request
from http.cookiejar import CookieJar
from urllib.parse import urlencode


class Browser:
    """A browser that keeps cookies, and whose user consents on OpenRouter's page.

    Args:
        decision: What its user decides there: ``authorize`` or ``deny``.
    """

    def __init__(self, decision: str = "authorize") -> None:
        self.cookies = CookieJar()
        self.url = ""
        self._decision = decision
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(self.cookies)
        )

    def open(self, url: str) -> str:
        """What a page says, through redirects and consent; `url` is where that ends."""
        text = self._load(url)
        if url.startswith("file:") and (onward := re.search(r'url=([^"]+)"', text)):
            text = self._load(html.unescape(onward[1]))
        if "code_challenge=" in self.url:
            text = self._load(self.url, urlencode({"decision": self._decision}).encode())
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


if __name__ == "__main__":
    Browser().open(sys.argv[1])
