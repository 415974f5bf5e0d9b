"""Tests of features that only one framework has."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import schemathesis
from aiohttp import web
from fastapi import Depends, FastAPI, HTTPException
from hypothesis import HealthCheck, given, settings
from schemathesis.core.result import Ok
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from openrouter_async import OpenRouter
from openrouter_async.integrations import aiohttp as for_aiohttp
from openrouter_async.integrations import fastapi as for_fastapi
from openrouter_async.integrations import starlette as for_starlette
from openrouter_async.login import AuthorizationFlow, Grant
from openrouter_async.testing import FakeOpenRouter
from tests.integrations.support import Site, Visitor, bound_socket, running, serve_asgi, serve_in_thread
from tests.support import STRESS


async def no_hook(request: Any, grant: Grant) -> None:
    pass


# aiohttp.


async def test_aiohttp_hook_may_raise_its_response(fake: FakeOpenRouter) -> None:
    async def on_login(request: web.Request, grant: Grant) -> web.StreamResponse:
        raise web.HTTPSeeOther("/welcome")

    async with running("aiohttp", fake, on_login=on_login) as (site, _), Visitor(site) as visitor:
        page = await visitor.open(await visitor.consent())

    assert page.location == "/welcome"
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert page.headers["Cache-Control"] == "no-store"


async def test_aiohttp_app_has_client_and_flow_under_typed_keys(fake: FakeOpenRouter) -> None:
    async with running("aiohttp", fake) as (_, app):
        assert isinstance(app[for_aiohttp.CLIENT], OpenRouter)
        assert isinstance(app[for_aiohttp.FLOW], AuthorizationFlow)


# Starlette.


async def test_starlette_lifespan_opens_the_login_and_keeps_the_apps_state(fake: FakeOpenRouter) -> None:
    events: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        events.append("begin")
        yield {"database": "here"}
        events.append("end")

    class Client(OpenRouter):
        async def aclose(self, *, timeout: float = 10.0) -> None:
            events.append("close")
            await super().aclose(timeout=timeout)

    app = Starlette(lifespan=lifespan)
    for_starlette.setup(
        app,
        callback_url="http://localhost/callback/{state}",
        on_login=no_hook,
        client=lambda: Client(None, base_url=fake.base_url),
    )
    for _ in range(2):
        async with for_starlette.lifespan(app) as state:
            assert state == {"database": "here"}

    assert events == ["begin", "close", "end"] * 2


# FastAPI.


def fastapi_app(fake_url: str = "http://127.0.0.1:9", **options: Any) -> FastAPI:
    app = FastAPI()
    for_fastapi.setup(
        app,
        callback_url="http://localhost/callback/{state}",
        on_login=no_hook,
        client=lambda: OpenRouter(None, base_url=fake_url + "/api/v1"),
        auth_url=fake_url + "/auth",
        **options,
    )
    return app


def test_fastapi_openapi_describes_all_routes_with_models() -> None:
    description = fastapi_app(exchange_path="/exchange", logout_path="/logout").openapi()
    paths = description["paths"]

    assert {path: list(operations) for path, operations in paths.items()} == {
        "/login": ["get", "post"],
        "/callback/{state}": ["get"],
        "/login/status/{login}": ["get", "delete"],
        "/login/complete": ["post"],
        "/exchange": ["post"],
        "/logout": ["post"],
    }
    start, finish = paths["/login"]["get"], paths["/callback/{state}"]["get"]
    assert [(p["in"], p["name"], p["required"]) for p in start["parameters"]] == [
        ("query", "next", False),
        ("query", "display", False),
    ]
    assert [(p["in"], p["name"], p["required"]) for p in finish["parameters"]] == [
        ("path", "state", True),
        ("query", "code", False),
        ("query", "state", False),
        ("query", "error", False),
    ]
    assert set(finish["responses"]) == {"200", "303", "400", "403", "409", "410", "429", "500", "502", "503"}
    for operation in (start, finish):
        responses = operation["responses"]
        assert "content" not in responses["303"]
        assert responses["303"]["headers"]["Location"]["schema"] == {"type": "string"}
    models = {
        operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        for operations in paths.values()
        for operation in operations.values()
        if "303" not in operation["responses"]
    }
    assert models == {"StartedLogin", "LoginStatus", "FinishedLogin", "SignedOut"}
    assert models < set(description["components"]["schemas"])
    operations = [operation for operations in paths.values() for operation in operations.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    assert all(operation["tags"] == ["sign-in"] for operation in operations)


def test_fastapi_openapi_without_a_state_in_the_path_describes_that() -> None:
    app = FastAPI()
    for_fastapi.setup(
        app, callback_url="https://app.example/callback", login_path=None, on_login=no_hook, client=OpenRouter
    )
    paths = app.openapi()["paths"]
    assert list(paths) == ["/callback"]
    assert [p["in"] for p in paths["/callback"]["get"]["parameters"]] == ["query"] * 3


def test_fastapi_login_without_routes_describes_none() -> None:
    app = FastAPI()
    for_fastapi.setup(
        app, callback_url="https://app.example/callback", login_path=None, callback_path=None, on_login=no_hook
    )
    assert app.openapi()["paths"] == {}


@pytest.mark.hypothesis
@pytest.mark.unmeasured
def test_fastapi_any_request_is_answered_as_its_openapi_describes() -> None:
    app = fastapi_app(exchange_path="/exchange", logout_path="/logout")
    schema = schemathesis.openapi.from_dict(app.openapi())
    schema.validate()
    statuses: Counter[int] = Counter()
    with serve_in_thread(app) as url:
        for found in schema.get_all_operations():
            assert isinstance(found, Ok)

            @settings(suppress_health_check=list(HealthCheck), max_examples=400 if STRESS else 15)
            @given(case=found.ok().as_strategy())
            def check(case: schemathesis.Case[Any]) -> None:
                response = case.call(base_url=url, allow_redirects=False)
                statuses[response.status_code] += 1
                answer = case.operation.definition.raw["responses"][str(response.status_code)]
                (kind,) = response.headers.get("content-type", [""])
                assert kind.partition(";")[0] in answer.get("content", {"": None})
                assert ("location" in response.headers) == ("Location" in answer.get("headers", ()))

            check()
    assert {303, 400, 403, 404} <= set(statuses)


async def test_fastapi_dependencies_guard_every_route_in_both_spellings(fake: FakeOpenRouter) -> None:
    def refuse() -> None:
        raise HTTPException(401)

    options: dict[str, Any] = {
        "exchange_path": "/exchange",
        "logout_path": "/logout",
        "dependencies": [Depends(refuse)],
    }
    listener, url = bound_socket()
    app = fastapi_app(fake.url, **options)
    async with serve_asgi(app, listener), Visitor(Site(name="fastapi", url=url, fake=fake)) as visitor:
        for path, operations in app.openapi()["paths"].items():
            for method in operations:
                for spelling in (path, path + "/"):
                    assert (await visitor.open(spelling, method=method.upper())).status == 401


async def test_fastapi_dependencies_give_client_and_flow_without_parameters(fake: FakeOpenRouter) -> None:
    app = fastapi_app(fake.url)
    seen: list[Any] = []

    @app.post("/bots/{bot}/connect", status_code=303, response_class=Response)
    async def connect(request: Request, bot: int, flow: for_fastapi.Flow, client: for_fastapi.Client) -> Response:
        seen.extend((flow, client))
        return await for_fastapi.start(request, context={"bot": bot})

    listener, url = bound_socket()
    async with serve_asgi(app, listener), Visitor(Site(name="fastapi", url=url, fake=fake)) as visitor:
        page = await visitor.open("/bots/7/connect", method="POST")

    assert page.location.startswith(fake.auth_url)
    assert isinstance(seen[0], AuthorizationFlow)
    assert isinstance(seen[1], OpenRouter)
    parameters = app.openapi()["paths"]["/bots/{bot}/connect"]["post"]["parameters"]
    assert [parameter["name"] for parameter in parameters] == ["bot"]
