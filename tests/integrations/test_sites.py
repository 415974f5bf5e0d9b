"""Tests of the examples of web apps, also with four workers."""

from __future__ import annotations

import asyncio
import re
from http.cookies import SimpleCookie
from urllib.parse import quote

import pytest
from yarl import URL

from tests.integrations.support import Site, Visitor
from tests.support import PATIENCE

pytestmark = pytest.mark.asyncio(loop_scope="module")

EVIL = (
    "//evil.example",
    "///evil.example",
    "https://evil.example",
    "https:evil.example",
    "javascript:alert(1)",
    "/\\evil.example",
    "\\\\evil.example",
    "\\/evil.example",
    "/%2Fevil.example",
    "/%2fevil.example",
    "/%5Cevil.example",
    "/%252Fevil.example",
    "/%25255cevil.example",
    "/\tevil.example",
    "/\r\nSet-Cookie: a=b",
    "/\x00/evil.example",
    " /evil.example",
    "evil.example",
    "/" + "a" * 600,
)


async def test_site_login_returns_to_the_requested_page(site: Site, visitor: Visitor) -> None:
    page = await visitor.open(await visitor.consent("/login?next=/account%3Ftab=1%26b=2"))

    assert page.location == "/account?tab=1&b=2"
    assert await visitor.key_shown() == site.fake.issued_keys[-1].key[-4:]
    assert site.fake.issued_keys[-1].key not in page.text


async def test_site_login_without_a_requested_page_returns_to_the_default(visitor: Visitor) -> None:
    assert (await visitor.open(await visitor.consent())).location == "/"


async def test_site_denied_login_is_explained_and_can_be_retried(site: Site, visitor: Visitor) -> None:
    exchanges = site.exchanges

    page = await visitor.open(site.fake.deny(await visitor.start("/login?next=/account")))

    assert page.status == 403
    assert "You cancelled the sign-in." in page.text
    assert 'href="/login?next=%2Faccount"' in page.text
    assert site.exchanges == exchanges


async def test_site_reloaded_callback_gives_the_same_key_without_an_exchange(site: Site, visitor: Visitor) -> None:
    callback, exchanges = await visitor.consent("/login?next=/account"), site.exchanges

    for _ in range(3):
        assert (await visitor.open(callback)).location == "/account"
        assert await visitor.key_shown() == site.fake.issued_keys[-1].key[-4:]

    assert site.exchanges == exchanges + 1


async def test_site_expired_login_links_to_a_new_one_with_the_same_target(site: Site, visitor: Visitor) -> None:
    asked = await visitor.start("/login?next=/account")
    await visitor.open(site.fake.consent(asked))

    page = await visitor.open(site.fake.consent(asked))

    assert page.status == 409
    assert "Already finished" in page.text
    assert 'href="/login?next=%2Faccount"' in page.text


async def test_site_double_click_gives_one_key_and_one_exchange(site: Site, visitor: Visitor) -> None:
    callback, exchanges = await visitor.consent("/login?next=/account"), site.exchanges

    pages = await asyncio.gather(*(visitor.open(callback) for _ in range(6)))

    assert {page.location for page in pages} == {"/account"}
    assert site.exchanges == exchanges + 1
    assert await visitor.key_shown() == site.fake.issued_keys[-1].key[-4:]


async def test_site_concurrent_logins_in_two_tabs_succeed(site: Site, visitor: Visitor) -> None:
    keys = site.keys

    first, second = await asyncio.gather(visitor.start("/login?next=/?tab=1"), visitor.start("/login?next=/?tab=2"))
    pages = await asyncio.gather(visitor.open(site.fake.consent(second)), visitor.open(site.fake.consent(first)))

    assert [page.location for page in pages] == ["/?tab=2", "/?tab=1"]
    assert site.keys == keys + 2


async def test_site_back_button_and_second_consent_cause_no_second_exchange(site: Site, visitor: Visitor) -> None:
    consent_page, exchanges = await visitor.start(), site.exchanges
    await visitor.open(site.fake.consent(consent_page))

    page = await visitor.open(site.fake.consent(consent_page))

    assert page.status == 409
    assert "already finished" in page.text
    assert 'href="/"' in page.text
    assert site.exchanges == exchanges + 1


async def test_site_browser_without_cookies_is_told_and_its_code_is_not_used(site: Site, visitor: Visitor) -> None:
    callback, exchanges = await visitor.consent(), site.exchanges

    async with Visitor(site, keeps_cookies=False) as other:
        page = await other.open(callback)

    assert page.status == 400
    assert "Cookies are needed" in page.text
    assert "allow cookies" in page.text
    assert site.exchanges == exchanges
    assert (await visitor.open(callback)).location == "/"


async def test_site_foreign_callback_is_refused_in_a_browser_with_its_own_login(site: Site, visitor: Visitor) -> None:
    async with Visitor(site) as attacker:
        callback = await attacker.consent()
    await visitor.start()
    exchanges = site.exchanges

    page = await visitor.open(callback)

    assert page.status == 400
    assert site.exchanges == exchanges
    assert await visitor.key_shown() is None


async def test_site_altered_cookie_is_refused(site: Site, visitor: Visitor) -> None:
    callback = await visitor.consent()
    (name,) = visitor.login_cookies
    visitor.session.cookie_jar.update_cookies({name: "x" * 43}, URL(site.url))

    assert (await visitor.open(callback)).status == 400
    visitor.session.cookie_jar.update_cookies({name: '"' + "ä" * 4000}, URL(site.url))
    assert (await visitor.open(callback)).status == 400


@pytest.mark.parametrize("address", EVIL)
async def test_site_login_that_would_return_to_another_site_is_refused(visitor: Visitor, address: str) -> None:
    page = await visitor.open(await visitor.consent("/login?next=" + quote(address, safe="")))

    assert page.location == "/"


async def test_login_with_next_given_twice_returns_to_default(visitor: Visitor) -> None:
    page = await visitor.open(await visitor.consent("/login?next=/a&next=//evil.example"))
    assert page.location == "/"


async def test_site_oversized_query_returns_to_the_default(visitor: Visitor) -> None:
    page = await visitor.open(
        await visitor.consent("/login?next=/a&" + "&".join(f"p{number}=" for number in range(60)))
    )
    assert page.location == "/"


async def test_site_cookie_is_httponly_and_samesite(visitor: Visitor) -> None:
    page = await visitor.open("/login")

    (header,) = page.cookies
    (cookie,) = SimpleCookie(header).values()
    assert cookie["httponly"] is True
    assert cookie["samesite"] == "Lax"
    assert cookie["path"] == "/"
    assert cookie["domain"] == ""
    assert 600 < int(cookie["max-age"]) <= 86400
    assert re.fullmatch(r"[\w-]{43}", cookie.value)


async def test_site_browser_that_starts_many_logins_keeps_few_cookies(visitor: Visitor) -> None:
    consent_pages = [await visitor.start() for _ in range(12)]

    assert len(visitor.login_cookies) == 8
    assert len(set(consent_pages)) == 12


async def test_site_answers_are_not_cached_and_send_no_referrer(site: Site, visitor: Visitor) -> None:
    consent_page = await visitor.open("/login")
    callback = site.fake.consent(consent_page.location)
    pages = [
        consent_page,
        await visitor.open(callback),
        await visitor.open("/login", headers={"Sec-Fetch-Site": "cross-site"}),
        await visitor.open("/callback/forged?code=c"),
        await visitor.open("/login", method="POST"),
        await visitor.call("/login"),
        await visitor.open("/callback/forged/?code=c", method="POST"),
        await visitor.open("/login", headers={"Sec-Purpose": "prefetch"}),
    ]

    for page in pages:
        assert page.headers["Cache-Control"] == "no-store"
        assert page.headers["Referrer-Policy"] == "no-referrer"
        assert page.headers["X-Content-Type-Options"] == "nosniff"
    for page in pages[2:4]:
        policy = page.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; ")
        assert {"base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"} <= set(policy.split("; "))
        assert page.headers["Content-Type"].partition(";")[0] == "text/html"


@pytest.mark.parametrize(
    "purpose", ["Sec-Purpose: prefetch;prerender", "Purpose: prefetch", "X-Moz: prefetch", "X-Purpose: preview"]
)
async def test_site_prefetch_starts_no_login(visitor: Visitor, purpose: str) -> None:
    name, _, value = purpose.partition(": ")

    page = await visitor.open("/login", headers={name: value})

    assert page.status == 503
    assert not page.cookies


async def test_site_routes_refuse_other_methods(site: Site, visitor: Visitor) -> None:
    callback, exchanges = await visitor.consent(), site.exchanges

    for address in ("/login", callback):
        for method in ("HEAD", "PUT", "DELETE"):
            page = await visitor.open(address, method=method)
            assert page.status == 405
            assert not page.cookies
    assert (await visitor.open(callback, method="POST")).status == 405

    assert site.exchanges == exchanges
    assert (await visitor.open(callback)).location == "/"


@pytest.mark.parametrize(
    "callback",
    [
        "/callback/forged?code=c",
        f"/callback/{'s' * 43}?code=c",
        f"/callback/{'s' * 43}?code=c&state={'t' * 43}",
        f"/callback/{'s' * 43}",
        f"/callback/{'s' * 43}?code=c&code=d",
        f"/callback/{'s' * 43}?code=c%00",
        f"/callback/{'s' * 43}?code=c%0d%0aSet-Cookie:a=b",
        f"/callback/{'s' * 43}?code=%ff%fe",
        f"/callback/{'s' * 43}?error=access_denied&code=c",
        f"/callback/{'s' * 43}?code=<script>alert(1)</script>",
        "/callback/%3Cscript%3E?error=%3Cscript%3Ealert(1)%3C/script%3E",
        "/callback/x?" + "&".join(f"p{number}=" for number in range(200)),
    ],
)
async def test_site_invalid_callback_gets_a_page_that_repeats_nothing_of_it(
    site: Site, visitor: Visitor, callback: str
) -> None:
    exchanges = site.exchanges

    page = await visitor.open(callback)

    assert page.status in (400, 502)
    assert "<script" not in page.text
    assert not page.cookies
    assert site.exchanges == exchanges


async def test_site_access_log_has_no_code_or_state(
    site: Site, visitor: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    def log() -> str:
        return "\n".join(repr(vars(record)) for record in caplog.records) if site.log is None else site.log.read_text()

    expected = "/callback/***?code=***&state=***"
    before = log().count(expected)
    with caplog.at_level("INFO"):
        callback = await visitor.consent()
        await visitor.open(callback, headers={"Referer": callback})
        # A server may answer first and then write.
        async with asyncio.timeout(PATIENCE):
            while (text := log()).count(expected) == before:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)

    for secret in (URL(callback).query["code"], URL(callback).query["state"]):
        assert secret not in text
    assert "Traceback" not in text


async def test_site_requests_are_spread_over_the_workers(site: Site, visitor: Visitor) -> None:
    if site.log is None:
        return
    await visitor.open(await visitor.consent())

    pages = [await visitor.open("/account") for _ in range(40)]

    assert len({re.findall(r"Worker (\d+)", page.text)[0] for page in pages}) > 1


async def test_site_status_is_known_to_every_worker(site: Site, visitor: Visitor) -> None:
    started, other = await visitor.start_json(), await visitor.start_json()
    pending = [await visitor.open(started["status_url"]) for _ in range(8)]
    poll = asyncio.ensure_future(visitor.open(started["status_url"] + "?wait=20"))
    await visitor.open(site.fake.consent(started["authorization_url"]))
    finished = [await poll, *[await visitor.open(started["status_url"]) for _ in range(8)]]
    cancelled = await visitor.call(other["status_url"], method="DELETE")
    failed = [await visitor.open(other["status_url"]) for _ in range(8)]
    late = await visitor.open(site.fake.consent(other["authorization_url"]))

    assert {page.json["status"] for page in pending} == {"pending"}
    assert {page.json["status"] for page in finished} == {"finished"}
    assert {page.text for page in failed} == {cancelled.text}
    assert late.status == 410


async def test_site_pasted_code_finishes_login_on_any_worker(site: Site, visitor: Visitor) -> None:
    started = await visitor.start_json("/login?next=/account")
    body = {"login": started["login"], "code": site.fake.consent(started["authorization_url"])}
    keys = site.keys

    refused = await visitor.call("/login/complete", body | {"code": "auth_code_wrong"})
    pages = await asyncio.gather(*(visitor.call("/login/complete", body) for _ in range(4)))

    assert refused.status == 400
    assert {page.text for page in pages} == {'{"status": "finished", "return_to": "/account"}'}
    assert site.keys == keys + 1
    assert await visitor.key_shown() == site.fake.issued_keys[-1].key[-4:]
