"""The pages in a real browser: on any screen, in light and dark, for everybody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import BrowserContext

from tests.site.pages import Site
from tests.support import STRESS, find_axe

pytestmark = pytest.mark.browser

# Every page is looked at in one of these, and under STRESS in both.
SCREENS: list[tuple[str, int]] = [("light", 1280), ("dark", 390)]
RULES = {"resultTypes": ["violations"], "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}


async def test_site_pages_never_scroll_sideways(site: Site, browser: BrowserContext) -> None:
    page = await browser.new_page()
    too_wide = {}
    for path in site.pages:
        await page.goto(path.as_uri(), wait_until="domcontentloaded")
        for screen in (390, 1280) if STRESS else (390,):
            await page.set_viewport_size({"width": screen, "height": 844})
            width = await page.evaluate("document.documentElement.scrollWidth")
            if width > screen:
                too_wide[path.name] = (screen, width)
    assert too_wide == {}


async def test_site_pages_are_accessible_in_light_and_dark(site: Site, browser: BrowserContext) -> None:
    axe = find_axe()
    page = await browser.new_page()
    await page.context.add_init_script(path=axe)
    violations: dict[str, Any] = {}
    for number, path in enumerate(site.pages):
        await page.goto(path.as_uri())
        for scheme, width in SCREENS if STRESS else [SCREENS[number % 2]]:
            await page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
            await page.set_viewport_size({"width": width, "height": 844})
            found = await page.evaluate("rules => axe.run(document, rules)", RULES)
            assert found["testEngine"]["name"] == "axe-core"
            for violation in found["violations"]:
                if violation["impact"] in ("serious", "critical"):
                    nodes = [node["html"][:200] for node in violation["nodes"][:3]]
                    violations[f"{path.name} {scheme} {width}: {violation['id']}"] = nodes
    assert violations == {}


async def test_site_check_finds_a_page_too_wide_or_too_pale(browser: BrowserContext, tmp_path: Path) -> None:
    axe = find_axe()
    page = await browser.new_page()
    await page.context.add_init_script(path=axe)
    await page.set_viewport_size({"width": 390, "height": 844})
    bad = tmp_path / "bad.html"
    bad.write_text('<html lang="en"><title>Pale</title><p style="width: 900px; color: #ddd">Hardly to be read')
    await page.goto(bad.as_uri())
    found = await page.evaluate("rules => axe.run(document, rules)", RULES)
    assert await page.evaluate("document.documentElement.scrollWidth") > 390
    assert "color-contrast" in [violation["id"] for violation in found["violations"]]
