"""Attacks on the routes of a web login, and mistakes of its operator: the same in every framework."""

from __future__ import annotations

import logging
from typing import Any

import aiohttp
import pytest
from yarl import URL

from openrouter_async import OpenRouter
from openrouter_async.errors import RequestValidationError
from openrouter_async.integrations.web import read_cookies
from openrouter_async.integrations.web._cookies import MAX_COOKIE_BYTES, surplus_cookies
from openrouter_async.integrations.web._guards import network_of
from openrouter_async.testing import FakeOpenRouter
from tests.integrations.support import (
    KINDS,
    Site,
    Visitor,
    bound_socket,
    integration,
    make_app,
    running,
    serve_aiohttp,
    serve_asgi,
)

each_kind = pytest.mark.parametrize("kind", KINDS)
NAME = "__Host-openrouter-browser-0123456789abcdef"


def ignore(request: Any, grant: Any) -> None:
    pass


@pytest.mark.parametrize(
    "header",
    [
        f"\x0b{NAME}=x",
        f"\xa0{NAME}=x",
        f"\u2000{NAME}=x",
        f'a="; {NAME}=x"',
        f'{NAME}="x"',
        f"={NAME}=x",
        f"a={NAME}=x",
        f"{NAME}",
        f"{NAME}=x; {NAME}=x",
        f"{NAME}=\xff",
        f"{NAME} =x",
        f"{NAME}=a b",
        f"a,{NAME}=x",
    ],
)
def test_read_cookies_when_name_is_smuggled_ignores_it(header: str) -> None:
    assert NAME not in read_cookies([header])


def test_read_cookies_of_several_headers_keeps_exact_pairs() -> None:
    assert read_cookies([f"a=1;\t{NAME}=x=y ", "b="]) == {"a": "1", NAME: "x=y", "b": ""}
    assert read_cookies(["a=1", "a=2"]) == {}
    assert read_cookies([]) == {}


def test_surplus_cookies_over_budget_drops_oldest_whole_logins() -> None:
    cookies = {}
    for number in range(6):
        cookies[f"b-{number:016}"] = "x" * 43
        cookies[f"s-{number:016}"] = "y" * 1000

    dropped = surplus_cookies(cookies, ("b-", "s-"), 1100)

    assert {name[-16:] for name in dropped} == {f"{number:016}" for number in range(len(dropped) // 2)}
    left = sum(len(name) + len(value) + 3 for name, value in cookies.items() if name not in dropped)
    assert left + 1100 <= MAX_COOKIE_BYTES
    assert surplus_cookies({"other": "z" * 9000}, ("b-", "s-"), 100) == []


@each_kind
async def test_start_from_another_site_without_a_click_starts_nothing(kind: str, fake: FakeOpenRouter) -> None:
    forced = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    async with running(kind, fake) as (site, _), Visitor(site) as visitor:
        page = await visitor.open("/login?next=/a", headers=forced)
        clicked = await visitor.open("/login?next=/a", headers=forced | {"Sec-Fetch-User": "?1"})
        inside = await visitor.open("/login", headers={"Sec-Fetch-Site": "same-origin"})

    assert page.status == 200
    assert page.cookies == ()
    assert '<a href="">Sign in with OpenRouter</a>' in page.text
    assert page.headers["Cache-Control"] == "no-store"
    assert clicked.status == inside.status == 303


@each_kind
async def test_callback_with_a_smuggled_cookie_is_refused(kind: str, fake: FakeOpenRouter) -> None:
    async with running(kind, fake) as (site, _), Visitor(site) as attacker:
        callback = await attacker.consent()
        (cookie,) = [c for c in attacker.session.cookie_jar if "openrouter" in c.key]
        async with aiohttp.ClientSession() as session:
            for header in (f'{cookie.key}="{cookie.value}"', f"\xa0{cookie.key}={cookie.value}"):
                async with session.get(callback, headers={"Cookie": header}, allow_redirects=False) as answer:
                    assert answer.status == 400

    assert fake.counters["exchange"] == 0


@pytest.mark.unmeasured
@each_kind
@pytest.mark.parametrize(
    ("query", "location"),
    [
        ("/men%C3%BC", "/men%C3%BC"),
        ("/a%20b?c=d%23e", "/a%20b?c=d#e"),
        ("//evil.example", "/home"),
        ("/%5Cevil.example", "/home"),
        ("/%09/evil.example", "/home"),
        ("no-path", "/home"),
        ("/" + "x" * 300, "/home"),
    ],
)
async def test_start_with_odd_next_continues(
    kind: str, fake: FakeOpenRouter, caplog: pytest.LogCaptureFixture, query: str, location: str
) -> None:
    async with running(kind, fake, default_return_to="/home") as (site, _), Visitor(site) as visitor:
        page = await visitor.open(await visitor.consent(f"/login?next={query}"))

    assert page.location == location
    warnings = [r for r in caplog.records if getattr(r, "event", "") == "return_path_ignored"]
    assert len(warnings) == (location == "/home")
    assert not any("evil" in record.getMessage() for record in warnings)


@each_kind
async def test_routes_with_slash_at_end_are_not_redirected(kind: str, fake: FakeOpenRouter) -> None:
    async with running(kind, fake) as (site, _), Visitor(site) as visitor:
        callback = URL(fake.consent(await visitor.start("/login/")))
        page = await visitor.open(f"{callback.raw_path}/?{callback.raw_query_string}")

    assert page.location == "/"
    assert len(fake.issued_keys) == 1


@each_kind
async def test_routes_of_other_methods_answer_405_with_privacy_headers(kind: str, fake: FakeOpenRouter) -> None:
    async with running(kind, fake) as (site, _), Visitor(site) as visitor:
        for path, allowed in (
            ("/login", "GET, POST"),
            ("/login/", "GET, POST"),
            ("/callback/x?code=c", "GET"),
            ("/callback/x/?code=c", "GET"),
            ("/login/status/x", "GET, DELETE"),
            ("/login/complete", "POST"),
        ):
            for method in {"POST", "PUT", "DELETE", "OPTIONS", "HEAD"} - set(allowed.split(", ")):
                page = await visitor.open(path, method=method)
                assert page.status == 405
                assert page.headers["Allow"] == allowed
                assert page.headers["Referrer-Policy"] == "no-referrer"
                assert page.headers["Cache-Control"] == "no-store"


@each_kind
async def test_rejected_codes_of_one_address_are_bounded(kind: str, fake: FakeOpenRouter) -> None:
    async with running(kind, fake, max_rejections=1) as (site, _), Visitor(site) as visitor:
        # The address of the tests may be that of a proxy, so the bound is ten.
        pages = []
        for number in range(12):
            callback = URL(await visitor.consent())
            pages.append(await visitor.open(str(callback.update_query(code=f"invented-{number}"))))

    assert [page.status for page in pages] == [400] * 10 + [429] * 2
    assert fake.counters["exchange"] == 10
    assert 0 < int(pages[-1].headers["Retry-After"]) <= 600


@each_kind
async def test_failed_login_is_logged_once_without_secrets(
    kind: str, fake: FakeOpenRouter, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(kind, fake) as (site, _), Visitor(site) as visitor:
        with caplog.at_level(logging.INFO, "openrouter_async"):
            callback = URL(fake.deny(await visitor.start()))
            await visitor.open(str(callback))

    (record,) = [r for r in caplog.records if getattr(r, "event", "") == "login_failed"]
    assert record.levelno == logging.INFO
    assert vars(record)["error_class"] == "AuthorizationDeniedError"
    assert vars(record)["outcome"] == "refused"
    assert vars(record)["path"] == "/callback/{state}"
    assert callback.path.rpartition("/")[2] not in repr(vars(record))


@each_kind
async def test_start_at_other_name_of_this_computer_moves_to_callback_host(
    kind: str, fake: FakeOpenRouter, caplog: pytest.LogCaptureFixture
) -> None:
    listener, url = bound_socket()
    listener.close()
    callback_url = url.replace("127.0.0.1", "localhost") + "/callback/{state}"
    async with running(kind, fake, callback_url=callback_url) as (site, _), Visitor(site) as visitor:
        page = await visitor.open("/login?next=/a%20b")
        moved = URL(page.location)
        again = await visitor.open(f"{moved.raw_path}?{moved.raw_query_string}")

    assert page.cookies == ()
    assert moved.host == "localhost"
    assert moved.raw_path_qs == "/login?next=/a%20b&openrouter_host=1"
    # A proxy that changes the host would send the browser around in a circle.
    assert again.location.startswith(fake.auth_url)
    assert any(getattr(r, "event", "") == "host_mismatch" for r in caplog.records)


@each_kind
async def test_two_logins_in_one_app_keep_their_own_hooks(kind: str, fake: FakeOpenRouter) -> None:
    listener, url = bound_socket()
    keys: dict[str, list[str]] = {"users": [], "admins": []}

    def hook(name: str) -> Any:
        def on_login(request: Any, grant: Any) -> Any:
            keys[name].append(grant.key)
            return integration(kind).redirect(request, grant)

        return on_login

    def options(name: str) -> dict[str, Any]:
        return {
            "callback_url": f"{url}/{name}/back/{{state}}",
            "login_path": f"/{name}/login",
            "on_login": hook(name),
            "client": lambda: OpenRouter(None, base_url=fake.base_url),
            "auth_url": fake.auth_url,
            "default_return_to": f"/{name}",
        }

    app = make_app(kind, **options("users"))
    integration(kind).setup(app, name="admins", **options("admins"))
    serve = serve_aiohttp if kind == "aiohttp" else serve_asgi

    async with serve(app, listener), Visitor(Site(name=kind, url=url, fake=fake)) as visitor:
        user = await visitor.open(await visitor.consent("/users/login"))
        admin = await visitor.open(await visitor.consent("/admins/login"))
        callback = await visitor.consent("/users/login")
        crossed = await visitor.open(callback.replace("/users/", "/admins/"))

    assert (user.location, admin.location) == ("/users", "/admins")
    assert crossed.status == 400
    assert [len(taken) for taken in keys.values()] == [1, 1]


@each_kind
@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"login_path": "/b", "callback_url": "http://localhost/c/{state}"}, "name"),
        ({"name": "b", "callback_url": "http://localhost/c/{state}"}, "login_path"),
        ({"name": "b", "login_path": "/login/", "callback_url": "http://localhost/c/{state}"}, "login_path"),
        ({"name": "b", "login_path": "/b"}, "callback_path"),
    ],
)
def test_setup_of_second_login_that_clashes_is_refused(kind: str, changes: dict[str, Any], field: str) -> None:
    options: dict[str, Any] = {"callback_url": "http://localhost/callback/{state}", "on_login": ignore}
    app = make_app(kind, **options)
    with pytest.raises(RequestValidationError) as caught:
        integration(kind).setup(app, **options | changes)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("8.8.8.8", "8.8.8.8"),
        ("::ffff:8.8.8.8", "8.8.8.8"),
        ("2606:4700:1:2:3:4:5:6", "2606:4700:1:2::/64"),
        ("2606:4700:1:2::9", "2606:4700:1:2::/64"),
        ("127.0.0.1", None),
        ("10.0.0.7", None),
        ("fe80::1", None),
        ("unix:", None),
        (None, None),
    ],
)
def test_network_of_groups_addresses_of_one_client(address: str | None, network: str | None) -> None:
    assert network_of(address) == network
