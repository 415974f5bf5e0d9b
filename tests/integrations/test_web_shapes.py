"""The shapes in which apps sign in beside the redirect: JSON, popups, tabs, pages with PKCE, pasted codes."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from openrouter_async import Clock, Handler, OpenRouter, Request, Response
from openrouter_async._values.clock import SYSTEM_CLOCK
from openrouter_async.encryption import generate_encryption_key
from openrouter_async.errors import RequestValidationError
from openrouter_async.integrations.web import ResultPage
from openrouter_async.integrations.web._answers import prefers_json
from openrouter_async.login import CookieStore, Grant, LoginStoreError, MemoryStore, RedisStore
from openrouter_async.login._records import login_id
from openrouter_async.pkce import PKCEPair
from openrouter_async.sinks import KeySinkError, StoredKey
from openrouter_async.testing import FakeOpenRouter, Fault
from openrouter_async.testing._clock import MovableClock
from tests.integrations.support import KINDS, Visitor, integration, make_app, respond, running

each_kind = pytest.mark.parametrize("kind", KINDS)

PROBLEM_MEMBERS = {"type", "title", "status", "detail", "outcome", "restart_login", "retry_after"}


def is_problem(value: dict[str, Any], kind: str) -> bool:
    return set(value) == PROBLEM_MEMBERS and value["type"] == f"urn:openrouter-async:{kind}"


def add_cookie(kind: str, response: Any, cookie: str) -> None:
    """Add a cookie to a response of a framework, as an app does."""
    headers = response.headers
    (headers.append if kind in {"starlette", "fastapi"} else headers.add)("Set-Cookie", cookie)


async def consent(visitor: Visitor, fake: FakeOpenRouter, path: str = "/login") -> tuple[dict[str, Any], str]:
    """Start a login as a script does, and consent. Return the answer to the script, and the callback."""
    started = await visitor.start_json(path)
    return started, fake.consent(started["authorization_url"])


# Start by JSON.


@each_kind
async def test_start_json_tells_addresses_and_binds_browser(kind: str, fake: FakeOpenRouter) -> None:
    async with running(kind, fake) as (site, _), Visitor(site) as visitor:
        page = await visitor.call("/login?next=/a")

    assert page.status == 200
    assert page.headers["Content-Type"].partition(";")[0] == "application/json"
    assert page.headers["Cache-Control"] == "no-store"
    started = page.json
    assert set(started) == {"authorization_url", "expires_at", "login", "status_url"}
    assert started["authorization_url"].startswith(fake.auth_url)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", started["expires_at"])
    assert started["status_url"] == f"/login/status/{started['login']}"
    state = URL(started["authorization_url"]).query["state"]
    assert started["login"] == login_id(state)
    (cookie,) = page.cookies
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie


@each_kind
@pytest.mark.parametrize("headers", [{"Origin": "SITE"}, {"Sec-Fetch-Site": "same-origin"}])
async def test_start_json_of_own_origin_is_accepted(kind: str, fake: FakeOpenRouter, headers: dict[str, str]) -> None:
    async with running(kind, fake) as (site, _), Visitor(site) as visitor:
        given = {name: value.replace("SITE", site.url) for name, value in headers.items()}
        page = await visitor.open("/login", method="POST", headers=given)

    assert page.status == 200


@each_kind
async def test_start_json_login_ends_in_redirect_by_default(kind: str, fake: FakeOpenRouter) -> None:
    async with running(kind, fake) as (site, _), Visitor(site) as visitor:
        started, callback = await consent(visitor, fake, "/login?next=/a")
        page = await visitor.open(callback)
        status = await visitor.open(started["status_url"])

    assert page.location == "/a"
    assert status.json == {"status": "finished", "login": started["login"], "return_to": "/a"}
    assert len(fake.issued_keys) == 1


@each_kind
async def test_handler_of_app_starts_login_by_json(kind: str, fake: FakeOpenRouter) -> None:
    async def connect(request: Any) -> Any:
        return await integration(kind).start_json(request, display="page", key_label="Bot", return_to="/bots")

    async with running(kind, fake, routes={"/connect": connect}) as (site, _), Visitor(site) as visitor:
        started = (await visitor.call("/connect", method="GET")).json
        page = await visitor.open(fake.consent(started["authorization_url"]))

    assert "You can close this tab." in page.text
    assert fake.issued_keys[0].label == "Bot"


# Popups and tabs.


@each_kind
async def test_popup_ends_in_page_that_tells_its_opener_and_nothing_else(kind: str, fake: FakeOpenRouter) -> None:
    async with running(kind, fake) as (site, _), Visitor(site) as visitor:
        callback = await visitor.consent("/login?display=popup&next=/a")
        page = await visitor.open(callback)

    assert page.status == 200
    (nonce,) = re.findall(r'<script nonce="([\w-]+)">', page.text)
    policy = page.headers["Content-Security-Policy"].split("; ")
    assert {"default-src 'none'", f"script-src 'nonce-{nonce}'", "frame-ancestors 'none'"} <= set(policy)
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert "opener.postMessage(message, location.origin)" in page.text
    assert "close();" in page.text
    query = URL(callback).query
    for secret in (query["code"], query["state"], fake.issued_keys[0].key):
        assert secret not in page.text


@each_kind
async def test_popup_that_fails_stays_open_and_says_why(kind: str, fake: FakeOpenRouter) -> None:
    async with running(kind, fake) as (site, _), Visitor(site) as visitor:
        page = await visitor.open(fake.deny(await visitor.start("/login?display=popup")))

    assert page.status == 403
    assert "You cancelled the sign-in." in page.text
    assert '"status": "failed"' in page.text
    assert "close();" not in page.text


@each_kind
async def test_page_display_says_that_tab_can_be_closed(kind: str, fake: FakeOpenRouter) -> None:
    async with running(kind, fake) as (site, _), Visitor(site) as visitor:
        page = await visitor.open(await visitor.consent("/login?display=page"))

    assert page.status == 200
    assert "You can close this tab." in page.text
    assert "postMessage" not in page.text


@each_kind
async def test_display_pages_use_template_of_app(kind: str, fake: FakeOpenRouter) -> None:
    seen: list[ResultPage] = []

    def template(page: ResultPage) -> str:
        seen.append(page)
        return f"<h1>My app: {page.title}</h1>{page.script}"

    async with running(kind, fake, render_page=template) as (site, _), Visitor(site) as visitor:
        page = await visitor.open(await visitor.consent("/login?display=popup&next=/a"))
        failed = await visitor.open(fake.deny(await visitor.start("/login?display=page")))
        redirected = await visitor.open(await visitor.consent())

    assert page.text.startswith("<h1>My app: Signed in</h1><script nonce=")
    assert "default-src" not in page.headers["Content-Security-Policy"]
    assert f"script-src 'nonce-{seen[0].nonce}'" in page.headers["Content-Security-Policy"]
    assert (failed.status, seen[1].status, seen[1].display) == (403, "failed", "page")
    assert redirected.location == "/"
    assert len(seen) == 2


@each_kind
async def test_display_keeps_cookies_that_on_login_adds(kind: str, fake: FakeOpenRouter) -> None:
    def on_login(request: Any, grant: Grant) -> Any:
        response = integration(kind).redirect(request, grant)
        add_cookie(kind, response, "session=s")
        return response

    async with running(kind, fake, on_login=on_login) as (site, _), Visitor(site) as visitor:
        popup = await visitor.open(await visitor.consent("/login?display=popup"))
        started, callback = await consent(visitor, fake)
        done = await visitor.call("/login/complete", {"login": started["login"], "code": callback})

    for page in (popup, done):
        assert any(cookie.startswith("session=s") for cookie in page.cookies)
    assert "close();" in popup.text
    assert done.json == {"status": "finished", "return_to": "/"}


@each_kind
@pytest.mark.parametrize("query", ["display=frame", "display=popup&display=page", "display="])
async def test_start_with_unknown_display_starts_nothing(kind: str, fake: FakeOpenRouter, query: str) -> None:
    async with running(kind, fake) as (site, _), Visitor(site) as visitor:
        page = await visitor.open(f"/login?{query}")

    assert (page.status, page.cookies) == (400, ()) if query != "display=" else (303, page.cookies)


def test_result_page_script_escapes_its_values() -> None:
    page = ResultPage(
        status="finished",
        display="popup",
        title="<b>",
        message="<i>",
        login="</script><script>alert(1)",
        home_url="/'</script>&",
    )

    assert page.html.count("<script") == page.html.count("</script") == 1
    assert "<b>" not in page.html


# Status.


@each_kind
async def test_status_is_pending_then_finished(kind: str, fake: FakeOpenRouter) -> None:
    async with running(kind, fake) as (site, _), Visitor(site) as visitor:
        started, callback = await consent(visitor, fake)
        before = await visitor.open(started["status_url"])
        await visitor.open(callback)
        after = await visitor.open(started["status_url"])

    assert before.json == {
        "status": "pending",
        "login": started["login"],
        "expires_at": started["expires_at"],
    }
    assert after.json == {"status": "finished", "login": started["login"], "return_to": None}
    assert after.headers["Cache-Control"] == "no-store"


@each_kind
async def test_status_of_denied_login_is_failed_with_problem(kind: str, fake: FakeOpenRouter) -> None:
    async with running(kind, fake) as (site, _), Visitor(site) as visitor:
        started = await visitor.start_json()
        await visitor.open(fake.deny(started["authorization_url"]))
        status = (await visitor.open(started["status_url"])).json

    assert status["status"] == "failed"
    assert is_problem(status["error"], "authorization-denied")
    assert status["error"] == {
        "type": "urn:openrouter-async:authorization-denied",
        "title": "Not signed in",
        "status": 403,
        "detail": "You cancelled the sign-in.",
        "outcome": "refused",
        "restart_login": True,
        "retry_after": None,
    }


@each_kind
async def test_status_of_expired_login_is_failed(kind: str, fake: FakeOpenRouter) -> None:
    movable = MovableClock(SYSTEM_CLOCK)
    clock = Clock(monotonic=movable.monotonic, time=movable.time, sleep=movable.sleep)
    async with running(kind, fake, clock=clock) as (site, _), Visitor(site) as visitor:
        started = await visitor.start_json()
        movable.advance(601)
        status = (await visitor.open(started["status_url"])).json
        movable.advance(601)
        forgotten = await visitor.open(started["status_url"])

    assert is_problem(status["error"], "login-expired")
    assert forgotten.status == 404


@each_kind
async def test_status_when_app_fails_is_failed(kind: str, fake: FakeOpenRouter) -> None:
    def on_login(request: Any, grant: Grant) -> None:
        raise ValueError("of the app")

    async with running(kind, fake, on_login=on_login) as (site, _), Visitor(site) as visitor:
        started, callback = await consent(visitor, fake)
        assert (await visitor.open(callback)).status == 500
        status = (await visitor.open(started["status_url"])).json

    assert is_problem(status["error"], "app-failed")
    assert status["error"]["restart_login"] is True


async def test_status_when_hook_of_aiohttp_raises_redirect_is_finished(fake: FakeOpenRouter) -> None:
    def on_login(request: Any, grant: Grant) -> None:
        raise web.HTTPSeeOther("/welcome")

    async with running("aiohttp", fake, on_login=on_login) as (site, _), Visitor(site) as visitor:
        started, callback = await consent(visitor, fake)
        assert (await visitor.open(callback)).location == "/welcome"
        status = (await visitor.open(started["status_url"])).json

    assert status["status"] == "finished"


@each_kind
async def test_status_of_busy_openrouter_stays_pending(kind: str, fake: FakeOpenRouter) -> None:
    async with running(kind, fake) as (site, _), Visitor(site) as visitor:
        started, callback = await consent(visitor, fake)
        fake.queue_faults(Fault.status(429, headers={"Retry-After-Ms": "100"}))
        busy = await visitor.open(callback, headers={"Accept": "application/json"})
        pending = (await visitor.open(started["status_url"])).json
        fake.rate_limit(None)
        await visitor.open(callback)
        finished = (await visitor.open(started["status_url"])).json

    assert busy.status == 503
    assert busy.json["retry_after"] == 1
    assert busy.json["restart_login"] is False
    assert (pending["status"], finished["status"]) == ("pending", "finished")


@each_kind
async def test_long_poll_ends_when_login_does(kind: str, fake: FakeOpenRouter) -> None:
    async with running(kind, fake) as (site, _), Visitor(site) as visitor:
        started, callback = await consent(visitor, fake)
        poll = asyncio.ensure_future(visitor.open(started["status_url"] + "?wait=20"))
        await visitor.open(callback)
        assert (await poll).json["status"] == "finished"


@each_kind
async def test_long_poll_is_bounded(kind: str, fake: FakeOpenRouter) -> None:
    movable = MovableClock(SYSTEM_CLOCK)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        movable.advance(seconds)

    clock = Clock(monotonic=movable.monotonic, time=movable.time, sleep=sleep)
    async with running(kind, fake, clock=clock) as (site, _), Visitor(site) as visitor:
        started = await visitor.start_json()
        status = await visitor.open(started["status_url"] + "?wait=1e6")
        odd = [await visitor.open(started["status_url"] + f"?wait={wait}") for wait in ("nan", "-1", "x", "inf")]

    assert status.json["status"] == "pending"
    # The clock runs on by itself, too.
    assert 20 < sum(slept) <= 25
    assert [page.status for page in odd] == [400] * 4


@each_kind
async def test_events_tell_pending_and_then_end(kind: str, fake: FakeOpenRouter) -> None:
    async with running(kind, fake) as (site, _), Visitor(site) as visitor:
        started, callback = await consent(visitor, fake)
        url = URL(site.url + started["status_url"])
        async with visitor.session.get(url, headers={"Accept": "text/event-stream"}) as stream:
            assert stream.headers["Content-Type"].partition(";")[0] == "text/event-stream"
            assert stream.headers["Cache-Control"] == "no-store"
            first = (await stream.content.readuntil(b"\n\n")).decode()
            await visitor.open(callback)
            rest = (await stream.content.read()).decode()

    events = [json.loads(found) for found in re.findall(r"^data: (.*)$", first + rest, re.MULTILINE)]
    assert [event["status"] for event in events] == ["pending", "finished"]
    assert first.startswith("event: status\n")


@each_kind
async def test_events_end_when_the_browser_disconnects(kind: str, fake: FakeOpenRouter) -> None:
    async with running(kind, fake) as (site, _), Visitor(site) as visitor:
        started = await visitor.start_json()
        async with visitor.session.get(
            URL(site.url + started["status_url"]), headers={"Accept": "text/event-stream"}
        ) as stream:
            await stream.content.readuntil(b"\n\n")
        # The app ends without waiting for the end of the login.
        assert (await visitor.open(started["status_url"])).status == 200


# Cancel.


@each_kind
async def test_cancelled_login_is_over(kind: str, fake: FakeOpenRouter) -> None:
    async with running(kind, fake) as (site, _), Visitor(site) as visitor:
        started, callback = await consent(visitor, fake)
        cancelled = await visitor.call(started["status_url"], method="DELETE")
        again = await visitor.call(started["status_url"], method="DELETE")
        page = await visitor.open(callback)
        status = (await visitor.open(started["status_url"])).json

    assert cancelled.status == again.status == 200
    assert cancelled.json == again.json == status
    assert is_problem(status["error"], "login-cancelled")
    assert page.status == 410
    assert "cancelled" in page.text
    assert fake.counters["exchange"] == 0


@each_kind
async def test_cancel_of_finished_login_is_refused(kind: str, fake: FakeOpenRouter) -> None:
    async with running(kind, fake) as (site, _), Visitor(site) as visitor:
        started, callback = await consent(visitor, fake)
        await visitor.open(callback)
        cancelled = await visitor.call(started["status_url"], method="DELETE")
        status = (await visitor.open(started["status_url"])).json

    assert cancelled.status == 409
    assert is_problem(cancelled.json, "login-already-used")
    assert status["status"] == "finished"


@each_kind
async def test_cancel_during_exchange_is_refused_and_key_arrives(kind: str, fake: FakeOpenRouter) -> None:
    keys: list[str] = []
    sending, go_on = asyncio.Event(), asyncio.Event()

    async def hold(request: Request, call_next: Handler) -> Response:
        sending.set()
        await go_on.wait()
        return await call_next(request)

    options: dict[str, Any] = {
        "client": lambda: OpenRouter(None, base_url=fake.base_url, middlewares=[hold]),
        "on_login": lambda request, grant: keys.append(grant.key),
    }
    async with running(kind, fake, **options) as (site, _), Visitor(site) as visitor:
        started, callback = await consent(visitor, fake)
        finishing = asyncio.ensure_future(visitor.open(callback))
        await sending.wait()
        cancelled = await visitor.call(started["status_url"], method="DELETE")
        go_on.set()
        await finishing
        status = (await visitor.open(started["status_url"])).json

    assert cancelled.status == 409
    assert is_problem(cancelled.json, "login-in-progress")
    assert status["status"] == "finished"
    assert keys == [fake.issued_keys[0].key]


@each_kind
async def test_cancel_with_cookie_store_ends_login(kind: str, fake: FakeOpenRouter) -> None:
    store = CookieStore(generate_encryption_key(), secure=False)
    async with running(kind, fake, store=store) as (site, _), Visitor(site) as visitor:
        started, callback = await consent(visitor, fake)
        assert (await visitor.call(started["status_url"], method="DELETE")).status == 200
        assert (await visitor.open(callback)).status == 410

    assert fake.counters["exchange"] == 0


# Exchange.


def issue(fake: FakeOpenRouter, **changes: str) -> dict[str, str]:
    """Return the fields that a page sends if it does PKCE itself."""
    pair = PKCEPair.generate()
    code = fake.issue_code(code_challenge=pair.code_challenge, code_challenge_method="S256")
    return {"code": code, "code_verifier": pair.code_verifier, "code_challenge_method": "S256"} | changes


@each_kind
async def test_exchange_route_is_off_by_default(kind: str, fake: FakeOpenRouter) -> None:
    async with running(kind, fake) as (site, _), Visitor(site) as visitor:
        page = await visitor.call("/exchange", issue(fake))

    assert page.status == 404
    assert fake.counters["exchange"] == 0


@each_kind
async def test_exchange_gives_key_to_app_and_not_to_page(kind: str, fake: FakeOpenRouter) -> None:
    grants: list[Grant] = []

    def on_login(request: Any, grant: Grant) -> None:
        grants.append(grant)

    async with running(kind, fake, exchange_path="/exchange", on_login=on_login) as (site, _), Visitor(site) as visitor:
        page = await visitor.call("/exchange?next=/a", issue(fake))

    assert page.status == 200
    assert page.json == {"status": "finished", "return_to": "/a"}
    assert [grant.key for grant in grants] == [fake.issued_keys[0].key]
    assert fake.issued_keys[0].key not in page.text + repr(page.headers)
    assert page.cookies == ()


@each_kind
@pytest.mark.parametrize("store", ["memory", "cookie"])
async def test_exchange_of_same_code_twice_calls_hook_once(kind: str, fake: FakeOpenRouter, store: str) -> None:
    grants: list[Grant] = []
    body = issue(fake)
    options: dict[str, Any] = {
        "exchange_path": "/exchange",
        "on_login": lambda request, grant: grants.append(grant),
        "store": MemoryStore() if store == "memory" else CookieStore(generate_encryption_key(), secure=False),
    }
    async with running(kind, fake, **options) as (site, _), Visitor(site) as visitor:
        pages = await asyncio.gather(*(visitor.call("/exchange", body) for _ in range(4)))
        late = await visitor.call("/exchange", body)

    assert sorted(page.status for page in pages) == [200, 409, 409, 409]
    assert late.status == 409
    assert is_problem(late.json, "login-already-used")
    assert len(grants) == 1
    assert fake.counters["exchange"] == 1


async def test_exchange_is_once_across_workers_that_share_valkey(fake: FakeOpenRouter, valkey_url: str) -> None:
    grants: list[Grant] = []
    secret = generate_encryption_key()
    options: dict[str, Any] = {
        "exchange_path": "/exchange",
        "on_login": lambda request, grant: grants.append(grant),
        "store": lambda: RedisStore.from_url(valkey_url, encryption_keys=secret),
    }
    body = issue(fake)
    async with (
        running("aiohttp", fake, **options) as (one, _),
        running("starlette", fake, **options) as (two, _),
        Visitor(one) as first,
        Visitor(two) as second,
    ):
        pages = await asyncio.gather(*(visitor.call("/exchange", body) for visitor in (first, second) * 3))

    assert sorted(page.status for page in pages) == [200] + [409] * 5
    assert len(grants) == 1


@each_kind
@pytest.mark.parametrize("coding", ["gzip", "deflate", "gzip, identity"])
@pytest.mark.parametrize("is_valid", [True, False])
async def test_exchange_of_compressed_body_is_refused(
    kind: str, fake: FakeOpenRouter, coding: str, is_valid: bool
) -> None:
    body = gzip.compress(b" " * 10_000_000) if is_valid else b"not compressed"
    async with running(kind, fake, exchange_path="/exchange") as (site, _), Visitor(site) as visitor:
        headers = {"Origin": site.url, "Content-Type": "application/json", "Content-Encoding": coding}
        page = await visitor.open("/exchange", method="POST", headers=headers, data=body)
    assert (page.status, page.json["type"].endswith("compressed")) == (415, True)


@each_kind
async def test_exchange_with_wrong_verifier_first_leaves_code_to_its_page(kind: str, fake: FakeOpenRouter) -> None:
    body = issue(fake)
    other = body | {"code_verifier": PKCEPair.generate().code_verifier}
    async with running(kind, fake, exchange_path="/exchange") as (site, _), Visitor(site) as visitor:
        refused = await visitor.call("/exchange", other)
        page = await visitor.call("/exchange", body)

    assert refused.status == 400
    assert page.status == 200


@each_kind
@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"code": None}, 400),
        ({"code": 7}, 400),
        ({"code": ""}, 400),
        ({"code": "sk-or-v1-abc"}, 400),
        ({"code": "c" * 2000}, 400),
        ({"code_verifier": None}, 400),
        ({"code_verifier": "short"}, 400),
        ({"code_verifier": "x" * 20_000}, 413),
        ({"code_challenge_method": "s256"}, 400),
        ({"code_challenge_method": ["S256"]}, 400),
    ],
)
async def test_exchange_of_invalid_body_sends_nothing(
    kind: str, fake: FakeOpenRouter, changes: dict[str, Any], status: int
) -> None:
    async with running(kind, fake, exchange_path="/exchange") as (site, _), Visitor(site) as visitor:
        page = await visitor.call("/exchange", issue(fake) | changes)

    assert page.status == status
    assert page.headers["Content-Type"].partition(";")[0] == "application/problem+json"
    assert set(page.json) == PROBLEM_MEMBERS
    assert fake.counters["exchange"] == 0


@each_kind
@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b"[" * 10_000, b'"code"'])
async def test_exchange_of_body_that_is_not_an_object_is_refused(kind: str, fake: FakeOpenRouter, data: bytes) -> None:
    async with running(kind, fake, exchange_path="/exchange") as (site, _), Visitor(site) as visitor:
        headers = {"Origin": site.url, "Content-Type": "application/json"}
        page = await visitor.open("/exchange", method="POST", headers=headers, data=data)

    assert page.status == 400


# Paste.


@each_kind
@pytest.mark.parametrize("headless", [False, True])
async def test_pasted_code_finishes_login(kind: str, fake: FakeOpenRouter, headless: bool) -> None:
    async def begin(request: Any) -> Any:
        return await integration(kind).start_json(request, headless=headless)

    async with running(kind, fake, routes={"/begin": begin}) as (site, _), Visitor(site) as visitor:
        started = (await visitor.call("/begin", method="GET")).json
        back = fake.consent(started["authorization_url"])
        page = await visitor.call("/login/complete", {"login": started["login"], "code": back})
        status = (await visitor.open(started["status_url"])).json

    assert page.json == {"status": "finished", "return_to": "/"}
    assert status["status"] == "finished"
    assert len(fake.issued_keys) == 1


@each_kind
async def test_refused_pasted_code_leaves_login_open(kind: str, fake: FakeOpenRouter) -> None:
    async with running(kind, fake) as (site, _), Visitor(site) as visitor:
        started, callback = await consent(visitor, fake)
        code = URL(callback).query["code"]
        wrong = await visitor.call("/login/complete", {"login": started["login"], "code": "auth_code_wrong"})
        empty = await visitor.call("/login/complete", {"login": started["login"], "code": "two words"})
        pending = (await visitor.open(started["status_url"])).json
        right = await visitor.call("/login/complete", {"login": started["login"], "code": code})

    assert wrong.status == empty.status == 400
    assert is_problem(wrong.json, "code-rejected")
    assert wrong.json["restart_login"] is False
    assert is_problem(empty.json, "invalid-callback")
    assert pending["status"] == "pending"
    assert right.status == 200


# Sign out.


class Vault:
    """A sink in memory."""

    def __init__(self, *, broken: bool = False) -> None:
        self.key: StoredKey | None = StoredKey.make("sk-or-v1-abc", None, SYSTEM_CLOCK)
        self._broken = broken

    async def __call__(self, request: Any, response: Any) -> None:
        raise NotImplementedError

    async def save(self, key: str, *, user_id: str | None = None) -> None:
        raise NotImplementedError

    async def load(self) -> StoredKey | None:
        if self._broken:
            raise KeySinkError("the keyring is locked")
        return self.key

    async def delete(self) -> bool:
        self.key = None
        return True


@each_kind
async def test_sign_out_forgets_key_and_pending_logins_and_names_page(kind: str, fake: FakeOpenRouter) -> None:
    vault = Vault()
    grants: list[Grant] = []

    async def on_logout(request: Any) -> Any:
        response = await integration(kind).sign_out(request, key=grants[0].key, vaults=[vault])
        add_cookie(kind, response, "session=; Max-Age=0")
        return response

    options: dict[str, Any] = {
        "logout_path": "/logout",
        "on_logout": on_logout,
        "on_login": lambda request, grant: grants.append(grant),
    }
    async with running(kind, fake, **options) as (site, _), Visitor(site) as visitor:
        await visitor.open(await visitor.consent())
        callback = await visitor.consent()
        page = await visitor.call("/logout")
        late = await visitor.open(callback)

    assert page.json == {"status": "signed_out", "settings_url": grants[0].settings_url}
    assert vault.key is None
    assert any(cookie.startswith("session=") for cookie in page.cookies)
    assert late.status == 400
    assert len(grants) == 1


@each_kind
async def test_sign_out_by_form_shows_page_with_link(kind: str, fake: FakeOpenRouter) -> None:
    async with running(kind, fake, logout_path="/logout") as (site, _), Visitor(site) as visitor:
        page = await visitor.open(
            "/logout", method="POST", headers={"Origin": site.url, "Accept": "text/html,*/*;q=0.8"}
        )

    assert page.status == 200
    assert 'href="https://openrouter.ai/settings/keys"' in page.text
    assert "until you delete it" in page.text


@each_kind
async def test_sign_out_with_broken_vault_deletes_from_others_and_says_so(kind: str, fake: FakeOpenRouter) -> None:
    vaults = [Vault(broken=True), Vault()]

    async def on_logout(request: Any) -> Any:
        return await integration(kind).sign_out(request, vaults=vaults)

    options: dict[str, Any] = {"logout_path": "/logout", "on_logout": on_logout}
    async with running(kind, fake, **options) as (site, _), Visitor(site) as visitor:
        page = await visitor.call("/logout")

    assert page.status >= 500
    assert is_problem(page.json, "key-sink")
    assert vaults[1].key is None


# Failures.


@each_kind
async def test_failure_format_follows_the_accept_header(kind: str, fake: FakeOpenRouter) -> None:
    called: list[Any] = []

    def on_error(request: Any, failure: Any) -> Any:
        called.append(failure)
        return respond(kind, "Sorry", status=418)

    async with running(kind, fake, on_error=on_error) as (site, _), Visitor(site) as visitor:
        addresses = ["/callback/x?code=c", "/login?display=x", "/login/status/x"]
        as_json = [await visitor.open(address, headers={"Accept": "application/json"}) for address in addresses]
        as_html = [await visitor.open(address, headers={"Accept": "text/html"}) for address in addresses]
        method = await visitor.open("/callback/x", method="PUT", headers={"Accept": "application/problem+json"})

    for page in (*as_json, method):
        assert page.headers["Content-Type"].partition(";")[0] == "application/problem+json"
        assert set(page.json) == PROBLEM_MEMBERS
        assert page.json["status"] == page.status
    assert [page.status for page in as_html] == [418] * 3
    assert len(called) == 3
    assert method.headers["Allow"] == "GET"


@pytest.mark.parametrize(
    ("accept", "default", "expected"),
    [
        ("", False, False),
        ("*/*", True, True),
        ("*/*", False, False),
        ("application/json", False, True),
        ("application/problem+json", False, True),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", True, False),
        ("text/html;q=0.5, application/json", False, True),
        ("text/html, application/json;q=0.5", True, False),
        ("text/html, application/json", True, True),
        ("application/json;q=x", False, False),
        ("application/json;q=0", False, False),
        (";;,,", False, False),
    ],
)
def test_prefers_json_follows_weights(accept: str, default: bool, expected: bool) -> None:
    assert prefers_json(accept, default=default) is expected


@each_kind
async def test_start_json_with_unreachable_store_answers_problem(kind: str, fake: FakeOpenRouter) -> None:
    class Broken(MemoryStore):
        async def put(self, login: Any, *, now: float) -> None:
            raise LoginStoreError("it cannot be reached")

    async with running(kind, fake, store=Broken()) as (site, _), Visitor(site) as visitor:
        page = await visitor.call("/login")

    assert page.status == 503
    assert is_problem(page.json, "login-store")
    assert page.cookies == ()


@each_kind
@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"status_path": "/status"}, "status_path"),
        ({"on_logout": lambda request: None}, "on_logout"),
        ({"on_logout": lambda: None, "logout_path": "/logout"}, "on_logout"),
        ({"render_page": "page.html"}, "render_page"),
        ({"max_exchanges": 0}, "max_exchanges"),
        ({"max_rejections": True}, "max_rejections"),
        ({"exchange_path": "/login"}, "exchange_path"),
        ({"complete_path": "/callback/{state}/"}, "complete_path"),
    ],
)
def test_setup_with_invalid_option_names_it(kind: str, options: dict[str, Any], field: str) -> None:
    given: dict[str, Any] = {
        "callback_url": "https://app.example/callback/{state}",
        "on_login": lambda request, grant: None,
    }
    with pytest.raises(RequestValidationError) as caught:
        make_app(kind, **given | options)
    assert caught.value.field == field


# Many workers.


async def test_status_is_shared_by_workers_behind_one_valkey(fake: FakeOpenRouter, valkey_url: str) -> None:
    secret = generate_encryption_key()
    options: dict[str, Any] = {"store": lambda: RedisStore.from_url(valkey_url, encryption_keys=secret)}
    async with (
        running("aiohttp", fake, **options) as (one, _),
        running("fastapi", fake, **options) as (two, _),
        Visitor(one) as visitor,
        aiohttp.ClientSession(cookie_jar=visitor.session.cookie_jar) as same_browser,
    ):
        started, callback = await consent(visitor, fake)
        status_url = two.url + started["status_url"]
        async with same_browser.get(status_url) as response:
            before = await response.json()
        poll = asyncio.ensure_future(visitor.open(status_url + "?wait=20"))
        await visitor.open(callback)
        after = (await poll).json
        other = await visitor.start_json()
        cancelled = await visitor.call(two.url + other["status_url"], method="DELETE", Origin=two.url)
        seen = (await visitor.open(other["status_url"])).json

    assert (before["status"], after["status"]) == ("pending", "finished")
    assert cancelled.json == seen
    assert seen["status"] == "failed"
