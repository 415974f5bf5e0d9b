"""The apps that are written by hand beside those of the guide on sign-in shapes do what their lines are counted for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio

from openrouter_async.pkce import PKCEPair
from openrouter_async.testing import FakeOpenRouter, Fault
from tests.integrations import shapes
from tests.integrations.support import Page, Site, Visitor, serve_process
from tests.support import free_port

pytestmark = [
    pytest.mark.unmeasured,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.parametrize("site", shapes.SHAPES, indirect=True),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """The app of a shape in a process of its own, with the guide's page."""
    shape: str = request.param
    folder = tmp_path_factory.mktemp(shape)
    (folder / "pages").mkdir()
    for name, text in shapes.visible_files().items():
        (folder / name).write_text(text)
    port = free_port()
    url = f"http://localhost:{port}"
    command = ["-m", "uvicorn", "--host", "localhost", "--port", str(port), f"benchmarks.sites.{shape}:app"]
    async with FakeOpenRouter() as fake:
        environment = {"OPENROUTER_BASE_URL": fake.base_url, "APP_URL": url}
        async with serve_process(command, f"{url}/{shape}.html", folder / "log", environment, folder=folder):
            yield Site(name=shape, url=url, fake=fake)


@pytest.fixture(autouse=True)
def counters(site: Site) -> None:
    site.fake.counters.clear()


async def start(site: Site, visitor: Visitor) -> tuple[dict[str, Any], str]:
    """Start a login as the shape does. Return what its page is told, and the page for the consent."""
    if site.name == "redirect":
        return {}, await visitor.start()
    started = await visitor.start_json()
    return started, started["authorization_url"]


async def finish(site: Site, visitor: Visitor, consent_url: str, started: dict[str, Any]) -> Page:
    """Bring a code to the app as the shape does."""
    callback = site.fake.consent(consent_url)
    if site.name == "paste":
        return await visitor.call("/login/complete", {"login": started["login"], "code": callback})
    return await visitor.open(callback, headers={"Accept": "text/html"})


def issue(site: Site) -> dict[str, str]:
    """Return what a page sends that does PKCE itself."""
    pair = PKCEPair.generate()
    code = site.fake.issue_code(code_challenge=pair.code_challenge, code_challenge_method="S256")
    return {"code": code, "code_verifier": pair.code_verifier, "code_challenge_method": "S256"}


async def sign_in(site: Site, visitor: Visitor) -> Page:
    """Sign in as the shape does, without its page."""
    if site.name == "pkce":
        return await visitor.call("/exchange", issue(site))
    started, consent_url = await start(site, visitor)
    return await finish(site, visitor, consent_url, started)


@pytest.mark.browser
async def test_site_by_hand_signs_in_by_the_page_of_the_guide(
    site: Site, sign_in_by_page: Callable[[str, Site], Awaitable[None]]
) -> None:
    keys = site.keys
    await sign_in_by_page(site.name, site)
    assert site.keys == keys + 1


async def test_site_by_hand_exchanges_a_code_that_comes_twice_once(site: Site) -> None:
    async with Visitor(site) as visitor:
        if site.name == "pkce":
            body = issue(site)
            pages = await asyncio.gather(*(visitor.call("/exchange", body) for _ in range(4)))
            assert sorted(page.status for page in pages) == [200, 409, 409, 409]
        else:
            _, consent_url = await start(site, visitor)
            callback = site.fake.consent(consent_url)
            pages = await asyncio.gather(*(visitor.open(callback) for _ in range(4)))
            assert len({page.status for page in pages}) == 1
            assert pages[0].status in {200, 303}
    assert site.exchanges == 1


async def test_site_by_hand_refuses_another_browser(site: Site) -> None:
    async with Visitor(site) as visitor, Visitor(site) as other:
        if site.name == "pkce":
            page = await other.call("/exchange", issue(site), Origin="http://evil.example")
        else:
            started, consent_url = await start(site, visitor)
            page = await finish(site, other, consent_url, started)
    assert page.status in {400, 403}
    assert site.exchanges == 0


async def test_site_by_hand_repeats_what_failed_for_the_moment(site: Site) -> None:
    site.fake.queue_faults(Fault.status(503))
    async with Visitor(site) as visitor:
        page = await sign_in(site, visitor)
    assert page.status in {200, 303}
    assert site.exchanges == 2


async def test_site_by_hand_explains_a_refused_code(site: Site) -> None:
    site.fake.queue_faults(Fault.status(403))
    async with Visitor(site) as visitor:
        page = await sign_in(site, visitor)
    assert page.status == 400
    assert "OpenRouter did not accept this code." in page.text
    assert site.exchanges == 1
