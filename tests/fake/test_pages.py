from __future__ import annotations

import html
from collections.abc import AsyncIterator
from urllib.parse import parse_qs, urlsplit

import pytest

from openrouter_async.errors import RequestValidationError
from openrouter_async.redaction._masks import mask_key
from openrouter_async.testing import FakeOpenRouter
from openrouter_async.testing._html import HEADERS
from tests.fake.support import PAIR, STATE, Reply, asking, exchange, send
from tests.kit.clocks import FROZEN

EVIL = "<script>alert('1')</script>\""


@pytest.fixture
async def fake() -> AsyncIterator[FakeOpenRouter]:
    async with FakeOpenRouter(clock=FROZEN) as server:
        yield server


async def get(url: str) -> Reply:
    return await send(url, method="GET")


async def decide(url: str, decision: str = "authorize", **fields: str) -> Reply:
    return await send(url, data={"decision": decision, **fields})


# Consent, by the page and without a browser.


async def test_consent_page_authorize_redirects_with_code_and_state(fake: FakeOpenRouter) -> None:
    url = asking(
        fake, "https://app.example/callback/%7Bx%7D?tenant=a%20b", state=STATE, key_label="My app", limit="2.5"
    )
    page, reply = await get(url), await decide(url)
    code = parse_qs(urlsplit(reply.headers["Location"]).query)["code"][0]

    assert page.status == 200
    assert reply.status == 303
    assert reply.headers["Location"] == (f"https://app.example/callback/%7Bx%7D?tenant=a%20b&code={code}&state={STATE}")
    assert (await exchange(fake, code, code_verifier=PAIR.code_verifier)).status == 200
    assert [(key.label, key.limit, key.user_id) for key in fake.issued_keys] == [("My app", 2.5, "user_sandbox")]
    assert fake.counters["consent"] == 1


async def test_authorize_without_a_browser_redirects_the_same(fake: FakeOpenRouter) -> None:
    callback = fake.consent(asking(fake, "http://localhost:3000/", state=STATE, limit="10"), user_id="user_1")
    code = parse_qs(urlsplit(callback).query)["code"][0]

    assert callback == f"http://localhost:3000/?code={code}&state={STATE}"
    reply = await exchange(fake, code, code_verifier=PAIR.code_verifier, code_challenge_method="S256")
    assert reply.json["user_id"] == "user_1"
    assert fake.issued_keys[-1].limit == 10


async def test_consent_page_deny_redirects_with_error_and_without_state(fake: FakeOpenRouter) -> None:
    url = asking(fake, state=STATE)
    reply = await decide(url, "deny")

    assert (reply.status, reply.headers["Location"]) == (303, "https://app.example/callback?error=access_denied")
    assert fake.deny(url) == reply.headers["Location"]
    assert fake.counters["denial"] == 2
    assert not fake.counters["consent"]


def test_consent_page_bad_callback_url_is_refused() -> None:
    with pytest.raises(RequestValidationError, match="url: it is not a URL"):
        FakeOpenRouter().consent("http://[/auth")


async def test_consent_page_callback_in_another_script_is_sent_as_ascii(fake: FakeOpenRouter) -> None:
    assert fake.deny(asking(fake, "https://app.example/gr\u00fc\u00df")) == (
        "https://app.example/gr%C3%BC%C3%9F?error=access_denied"
    )


async def test_consent_page_without_callback_shows_the_code(fake: FakeOpenRouter) -> None:
    url = asking(fake, None, key_label="My bot")
    page, shown, denied = await get(url), await decide(url), await decide(url, "deny")
    code = shown.text.partition('value="')[2].partition('"')[0]

    assert "the code is shown to you" in page.text
    assert (shown.status, denied.status) == (200, 200)
    assert (await exchange(fake, code, code_verifier=PAIR.code_verifier)).status == 200
    assert fake.consent(url).startswith("auth_code_")
    with pytest.raises(RequestValidationError, match="nobody is told"):
        fake.deny(url)
    assert fake.counters["denial"] == 1


async def test_consent_page_accepts_a_user_and_a_fault(fake: FakeOpenRouter) -> None:
    url = asking(fake)
    reply = await decide(url, user_id="user_2", fault="status-503")
    code = parse_qs(urlsplit(reply.headers["Location"]).query)["code"][0]

    statuses = [(await exchange(fake, code, code_verifier=PAIR.code_verifier)).status for _ in range(2)]
    assert statuses == [503, 200]
    assert fake.issued_keys[-1].user_id == "user_2"
    assert (await decide(url, fault="nonsense")).status == 400
    assert (await decide(url, "perhaps")).status == 400
    assert (await send(url, data=b"")).status == 400


# Parameters that the page refuses.

CHALLENGE = PAIR.code_challenge


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("callback_url=http://app.example/", "callback_url must be an https URL"),
        ("callback_url=https://app.example/%23x", "callback_url must not have a fragment"),
        ("callback_url=", "callback_url must be an https URL"),
        ("callback_url=https://[", "callback_url must be an https URL"),
        ("callback_url=https://app.example/%0d%0aSet-Cookie:x", "callback_url must be an https URL"),
        ("callback_url=https://app.example/&code_challenge_method=s256", "code_challenge_method must be S256 or plain"),
        (f"callback_url=https://app.example/&key_label={'x' * 101}", "key_label must have at most 100 characters"),
        ("callback_url=https://app.example/&limit=much", "limit must be a number of US dollars"),
        ("callback_url=https://app.example/&limit=-1", "limit must be a number of US dollars"),
        ("callback_url=https://app.example/&limit=nan", "limit must be a number of US dollars"),
    ],
)
async def test_consent_page_bad_request_is_explained_and_not_redirected(
    fake: FakeOpenRouter, query: str, reason: str
) -> None:
    for reply in (await get(f"{fake.auth_url}?{query}"), await decide(f"{fake.auth_url}?{query}")):
        assert reply.status == 400
        assert reason in html.unescape(reply.text)
    with pytest.raises(RequestValidationError, match=reason):
        fake.consent(f"{fake.auth_url}?{query}")
    with pytest.raises(RequestValidationError, match=reason):
        fake.deny(f"{fake.auth_url}?{query}")
    assert reason in html.unescape((await get(fake.url)).text)
    assert fake.counters["refusal"] == 2


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("", "a code_challenge is required"),
        (f"code_challenge={CHALLENGE}", "code_challenge_method must be S256"),
        (f"code_challenge={CHALLENGE}&code_challenge_method=plain", "code_challenge_method must be S256"),
    ],
)
async def test_consent_page_bad_headless_request_shows_the_home_page(
    fake: FakeOpenRouter, query: str, reason: str
) -> None:
    reply = await get(f"{fake.auth_url}?{query}")

    assert (reply.status, reply.headers["Location"]) == (303, "./")
    with pytest.raises(RequestValidationError, match=reason):
        fake.consent(f"{fake.auth_url}?{query}")
    assert reason in (await get(fake.url)).text


# The contents of pages.


async def test_home_page_lists_recent_keys_masked(fake: FakeOpenRouter) -> None:
    codes = fake.issue_code(key_label="My app"), fake.issue_code(user_id=None)
    keys = [(await exchange(fake, code)).json["key"] for code in codes]

    home = await get(fake.url)

    for shown in ("My app", "user_sandbox", "Not named", *(mask_key(key) for key in keys)):
        assert shown in home.text
    assert not [key for key in keys if key in home.text]


async def test_fake_pages_are_escaped_marked_and_locked_down(fake: FakeOpenRouter) -> None:
    url = asking(fake, f"https://app.example/{EVIL.replace(' ', '')}", key_label=EVIL)
    reply = await decide(url, user_id=EVIL)
    code = parse_qs(urlsplit(reply.headers["Location"]).query)["code"][0]
    await exchange(fake, code, code_verifier=PAIR.code_verifier)
    pages = [
        *(await get(url), await decide(asking(fake, None, key_label=EVIL)), await decide(url, fault=EVIL)),
        *(await get(fake.url), await get(f"{fake.url}/{EVIL}"), await send(fake.url)),
        await get(f"{fake.auth_url}?callback_url={EVIL}"),
    ]

    assert [page.status for page in pages] == [200, 200, 400, 200, 404, 405, 400]
    for page in pages:
        assert "<script>alert" not in page.text
        assert "Sandbox." in page.text
        assert {name: page.headers[name] for name in HEADERS} == HEADERS
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = HEADERS["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy


async def test_home_page_with_a_lone_surrogate_in_a_label_is_shown(fake: FakeOpenRouter) -> None:
    await exchange(fake, fake.issue_code(key_label="\ud800"))

    assert (await get(fake.url)).status == 200
