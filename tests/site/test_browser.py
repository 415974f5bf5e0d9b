"""The pages in a real browser: on any screen, in light and dark, for everybody."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.async_api import BrowserContext

from tests.site.pages import Site
from tests.support import find_axe

pytestmark = pytest.mark.browser

SCREENS: list[tuple[Literal["light", "dark"], int]] = [("light", 1280), ("dark", 390)]
RULES = {"resultTypes": ["violations"], "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}


@pytest.mark.parametrize("width", [390, 1280])
async def test_site_pages_never_scroll_sideways(site: Site, browser: BrowserContext, width: int) -> None:
    page = await browser.new_page()
    await page.set_viewport_size({"width": width, "height": 844})
    too_wide = {}
    for path in site.pages:
        await page.goto(path.as_uri(), wait_until="domcontentloaded")
        if (needed := await page.evaluate("document.documentElement.scrollWidth")) > width:
            too_wide[path.name] = needed
    assert too_wide == {}


@pytest.mark.parametrize(("scheme", "width"), SCREENS)
async def test_site_pages_are_accessible(
    site: Site, browser: BrowserContext, scheme: Literal["light", "dark"], width: int
) -> None:
    page = await browser.new_page()
    await page.context.add_init_script(path=find_axe())
    await page.emulate_media(color_scheme=scheme)
    await page.set_viewport_size({"width": width, "height": 844})
    violations: dict[str, Any] = {}
    for path in site.pages:
        await page.goto(path.as_uri())
        found = await page.evaluate("rules => axe.run(document, rules)", RULES)
        assert found["testEngine"]["name"] == "axe-core"
        for violation in found["violations"]:
            if violation["impact"] in ("serious", "critical"):
                nodes = [node["html"][:200] for node in violation["nodes"][:3]]
                violations[f"{path.name}: {violation['id']}"] = nodes
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
