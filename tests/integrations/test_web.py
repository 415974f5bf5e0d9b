"""Tests of the options and hooks of a login, the same in every framework."""

from __future__ import annotations

from collections.abc import Callable
from http.cookies import SimpleCookie
from typing import Any

import pytest
from aiohttp import web
from starlette.applications import Starlette
from starlette.routing import Mount
from yarl import URL

from openrouter_async import Clock, OpenRouter, RetryPolicy
from openrouter_async._values.clock import SYSTEM_CLOCK
from openrouter_async.encryption import generate_encryption_key
from openrouter_async.errors import KeyDeliveryError, RequestValidationError
from openrouter_async.integrations.web._failures import LoginFailure
from openrouter_async.integrations.web._login import WebLogin
from openrouter_async.login import (
    AuthorizationDeniedError,
    AuthorizationFlow,
    CookieStore,
    LoginCookie,
    LoginStoreError,
    MemoryStore,
)
from openrouter_async.login.stores import LeaseItem
from openrouter_async.testing import FakeOpenRouter, Fault
from openrouter_async.testing._clock import MovableClock
from tests.integrations.support import (
    KINDS,
    Site,
    Visitor,
    bound_socket,
    integration,
    make_app,
    respond,
    running,
    serve_aiohttp,
    serve_asgi,
)
from tests.kit.clocks import ShiftedClock
from tests.support import free_port

pytestmark = pytest.mark.parametrize("kind", KINDS)


class Hands:
    """Remembers the arguments of a hook."""

    def __init__(self, answer: Callable[[], Any] = lambda: None) -> None:
        self.taken: list[Any] = []
        self._answer = answer

    async def __call__(self, request: Any, given: Any) -> Any:
        self.taken.append(given)
        return self._answer()


class ClosableStore(MemoryStore):
    closed = False

    async def aclose(self) -> None:
        self.closed = True


class BrokenStore(MemoryStore):
    async def put(self, item: LeaseItem, *, now: float) -> LoginCookie | None:
        raise LoginStoreError("it cannot be reached")


# Successful logins.


async def test_on_login_gets_the_grant_and_may_answer(kind: str, fake: FakeOpenRouter) -> None:
    on_login = Hands(lambda: respond(kind, "Welcome", headers={"X-App": "1", "Referrer-Policy": "unsafe-url"}))
    async with (
        running(kind, fake, on_login=on_login, key_label="My app", limit=3) as (site, _),
        Visitor(site) as visitor,
    ):
        page = await visitor.open(await visitor.consent("/login?next=/a"))

    (grant,) = on_login.taken
    assert grant.key == fake.issued_keys[0].key
    assert grant.return_to == "/a"
    assert (fake.issued_keys[0].label, fake.issued_keys[0].limit) == ("My app", 3)
    assert (page.status, page.text) == (200, "Welcome")
    assert page.headers["X-App"] == "1"
    # The URL of this page contains a code, so the app's own referrer policy must not apply.
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert page.headers["Cache-Control"] == "no-store"


async def test_web_cookies_over_https_are_secure_and_host_only(kind: str, fake: FakeOpenRouter) -> None:
    on_login = Hands()
    store = CookieStore(generate_encryption_key())
    async with (
        running(kind, fake, callback_url="https://app.example/callback/{state}", on_login=on_login, store=store) as (
            site,
            _,
        ),
        Visitor(site, keeps_cookies=False) as visitor,
    ):
        started = await visitor.open("/login")
        callback = URL(fake.consent(started.location))
        sent = "; ".join(header.partition(";")[0] for header in started.cookies)
        finished = await visitor.open(callback.raw_path_qs, headers={"Cookie": sent})

    for header in (*started.cookies, *finished.cookies):
        (cookie,) = SimpleCookie(header).values()
        assert cookie.key.startswith(("__Host-openrouter-browser-", "__Host-openrouter-login-"))
        assert (cookie["secure"], cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, True, "Lax", "/")
        assert not cookie["domain"]
    assert (len(started.cookies), len(finished.cookies)) == (2, 1)
    assert finished.location == "/"
    assert len(on_login.taken) == 1


async def test_web_hooks_when_sync_are_called_as_async_ones(kind: str, fake: FakeOpenRouter) -> None:
    keys: list[str] = []

    def on_login(request: Any, grant: Any) -> None:
        keys.append(grant.key)

    def on_error(request: Any, failure: LoginFailure) -> Any:
        return respond(kind, "Sorry", status=418)

    async with (
        running(kind, fake, on_login=on_login, on_error=on_error) as (site, _),
        Visitor(site) as visitor,
    ):
        page = await visitor.open(await visitor.consent())
        failed = await visitor.open(fake.deny(await visitor.start()))

    assert page.location == "/"
    assert keys == [fake.issued_keys[0].key]
    assert failed.status == 418


async def test_web_login_start_from_an_own_handler_works(kind: str, fake: FakeOpenRouter) -> None:
    on_login = Hands()

    async def connect(request: Any) -> Any:
        return await integration(kind).start(
            request, return_to="/bots/7", context={"bot": 7}, key_label="Bot 7", limit=1.5
        )

    options: dict[str, Any] = {"on_login": on_login, "login_path": None, "routes": {"/connect": connect}}
    async with running(kind, fake, **options) as (site, _), Visitor(site) as visitor:
        page = await visitor.open(await visitor.consent("/connect?next=/ignored"))
        assert (await visitor.open("/login")).status == 404
        denied = await visitor.open(fake.deny(await visitor.start("/connect")))

    assert page.location == "/bots/7"
    assert on_login.taken[0].context == {"bot": 7}
    assert (fake.issued_keys[0].label, fake.issued_keys[0].limit) == ("Bot 7", 1.5)
    assert "Sign in again" not in denied.text


async def test_web_login_finish_from_an_own_handler_has_client_and_flow(kind: str, fake: FakeOpenRouter) -> None:
    seen: list[Any] = []

    async def back(request: Any) -> Any:
        parts = integration(kind)
        seen.extend((parts.get_client(request), parts.get_flow(request)))
        return await parts.finish(request)

    options: dict[str, Any] = {
        "callback_url": "http://127.0.0.1/back",
        "callback_path": None,
        "routes": {"/back": back},
    }
    async with running(kind, fake, **options) as (site, _), Visitor(site) as visitor:
        callback = URL(await visitor.consent())
        assert (await visitor.open(callback.raw_path_qs)).location == "/"
        head = await visitor.open("/back?code=c", method="HEAD")

    assert isinstance(seen[0], OpenRouter)
    assert isinstance(seen[1], AuthorizationFlow)
    assert head.status == 405
    assert head.headers["Allow"] == "GET"


async def test_web_login_behind_a_path_rewriting_proxy_works(kind: str, fake: FakeOpenRouter) -> None:
    options: dict[str, Any] = {
        "callback_url": "http://127.0.0.1/outside/{state}/back",
        "callback_path": "/inside/{state}",
        "default_return_to": "/h",
    }
    async with running(kind, fake, **options) as (site, _), Visitor(site) as visitor:
        callback = URL(await visitor.consent())
        state = callback.query["state"]
        other = "s" * 43
        assert callback.path == f"/outside/{state}/back"
        mixed_up = await visitor.open(f"/inside/{other}?code=c&state={state}")
        page = await visitor.open(f"/inside/{state}?code={callback.query['code']}")

    assert mixed_up.status == 400
    assert page.location == "/h"


# Ownership of clients and stores.


async def test_web_login_leaves_a_given_client_and_store_open(kind: str, fake: FakeOpenRouter) -> None:
    store = ClosableStore()
    async with OpenRouter(None, base_url=fake.base_url) as client:
        async with running(kind, fake, client=client, store=store) as (site, _), Visitor(site) as visitor:
            await visitor.open(await visitor.consent())
        client.bind()

    assert len(store) == 1
    assert not store.closed


async def test_web_login_closes_the_client_and_store_it_made(kind: str, fake: FakeOpenRouter) -> None:
    made: list[Any] = []

    def keep(part: Any) -> Any:
        made.append(part)
        return part

    options: dict[str, Any] = {
        "client": lambda: keep(OpenRouter(None, base_url=fake.base_url)),
        "store": lambda: keep(ClosableStore()),
    }
    async with running(kind, fake, **options) as (site, _), Visitor(site) as visitor:
        await visitor.open(await visitor.consent())
        client, store = made
        assert not store.closed

    assert "closed" in repr(client)
    assert store.closed


async def test_web_login_with_a_closed_client_fails_at_startup(kind: str) -> None:
    client = OpenRouter(None)
    await client.aclose()
    login: WebLogin[Any, Any] = WebLogin(None, callback_url="https://app.example/", on_login=Hands(), client=client)  # type: ignore[arg-type]

    with pytest.raises(Exception, match="the client is closed"):
        async with login.run():
            pass


async def test_web_login_outside_its_lifespan_says_so(kind: str) -> None:
    login: WebLogin[Any, Any] = WebLogin(None, callback_url="https://app.example/", on_login=Hands())  # type: ignore[arg-type]

    for part in ("client", "flow"):
        with pytest.raises(RuntimeError, match="the lifespan of its app"):
            getattr(login, part)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("callback_url", "http://app.example/callback/{state}"),
        ("callback_url", "https://app.example/{state}/{state}"),
        ("default_return_to", "//evil.example"),
        ("default_return_to", "https://evil.example"),
        ("on_login", None),
        ("on_login", lambda grant: None),
        ("on_error", "no hook"),
        ("on_error", lambda: None),
        ("drain_timeout", -1),
        ("drain_timeout", float("nan")),
    ],
)
def test_web_login_unsafe_or_impossible_setup_is_refused(kind: str, field: str, value: Any) -> None:
    options = {"callback_url": "https://app.example/callback/{state}", "on_login": Hands(), field: value}
    with pytest.raises(RequestValidationError) as caught:
        make_app(kind, **options)
    assert caught.value.field == field


# Failed logins.


async def test_on_error_may_answer_or_leave_the_page(kind: str, fake: FakeOpenRouter) -> None:
    answers = [respond(kind, "Sorry", status=418), None]
    on_error = Hands(lambda: answers.pop(0))
    async with running(kind, fake, on_error=on_error) as (site, _), Visitor(site) as visitor:
        own = await visitor.open(fake.deny(await visitor.start("/login?next=/a")))
        ours = await visitor.open(fake.deny(await visitor.start()))

    failure = on_error.taken[0]
    assert isinstance(failure, LoginFailure)
    assert isinstance(failure.error, AuthorizationDeniedError)
    assert (failure.status, failure.login_url, failure.home_url) == (403, "/login?next=%2Fa", "/")
    assert (own.status, own.text) == (418, "Sorry")
    assert own.headers["Referrer-Policy"] == "no-referrer"
    assert ours.status == 403
    assert "You cancelled the sign-in." in ours.text


async def test_web_error_page_of_a_loopback_callback_names_the_reason(kind: str, fake: FakeOpenRouter) -> None:
    async with running(kind, fake) as (site, _), Visitor(site) as visitor, Visitor(site) as other:
        cancelled = await visitor.open(fake.deny(await visitor.start()))
        popup = await visitor.open(fake.deny(await visitor.start("/login?display=popup")))
        callback = await visitor.consent()
        code = URL(callback).query["code"]
        elsewhere = await other.open(callback)

    assert "For developers: AuthorizationDeniedError: " in cancelled.text
    assert "For developers: AuthorizationDeniedError: " in popup.text
    assert "For developers: LoginBindingError: " in elsewhere.text
    assert f"; start the login at {site.url}, the host of the callback URL" in elsewhere.text
    assert code not in elsewhere.text


async def test_web_error_page_in_production_is_discreet(kind: str, fake: FakeOpenRouter) -> None:
    callback_url = "https://app.example/callback/{state}"
    async with running(kind, fake, callback_url=callback_url) as (site, _), Visitor(site) as visitor:
        page = await visitor.open(URL(fake.deny(await visitor.start())).raw_path_qs)

    # The cookie is for https alone.
    assert "Cookies are needed" in page.text
    assert "For developers" not in page.text
    assert "LoginBindingError" not in page.text


async def test_web_login_expired_is_explained(kind: str, fake: FakeOpenRouter) -> None:
    later = ShiftedClock()
    async with running(kind, fake, clock=later.clock) as (site, _), Visitor(site) as visitor:
        callback = await visitor.consent("/login?next=/a")
        later.seconds = 601
        page = await visitor.open(callback)

    assert page.status == 410
    assert "took too long" in page.text
    assert fake.counters["exchange"] == 0


async def test_web_callback_reloaded_much_later_gets_a_page(kind: str, fake: FakeOpenRouter) -> None:
    later = ShiftedClock()
    async with running(kind, fake, clock=later.clock) as (site, _), Visitor(site) as visitor:
        callback = await visitor.consent()
        await visitor.open(callback)
        later.seconds = 61
        page = await visitor.open(callback)
        later.seconds = 10_000
        much_later = await visitor.open(callback)

    assert page.status == 409
    assert "already finished" in page.text
    assert much_later.status == 400
    assert "not known here, or no longer" in much_later.text
    assert fake.counters["exchange"] == 1


async def test_web_callback_when_openrouter_is_busy_can_be_reloaded(kind: str, fake: FakeOpenRouter) -> None:
    on_login = Hands()
    async with running(kind, fake, on_login=on_login) as (site, _), Visitor(site) as visitor:
        callback = await visitor.consent()
        fake.queue_faults(Fault.status(429, headers={"Retry-After-Ms": "100"}))
        page = await visitor.open(callback)
        fake.rate_limit(None)
        again = await visitor.open(callback)

    assert page.status == 503
    assert page.headers["Retry-After"] == "1"
    assert '<a href="">Try again</a>' in page.text
    assert "Sign in again" not in page.text
    assert again.location == "/"
    assert len(on_login.taken) == 1


async def test_web_login_during_long_pause_is_kept_and_a_probe_ends_the_pause(kind: str, fake: FakeOpenRouter) -> None:
    movable = MovableClock(SYSTEM_CLOCK)
    clock = Clock(monotonic=movable.monotonic, time=movable.time, sleep=movable.sleep)

    def client() -> OpenRouter:
        return OpenRouter(None, base_url=fake.base_url, clock=clock)

    async with (
        running(kind, fake, client=client) as (site, _),
        Visitor(site) as ada,
        Visitor(site) as ben,
    ):
        callbacks = [(visitor, await visitor.consent()) for visitor in (ada, ben)]
        fake.queue_faults(Fault.status(429, headers={"Retry-After": "300"}))
        pages = [await visitor.open(callback) for visitor, callback in callbacks]
        asked = fake.counters["exchange"]
        again = await ada.open(callbacks[0][1])

    # Ben's call is the probe, whose success ends the pause for everybody.
    assert [page.status for page in pages] == [503, 303]
    assert 270 <= int(pages[0].headers["Retry-After"]) <= 300
    assert asked == 2
    assert again.location == "/"
    assert len(fake.issued_keys) == 2


async def test_web_callback_when_openrouter_is_unreachable_keeps_the_login(kind: str, fake: FakeOpenRouter) -> None:
    port = free_port()

    def client() -> OpenRouter:
        return OpenRouter(None, base_url=f"http://127.0.0.1:{port}/api/v1", retry=RetryPolicy.none())

    async with running(kind, fake, client=client) as (site, _), Visitor(site) as visitor:
        callback = await visitor.consent()
        page = await visitor.open(callback)
        async with FakeOpenRouter(port=port):
            refused = await visitor.open(callback)

    assert page.status == 503
    assert "could not be reached" in page.text
    # It is another OpenRouter, which does not know the code.
    assert refused.status == 400
    assert 'href="/login"' in refused.text


async def test_web_callback_of_unknown_outcome_is_explained(
    kind: str, fake: FakeOpenRouter, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(kind, fake) as (site, _), Visitor(site) as visitor:
        callback = await visitor.consent()
        fake.queue_faults(Fault.status(500, after=True))
        page = await visitor.open(callback)

    assert page.status == 502
    assert "could not be confirmed" in page.text
    assert "a login failed" in caplog.text


async def test_web_callback_unauthorized_app_is_reported_to_the_operator(kind: str, fake: FakeOpenRouter) -> None:
    async with running(kind, fake) as (site, _), Visitor(site) as visitor:
        callback = await visitor.consent()
        fake.queue_faults(Fault.status(401))
        page = await visitor.open(callback)

    assert page.status == 500
    assert "operator" in page.text


async def test_web_login_with_a_failing_store_is_reported_before_the_user_leaves(
    kind: str, fake: FakeOpenRouter
) -> None:
    async with running(kind, fake, store=BrokenStore()) as (site, _), Visitor(site) as visitor:
        page = await visitor.open("/login?next=/a")

    assert page.status == 503
    assert '<a href="">Try again</a>' in page.text
    assert not page.cookies


async def test_web_failure_holds_a_key_that_on_key_refused(kind: str, fake: FakeOpenRouter) -> None:
    async def on_key(request: Any, response: Any) -> None:
        raise OSError("the disk is full")

    on_login, on_error = Hands(), Hands()
    options: dict[str, Any] = {
        "client": lambda: OpenRouter(None, base_url=fake.base_url, on_key=on_key),
        "on_login": on_login,
        "on_error": on_error,
    }
    async with running(kind, fake, **options) as (site, _), Visitor(site) as visitor:
        page = await visitor.open(await visitor.consent())

    (failure,) = on_error.taken
    assert isinstance(failure.error, KeyDeliveryError)
    assert failure.error.response.key == fake.issued_keys[0].key
    assert page.status == 500
    assert not on_login.taken


async def test_on_login_that_fails_propagates_and_a_reload_calls_it_again(kind: str, fake: FakeOpenRouter) -> None:
    failures = [ValueError("of the app")]

    def fail_once() -> None:
        if failures:
            raise failures.pop()

    on_login = Hands(fail_once)
    async with running(kind, fake, on_login=on_login) as (site, _), Visitor(site) as visitor:
        callback = await visitor.consent()
        page = await visitor.open(callback)
        again = await visitor.open(callback)

    assert page.status == 500
    assert again.location == "/"
    assert [grant.key for grant in on_login.taken] == [fake.issued_keys[0].key] * 2
    assert fake.counters["exchange"] == 1


async def test_web_login_invalid_start_arguments_propagate(kind: str, fake: FakeOpenRouter) -> None:
    caught: list[RequestValidationError] = []

    async def connect(request: Any) -> Any:
        try:
            return await integration(kind).start(request, context="x" * 2000)
        except RequestValidationError as error:
            caught.append(error)
            return respond(kind, "caught")

    async with running(kind, fake, routes={"/connect": connect}) as (site, _), Visitor(site) as visitor:
        assert (await visitor.open("/connect")).text == "caught"

    assert caught[0].field == "context"


# A part of another app.


async def test_web_login_mounted_in_another_app_links_within_its_mount(kind: str, fake: FakeOpenRouter) -> None:
    listener, url = bound_socket()
    options: dict[str, Any] = {
        "callback_url": url + "/auth/callback/{state}",
        "callback_path": "/callback/{state}",
        "on_login": Hands(),
        "client": lambda: OpenRouter(None, base_url=fake.base_url),
        "auth_url": fake.auth_url,
    }
    part = make_app(kind, **options)
    if kind == "aiohttp":
        app = web.Application()
        app.add_subapp("/auth", part)
        server = serve_aiohttp(app, listener)
    else:
        lifespan = integration("asgi" if kind == "asgi" else "starlette").lifespan
        server = serve_asgi(Starlette(routes=[Mount("/auth", app=part)], lifespan=lambda app: lifespan(part)), listener)
    async with server:
        async with Visitor(Site(name=kind, url=url, fake=fake)) as visitor:
            page = await visitor.open(await visitor.consent("/auth/login?next=/a"))
            denied = await visitor.open(fake.deny(await visitor.start("/auth/login")))

    assert page.location == "/a"
    assert 'href="/auth/login"' in denied.text
