"""Attacks on the routes for scripts: the same in every framework."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from yarl import URL

from openrouter_async.integrations.web import _status
from openrouter_async.pkce import PKCEPair
from openrouter_async.testing import FakeOpenRouter
from tests.integrations.support import KINDS, Page, Visitor, running

each_kind = pytest.mark.parametrize("kind", KINDS)

OTHER_ORIGINS: list[dict[str, str]] = [
    {"Sec-Fetch-Site": "cross-site", "Origin": "SITE"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": "https://evil.example"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "null"},
    {"Origin": "SITE.evil.example"},
    {"Origin": "http://[::1"},
    {},
]


def issue(fake: FakeOpenRouter) -> dict[str, str]:
    """Return the fields that a page sends if it does PKCE itself."""
    pair = PKCEPair.generate()
    code = fake.issue_code(code_challenge=pair.code_challenge, code_challenge_method="S256")
    return {"code": code, "code_verifier": pair.code_verifier}


async def ask_all(visitor: Visitor, started: dict[str, Any], headers: dict[str, str], body: Any) -> list[Page]:
    """Ask each route that changes something."""
    routes = [
        ("POST", "/login"),
        ("DELETE", started["status_url"]),
        ("POST", "/login/complete"),
        ("POST", "/exchange"),
        ("POST", "/logout"),
    ]
    return [
        await visitor.open(path, method=method, headers=headers, data=json.dumps(body).encode())
        for method, path in routes
    ]


@each_kind
@pytest.mark.parametrize("origin", OTHER_ORIGINS, ids=str)
async def test_request_of_other_origin_changes_nothing(kind: str, fake: FakeOpenRouter, origin: dict[str, str]) -> None:
    grants: list[Any] = []
    options: dict[str, Any] = {
        "exchange_path": "/exchange",
        "logout_path": "/logout",
        "on_login": lambda request, grant: grants.append(grant),
    }
    async with running(kind, fake, **options) as (site, _), Visitor(site) as victim:
        started = await victim.start_json()
        code = URL(fake.consent(started["authorization_url"])).query["code"]
        headers = {name: value.replace("SITE", site.url) for name, value in origin.items()}
        body = issue(fake) | {"login": started["login"], "code": code}
        pages = await ask_all(victim, started, headers | {"Content-Type": "application/json"}, body)
        status = (await victim.open(started["status_url"])).json

    assert [page.status for page in pages] == [403] * 5
    assert all(page.cookies == () for page in pages)
    assert status["status"] == "pending"
    assert fake.counters["exchange"] == 0
    assert grants == []


@each_kind
async def test_request_to_loopback_app_by_foreign_name_is_refused(kind: str, fake: FakeOpenRouter) -> None:
    options: dict[str, Any] = {"exchange_path": "/exchange", "logout_path": "/logout"}
    async with running(kind, fake, **options) as (site, _), Visitor(site) as victim:
        started = await victim.start_json()
        # A name that leads to this computer for a moment: the browser takes its page and this app for one origin.
        port = URL(site.url).port
        rebound = {
            "Host": f"evil.example:{port}",
            "Origin": f"http://evil.example:{port}",
            "Sec-Fetch-Site": "same-origin",
            "Content-Type": "application/json",
        }
        pages = await ask_all(victim, started, rebound, issue(fake))

    assert [page.status for page in pages] == [403] * 5
    assert fake.counters["exchange"] == 0


@each_kind
async def test_form_of_another_site_is_not_read_as_json(kind: str, fake: FakeOpenRouter) -> None:
    async with running(kind, fake, exchange_path="/exchange") as (site, _), Visitor(site) as visitor:
        body = json.dumps(issue(fake)).encode()
        for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
            headers = {"Origin": site.url, "Content-Type": content_type}
            for path in ("/exchange", "/login/complete"):
                assert (await visitor.open(path, method="POST", headers=headers, data=body)).status == 415

    assert fake.counters["exchange"] == 0


@each_kind
async def test_status_of_another_browser_is_not_found(kind: str, fake: FakeOpenRouter) -> None:
    async with running(kind, fake) as (site, _), Visitor(site) as victim, Visitor(site) as attacker:
        started = await victim.start_json()
        own = await attacker.start_json()
        of_victim = await attacker.open(started["status_url"])
        of_nobody = await attacker.open("/login/status/" + "0" * 64)
        odd = await attacker.open("/login/status/" + started["login"][:16])
        cancelled = await attacker.call(started["status_url"], method="DELETE")
        events = await attacker.open(started["status_url"], headers={"Accept": "text/event-stream"})
        foreign = await victim.open(started["status_url"], headers={"Sec-Fetch-Site": "same-site"})
        status = (await victim.open(started["status_url"])).json

    assert own["login"] != started["login"]
    for page in (of_victim, of_nobody, odd, cancelled, events):
        assert page.status == 404
        assert page.text == of_nobody.text
    assert foreign.status == 403
    assert status["status"] == "pending"


@each_kind
async def test_login_whose_state_leaked_is_closed_to_other_browsers(kind: str, fake: FakeOpenRouter) -> None:
    async with running(kind, fake) as (site, _), Visitor(site) as victim, Visitor(site) as attacker:
        started = await victim.start_json()
        url = URL(started["authorization_url"])
        cookie = f"openrouter-browser-{started['login'][:16]}={'x' * 43}.redirect.{url.query['state']}"
        code = URL(fake.consent(str(url))).query["code"]
        seen = await attacker.open(started["status_url"], headers={"Cookie": cookie})
        ended = await attacker.call(started["status_url"], method="DELETE", Cookie=cookie)
        body = {"login": started["login"], "code": code}
        finished = await attacker.call("/login/complete", body, Cookie=cookie)
        status = (await victim.open(started["status_url"])).json

    assert (seen.status, ended.status, finished.status) == (404, 404, 400)
    assert status["status"] == "pending"
    assert fake.counters["exchange"] == 0


@each_kind
async def test_code_pasted_into_login_of_another_browser_is_refused(kind: str, fake: FakeOpenRouter) -> None:
    async with running(kind, fake) as (site, _), Visitor(site) as victim, Visitor(site) as attacker:
        started = await victim.start_json()
        other = await attacker.start_json()
        callback = fake.consent(other["authorization_url"])
        body = {"login": started["login"], "code": callback}
        by_attacker = await attacker.call("/login/complete", body)
        by_victim = await victim.call("/login/complete", body)

    # The pasted URL names its own login, so that a victim cannot be talked into finishing the attacker's.
    assert (by_attacker.status, by_victim.status) == (400, 400)
    assert fake.counters["exchange"] == 0


@each_kind
async def test_callback_of_another_browser_does_not_end_login(kind: str, fake: FakeOpenRouter) -> None:
    async with running(kind, fake) as (site, _), Visitor(site) as victim, Visitor(site) as attacker:
        started = await victim.start_json()
        denied = fake.deny(started["authorization_url"])
        assert (await attacker.open(denied)).status == 400
        status = (await victim.open(started["status_url"])).json

    assert status["status"] == "pending"


@each_kind
async def test_exchanges_of_one_address_are_bounded(kind: str, fake: FakeOpenRouter) -> None:
    options: dict[str, Any] = {"exchange_path": "/exchange", "max_exchanges": 1}
    async with running(kind, fake, **options) as (site, _), Visitor(site) as visitor:
        # The address of the tests may be that of a proxy, so the bound is ten. Bad bodies count as well.
        pages = [await visitor.call("/exchange", issue(fake) if number % 2 else {}) for number in range(12)]

    assert [page.status for page in pages] == [400, 200] * 5 + [429] * 2
    assert 0 < int(pages[-1].headers["Retry-After"]) <= 600
    assert pages[-1].json["retry_after"] == int(pages[-1].headers["Retry-After"])
    assert fake.counters["exchange"] == 5


@each_kind
async def test_rejected_pasted_codes_of_one_address_are_bounded(kind: str, fake: FakeOpenRouter) -> None:
    async with running(kind, fake, max_rejections=1) as (site, _), Visitor(site) as visitor:
        started = await visitor.start_json()
        pages = [
            await visitor.call("/login/complete", {"login": started["login"], "code": f"auth_code_{number}"})
            for number in range(12)
        ]

    assert [page.status for page in pages] == [400] * 10 + [429] * 2
    assert fake.counters["exchange"] == 10


@each_kind
async def test_waiting_requests_are_bounded(kind: str, fake: FakeOpenRouter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_status, "MAX_WAITING", 2)
    async with running(kind, fake) as (site, _), Visitor(site) as visitor:
        started = await visitor.start_json()
        callback = fake.consent(started["authorization_url"])
        polls = [asyncio.ensure_future(visitor.open(started["status_url"] + "?wait=25")) for _ in range(8)]
        await asyncio.wait(polls, return_when=asyncio.FIRST_COMPLETED)
        # Six of them are answered at once, as nothing has happened yet.
        while sum(poll.done() for poll in polls) < 6:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)
        await visitor.open(callback)
        statuses = [(await poll).json["status"] for poll in polls]

    assert sorted(statuses) == ["finished"] * 2 + ["pending"] * 6


async def test_flood_of_started_logins_keeps_few_cookies_and_bounded_statuses(fake: FakeOpenRouter) -> None:
    async with running("starlette", fake) as (site, _), Visitor(site) as visitor:
        for _ in range(20):
            await visitor.start_json()
        cookies = visitor.login_cookies
        started = await visitor.start_json()
        status = (await visitor.open(started["status_url"])).json

    assert len(cookies) == 8
    assert status["status"] == "pending"
