"""The sign-in shapes of the guide: how a user goes through each of them in a browser, and how large an app is."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

from playwright.sync_api import BrowserContext, Page, Route, expect, sync_playwright

from tests.documents import read_blocks
from tests.support import PATIENCE, ROOT

if TYPE_CHECKING:
    from tests.integrations.support import Site

expect.set_options(timeout=PATIENCE * 1000)

GUIDE: Final = ROOT / "docs" / "how-to" / "sign-in-shapes.md"
SHAPES: Final = ("redirect", "popup", "tab", "paste", "pkce")
_SITES: Final = ROOT / "benchmarks" / "sites"
_IMPORT: Final = re.compile(r"^from benchmarks\.sites\.(\w+) import", re.MULTILINE)
# Lines that do not count as code: comments, and tags and brackets alone.
_BARE: Final = re.compile(r"#.*|<!--.*-->|</?script[^<]*>|[])}>,;:]*")


def visible_files() -> Mapping[str, str]:
    """Return the files of the guide, by their names."""
    return {block.file: block.code for block in read_blocks(GUIDE) if block.file is not None}


def files_by_hand(shape: str) -> set[Path]:
    """Return the files of the app that is written by hand: that of its shape, and all that it imports."""
    found, names = set[Path](), {shape}
    while names:
        path = _SITES / f"{names.pop()}.py"
        if path not in found:
            found.add(path)
            names |= set(_IMPORT.findall(path.read_text()))
    return found


def count_lines(text: str, *, is_python: bool) -> int:
    """Count the lines of code, without blank lines, comments, docstrings, and tags or closing brackets alone."""
    lines = text.splitlines()
    if is_python:
        for node in ast.walk(ast.parse(text)):
            match node:
                case ast.Expr(value=ast.Constant(value=str())):
                    assert node.end_lineno is not None
                    lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
    return sum(_BARE.fullmatch(line.strip()) is None for line in lines)


def size(shape: str) -> tuple[int, int, int]:
    """Return how many lines an app has: its server with this library, the same by hand, and the page of both."""
    files = visible_files()
    by_hand = sum(count_lines(path.read_text(), is_python=True) for path in files_by_hand(shape))
    page = count_lines(files[f"pages/{shape}.html"], is_python=False)
    return count_lines(files["app.py"], is_python=True), by_hand, page


@contextlib.contextmanager
def open_browser(chromium: str) -> Iterator[Callable[[str, Site], Awaitable[None]]]:
    """Give a function that signs in as `go_through` does, each time in a fresh profile of a running Chromium."""
    # Playwright's synchronous interface belongs to one thread.
    with ThreadPoolExecutor(1) as thread:
        playwright = thread.submit(sync_playwright().start).result()
        browser = thread.submit(playwright.chromium.connect_over_cdp, chromium).result()

        def sign_in(shape: str, site: Site) -> None:
            with browser.new_context() as context:
                context.set_default_timeout(PATIENCE * 1000)
                go_through(shape, context, site.url, site.fake.base_url.removesuffix("/api/v1"))

        async def sign_in_there(shape: str, site: Site) -> None:
            await asyncio.get_running_loop().run_in_executor(thread, sign_in, shape, site)

        try:
            yield sign_in_there
        finally:
            thread.submit(playwright.stop).result()


def go_through(shape: str, context: BrowserContext, site: str, openrouter: str) -> None:
    """Sign in by the page of a shape.

    Args:
        shape: One of `SHAPES`.
        context: The browser.
        site: The address of the app.
        openrouter: The address of the fake OpenRouter, to which the page's own links to OpenRouter are led.
    """

    def lead(route: Route) -> None:
        query = route.request.url.partition("?")[2]
        route.fulfill(status=302, headers={"Location": f"{openrouter}/auth?{query}"})

    context.route("https://openrouter.ai/auth?**", lead)
    page = context.new_page()
    page.goto(f"{site}/{shape}.html")
    _WAYS[shape](page, site)
    page.close()


def _redirect(page: Page, site: str) -> None:
    page.get_by_role("link", name="Sign in").click()
    _consent(page)
    page.wait_for_url(f"{site}/redirect.html")


def _popup(page: Page, site: str) -> None:
    _consent(_press(page))
    expect(page.locator("body")).to_have_text("finished")


def _tab(page: Page, site: str) -> None:
    tab = _press(page)
    _consent(tab)
    expect(page.locator("body")).to_have_text("finished")
    expect(tab.get_by_text("You can close this tab.")).to_be_visible()

    page.goto(f"{site}/tab.html")
    cancelled = _press(page)
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("body")).to_contain_text("This sign-in was cancelled.")
    _consent(cancelled)
    expect(cancelled.get_by_text("This sign-in was cancelled.")).to_be_visible()


def _paste(page: Page, site: str) -> None:
    tab = _press(page)
    page.locator("#code").fill("auth_code_wrong")
    page.get_by_role("button", name="Go on").click()
    expect(page.locator("#said")).to_contain_text("did not accept this code")
    with tab.expect_request(f"{site}/callback/**") as callback:
        _consent(tab)
    page.locator("#code").fill(callback.value.url)
    page.get_by_role("button", name="Go on").click()
    expect(page.locator("#said")).to_have_text("finished")


def _pkce(page: Page, site: str) -> None:
    page.get_by_role("button", name="Sign in").click()
    _consent(page)
    expect(page.locator("#said")).to_have_text("finished")


def _press(page: Page) -> Page:
    with page.expect_popup() as opened:
        page.get_by_role("button", name="Sign in").click()
    opened.value.wait_for_url("**/auth?**")
    return opened.value


def _consent(page: Page) -> None:
    page.wait_for_url("**/auth?**")
    page.get_by_role("button", name="Authorize").click(no_wait_after=True)


_WAYS: Final = {"redirect": _redirect, "popup": _popup, "tab": _tab, "paste": _paste, "pkce": _pkce}
