"""The login as an ASGI app: wherever it is mounted, and whether or not somebody runs its lifespan."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any
from urllib.parse import quote

import pytest
from hypercorn.middleware import DispatcherMiddleware
from hypothesis import given
from hypothesis import strategies as st
from litestar import Litestar, asgi
from quart import Quart
from starlette.applications import Starlette
from starlette.routing import Mount

from openrouter_async import OpenRouter
from openrouter_async.integrations import asgi as openrouter
from openrouter_async.integrations._asgi import locate
from openrouter_async.integrations.asgi import LoginApp, Request, Response
from openrouter_async.login import Grant
from openrouter_async.testing import FakeOpenRouter
from tests.integrations.support import Site, Visitor, asgi_routes, bound_socket, serve_asgi
from tests.support import PATIENCE

PUBLIC_PATHS = {"login_path": "/auth/login"}
PATHS_BELOW = {"callback_path": "/callback/{state}"}


async def ignore(request: Any, grant: Grant) -> None:
    pass


def options(fake: FakeOpenRouter, url: str = "http://localhost", **others: Any) -> dict[str, Any]:
    return {
        "callback_url": url + "/auth/callback/{state}",
        "on_login": ignore,
        "client": lambda: OpenRouter(None, base_url=fake.base_url),
        "auth_url": fake.auth_url,
        **others,
    }


# Where it is mounted.


def in_starlette(part: LoginApp) -> Any:
    return Starlette(routes=[Mount("/auth", part)], lifespan=lambda app: openrouter.lifespan(part))


def in_litestar(part: LoginApp) -> Any:
    # Litestar gives only the part of the path that is left, and no root path.
    mounted = asgi("/auth", is_mount=True, copy_scope=True)(part)
    # Its usual configuration would make all loggers of this process log to the terminal.
    return Litestar(
        [mounted], lifespan=[lambda app: openrouter.lifespan(part)], openapi_config=None, logging_config=None
    )


def in_quart(part: LoginApp) -> Any:
    app = Quart(__name__)

    @app.while_serving
    async def login() -> AsyncGenerator[None, None]:
        async with openrouter.lifespan(part):
            yield

    return DispatcherMiddleware({"/auth": part, "/": app})  # type: ignore[dict-item]


def by_a_dispatcher(*, strips: bool, has_root: bool) -> Callable[[LoginApp], Any]:
    def mount(part: LoginApp) -> Any:
        async def dispatch(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan":
                await part(scope, receive, send)
                return
            assert scope["path"].startswith("/auth/")
            changes: dict[str, Any] = {"root_path": "/auth"} if has_root else {}
            if strips:
                changes["path"] = scope["path"].removeprefix("/auth")
                changes["raw_path"] = None
            await part({**scope, **changes}, receive, send)

        return dispatch

    return mount


MOUNTS = {
    "Starlette": in_starlette,
    "Litestar": in_litestar,
    "Quart and Hypercorn's dispatcher": in_quart,
    "whole path and root path": by_a_dispatcher(strips=False, has_root=True),
    "stripped path and root path": by_a_dispatcher(strips=True, has_root=True),
}


@pytest.mark.parametrize("mount", MOUNTS.values(), ids=MOUNTS.keys())
@pytest.mark.parametrize("paths", [{}, PUBLIC_PATHS, PATHS_BELOW], ids=["default", "public", "below"])
async def test_mounted_app_signs_in_and_links_to_its_public_paths(
    fake: FakeOpenRouter, mount: Callable[[LoginApp], Any], paths: dict[str, str]
) -> None:
    listener, url = bound_socket()
    app = mount(openrouter.create_app(**options(fake, url, **paths)))
    async with serve_asgi(app, listener), Visitor(Site(name="asgi", url=url, fake=fake)) as visitor:
        page = await visitor.open(await visitor.consent("/auth/login?next=/a"))
        slash = await visitor.start("/auth/login/")
        denied = await visitor.open(fake.deny(slash))
        unknown = await visitor.open("/auth/other")

    assert page.location == "/a"
    assert denied.status == 403
    assert 'href="/auth/login"' in denied.text
    assert unknown.status == 404


@pytest.mark.parametrize("strips", [False, True])
async def test_app_behind_a_dispatcher_without_root_path_takes_paths_as_they_come(
    fake: FakeOpenRouter, strips: bool
) -> None:
    listener, url = bound_socket()
    part = openrouter.create_app(**options(fake, url, **(PATHS_BELOW if strips else PUBLIC_PATHS)))
    app = by_a_dispatcher(strips=strips, has_root=False)(part)
    async with serve_asgi(app, listener), Visitor(Site(name="asgi", url=url, fake=fake)) as visitor:
        page = await visitor.open(await visitor.consent("/auth/login?next=/a"))

    assert page.location == "/a"


SEGMENTS = st.lists(st.text("ab/é %", max_size=3), max_size=3).map(lambda parts: "".join(f"/{part}" for part in parts))


@given(root=SEGMENTS, below=SEGMENTS, has_raw_path=st.booleans())
def test_locate_of_any_scope_gives_the_public_path_and_that_below(root: str, below: str, has_raw_path: bool) -> None:
    root = root.rstrip("/")
    whole = root + below
    raw = {"raw_path": quote(whole).encode()} if has_raw_path else {}

    assert locate({"path": whole, "root_path": ""}) == (whole, whole)
    if below:
        assert locate({"path": whole, "root_path": root, **raw}) == (whole, below)
        if not below.startswith(root + "/"):
            assert locate({"path": below, "root_path": root, **raw}) == (whole, below)
        if has_raw_path:
            assert locate({"path": below, **raw}) == (whole, below)


# Around another app.


async def test_wrapped_app_gets_all_other_requests_and_reaches_the_login(fake: FakeOpenRouter) -> None:
    async def home(request: Request) -> Response:
        assert isinstance(openrouter.get_client(request), OpenRouter)
        assert openrouter.get_flow(request) is openrouter.get_flow(request)
        return Response(200, "home", {"X-Cookies": str(sorted(request.cookies))})

    listener, url = bound_socket()
    app = openrouter.create_app(asgi_routes({"/": home}), **options(fake, url))
    async with serve_asgi(app, listener), Visitor(Site(name="asgi", url=url, fake=fake)) as visitor:
        page = await visitor.open("/", headers={"Cookie": "b=1; a=2"})
        head = await visitor.open("/", method="HEAD")
        posted = await visitor.open("/", method="POST")

    assert (page.status, page.text, page.headers["X-Cookies"]) == (200, "home", "['a', 'b']")
    assert (head.text, head.headers["Content-Length"]) == ("", "4")
    assert posted.text == "home"


async def test_wrapped_django_app_that_refuses_lifespans_is_served(fake: FakeOpenRouter) -> None:
    # asgi_routes refuses other protocols than HTTP, as Django does.
    listener, url = bound_socket()
    app = openrouter.create_app(asgi_routes({}), **options(fake, url))
    async with serve_asgi(app, listener), Visitor(Site(name="asgi", url=url, fake=fake)) as visitor:
        assert (await visitor.open(await visitor.consent())).location == "/"


@pytest.mark.parametrize("has_app", [False, True])
async def test_websocket_goes_to_the_wrapped_app_or_is_closed(fake: FakeOpenRouter, has_app: bool) -> None:
    async def talk(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "websocket"
        await send({"type": "websocket.accept"})

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    app = openrouter.create_app(talk if has_app else None, **options(fake))
    async with openrouter.lifespan(app):
        await app({"type": "websocket", "path": "/login"}, receive_nothing, send)
        if not has_app:
            with pytest.raises(NotImplementedError, match="no webtransport connections"):
                await app({"type": "webtransport"}, receive_nothing, send)

    assert sent == [{"type": "websocket.accept" if has_app else "websocket.close"}]


async def receive_nothing() -> Any:
    raise AssertionError("it is not to be called")


# Who runs the lifespan.


class Client(OpenRouter):
    """A client that tells when it is closed."""

    def __init__(self, events: list[str], **settings: Any) -> None:
        super().__init__(None, **settings)
        self.events = events
        events.append("client")

    async def aclose(self, *, timeout: float = 10.0) -> None:
        self.events.append("closed")
        await super().aclose(timeout=timeout)


class Server:
    """The server's side of a lifespan."""

    def __init__(self, app: Any) -> None:
        self.sent: asyncio.Queue[Any] = asyncio.Queue()
        self._received: asyncio.Queue[Any] = asyncio.Queue()
        self._task = asyncio.create_task(app({"type": "lifespan", "state": {}}, self._received.get, self.sent.put))

    async def __aenter__(self) -> Server:
        self._received.put_nowait({"type": "lifespan.startup"})
        return self

    async def __aexit__(self, *_: object) -> None:
        self._received.put_nowait({"type": "lifespan.shutdown"})
        await asyncio.wait_for(self._task, PATIENCE)

    async def answer(self) -> Any:
        return await asyncio.wait_for(self.sent.get(), PATIENCE)


async def returns(scope: Any, receive: Any, send: Any) -> None:
    """An app without a lifespan, which returns at once."""


def starlette_with(events: list[str], failing: str = "") -> Starlette:
    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[dict[str, Any]]:
        events.append("begin")
        if failing == "startup":
            raise OSError("of the app")
        yield {"database": "here"}
        events.append("end")
        if failing == "shutdown":
            raise OSError("of the app")

    return Starlette(lifespan=lifespan)


@pytest.mark.parametrize("within", ["nothing", "an app that raises", "an app that returns", "Starlette"])
async def test_lifespan_runs_the_login_within_that_of_the_app(fake: FakeOpenRouter, within: str) -> None:
    events: list[str] = []
    apps = {"an app that raises": asgi_routes({}), "an app that returns": returns, "Starlette": starlette_with(events)}
    app = openrouter.create_app(
        apps.get(within), **options(fake, client=lambda: Client(events, base_url=fake.base_url))
    )
    async with Server(app) as server:
        assert await server.answer() == {"type": "lifespan.startup.complete"}
        assert events[-1] == "client"
    assert await server.answer() == {"type": "lifespan.shutdown.complete"}
    assert events == (["begin", "client", "closed", "end"] if within == "Starlette" else ["client", "closed"])


@pytest.mark.parametrize("within", ["nothing", "Starlette"])
async def test_lifespan_whose_login_cannot_start_reports_one_failure(fake: FakeOpenRouter, within: str) -> None:
    def client() -> OpenRouter:
        raise OSError("no settings")

    events: list[str] = []
    app = openrouter.create_app(
        starlette_with(events) if within == "Starlette" else None, **options(fake, client=client)
    )
    server = Server(app)
    with pytest.raises(OSError, match="no settings"):
        async with server:
            assert await server.answer() == {"type": "lifespan.startup.failed", "message": "OSError: no settings"}
    assert server.sent.empty()


@pytest.mark.parametrize("when", ["startup", "shutdown"])
async def test_lifespan_whose_app_fails_is_passed_on_and_ends_the_login(fake: FakeOpenRouter, when: str) -> None:
    events: list[str] = []
    app = openrouter.create_app(
        starlette_with(events, when), **options(fake, client=lambda: Client(events, base_url=fake.base_url))
    )
    with pytest.raises(OSError, match="of the app"):
        async with Server(app) as server:
            assert (await server.answer())[
                "type"
            ] == f"lifespan.startup.{'failed' if when == 'startup' else 'complete'}"
    assert events == (["begin"] if when == "startup" else ["begin", "client", "closed", "end"])


def test_without_any_lifespan_first_request_starts_and_end_of_loop_closes(fake: FakeOpenRouter) -> None:
    events: list[str] = []
    url = "http://127.0.0.1"
    app = openrouter.create_app(**options(fake, url, client=lambda: Client(events, base_url=fake.base_url)))

    async def sign_in() -> None:
        async with serve_plain(app) as url:
            login = app._logins["openrouter"]
            with pytest.raises(RuntimeError):
                _ = login.flow
            async with Visitor(Site(name="asgi", url=url, fake=fake)) as visitor:
                await asyncio.gather(*(visitor.start() for _ in range(3)))
            assert events[-1] == "client"

    for _ in range(2):
        asyncio.run(sign_in())
    assert events == ["client", "closed"] * 2


@contextlib.asynccontextmanager
async def serve_plain(app: Any) -> AsyncIterator[str]:
    """Serve an app without running its lifespan."""

    async def dispatch(scope: Any, receive: Any, send: Any) -> None:
        await (answer_lifespan if scope["type"] == "lifespan" else app)(scope, receive, send)

    listener, url = bound_socket()
    async with serve_asgi(dispatch, listener):
        yield url


async def answer_lifespan(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


# Requests and responses.


@pytest.mark.parametrize(
    ("messages", "body"),
    [
        ([{"body": b"abc", "more_body": True}, {"body": b"de"}], b"abcde"),
        (
            [{"body": b"abcd", "more_body": True}, {"body": b"efgh", "more_body": True}, {"body": b"never read"}],
            b"abcdefgh",
        ),
        ([{"body": b"ab", "more_body": True}, {"type": "http.disconnect"}], b"ab"),
        ([{}], b""),
    ],
)
async def test_request_read_stops_at_the_end_at_the_bound_or_at_a_disconnect(messages: list[Any], body: bytes) -> None:
    left = [{"type": "http.request", **message} for message in messages]

    async def receive() -> Any:
        return left.pop(0)

    assert await Request({"type": "http"}, receive).read(5) == body


async def test_request_without_receive_has_no_body() -> None:
    assert await Request({"type": "http"}).read(5) == b""


@pytest.mark.parametrize("how", ["disconnect", "error of the server", "end", "failure"])
async def test_response_of_chunks_closes_their_generator_however_it_ends(how: str) -> None:
    closed, is_sent, sent = asyncio.Event(), asyncio.Event(), asyncio.Queue[Any]()

    async def chunks() -> AsyncGenerator[bytes, None]:
        try:
            yield b"one"
            if how == "failure":
                raise ValueError("of the app")
            if how == "disconnect":
                await asyncio.Event().wait()
            yield b"two"
        finally:
            closed.set()

    async def receive() -> Any:
        if how != "disconnect":
            await asyncio.Event().wait()
        await is_sent.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if how == "error of the server" and message.get("body") == b"two":
            raise OSError("the browser is gone")
        await sent.put(message)
        if message.get("body"):
            is_sent.set()

    expectation = pytest.raises(ValueError, match="of the app") if how == "failure" else contextlib.nullcontext()
    with expectation:
        await asyncio.wait_for(Response(200, chunks())({"method": "GET"}, receive, send), PATIENCE)

    assert closed.is_set()
    bodies = [sent.get_nowait().get("body") for _ in range(sent.qsize())]
    assert bodies == [None, b"one", *((b"two", b"") if how == "end" else ())]
