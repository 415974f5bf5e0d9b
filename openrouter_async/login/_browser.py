"""Opening the user's browser, without showing the sign-in's address to other users of the computer."""

from __future__ import annotations

import asyncio
import contextlib
import html
import os
import shutil
import subprocess
import sys
import tempfile
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Final

from openrouter_async._values.threads import run_in_daemon_thread

TERMINAL_BROWSERS: Final = frozenset({"www-browser", "w3m", "links", "links2", "elinks", "lynx", "browsh", "carbonyl"})
"""Browsers that would take over the user's terminal."""

_OPEN: Final = "import sys, webbrowser; sys.exit(not webbrowser.open(sys.argv[1]))"
_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="referrer" content="no-referrer">
<meta http-equiv="refresh" content="0;url={url}">
<title>Sign in</title>
<p><a href="{url}">Continue to the sign-in</a></p>
"""


class RedirectFile:
    """A page that only its owner can read, and that redirects a browser to a URL.

    All users of a computer can read the arguments of a process, and the URL would be one of the browser's.

    Attributes:
        uri: The ``file:`` URI of the page.
    """

    def __init__(self, url: str) -> None:
        # A browser that is installed as a snap sees neither /tmp nor hidden folders.
        parent = Path.home() if os.path.isdir("/snap/bin") else None
        self._folder = tempfile.mkdtemp(prefix="openrouter-sign-in-", dir=parent)
        path = Path(self._folder) / "sign-in.html"
        path.touch(0o600)
        path.write_text(_PAGE.format(url=html.escape(url)))
        self.uri = path.as_uri()

    def close(self) -> None:
        """Delete the page."""
        shutil.rmtree(self._folder, ignore_errors=True)


def browsers_from_environment() -> list[str]:
    """Return the browsers that ``BROWSER`` names, without those that run in a terminal."""
    named = [browser for browser in os.environ.get("BROWSER", "").split(os.pathsep) if browser.strip()]
    return [browser for browser in named if os.path.basename(browser.split()[0]) not in TERMINAL_BROWSERS]


def open_browser(url: str) -> bool:
    """Open a page in the user's browser, as ``webbrowser.open`` does, in a process of its own.

    A browser writes to the standard output that it inherits, and keeps it open: ``key="$(program)"`` would capture its
    messages and wait until the browser ends. A terminal browser would take the user's terminal.

    Returns:
        Whether a browser opened, as far as that is known.
    """
    if getattr(sys, "frozen", False) or not sys.executable:
        # There is no interpreter to run the module with.
        return webbrowser.open(url)
    environment = {name: value for name, value in os.environ.items() if name not in ("BROWSER", "TERM")}
    if browsers := browsers_from_environment():
        environment["BROWSER"] = os.pathsep.join(browsers)
    opened = subprocess.run(  # noqa: S603 - this interpreter, with a program of ours
        [sys.executable, "-I", "-c", _OPEN, url],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Ctrl-C in the terminal ends the program, and not the browser.
        start_new_session=True,
        check=False,
    )
    return opened.returncode == 0


def open_in_thread(
    url: str, opener: Callable[[str], object] | None, cleanup: contextlib.ExitStack | contextlib.AsyncExitStack
) -> asyncio.Future[bool]:
    """Open a page in a browser, in a daemon thread.

    Args:
        url: The page.
        opener: Opens a URL; None opens the default browser, on a `RedirectFile`.
        cleanup: Deletes the file.

    Returns:
        A future that tells whether a browser opened, as far as that is known. It never raises.
    """
    if opener is None:
        opener = open_browser
        with contextlib.suppress(OSError, RuntimeError):
            redirect = RedirectFile(url)
            cleanup.callback(redirect.close)
            url = redirect.uri

    def run() -> bool:
        try:
            return opener(url) is not False
        except Exception:  # noqa: BLE001 - the user has the URL, too
            return False

    return run_in_daemon_thread(run, name="openrouter-async-browser")
