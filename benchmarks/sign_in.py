"""Sign-ins, 200 at once: a FastAPI app with this library beside one by hand, which share a process.

Both apps are called by ASGI, without a web server, so that the CPU time is theirs. The exchanges go to a fake
OpenRouter on the loopback interface, in another process. Between start and callback, users consent, unmeasured.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import attrs
from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse

from benchmarks.measure import Block, quantile
from benchmarks.report import Section, Setup, Target, run_child, table
from benchmarks.stub import BODY, pin
from openrouter_async import Handler, OpenRouter, Response
from openrouter_async import Request as ClientRequest
from openrouter_async.integrations import fastapi as openrouter
from openrouter_async.login import AuthorizationFlow, Grant, MemoryStore
from openrouter_async.testing import FakeOpenRouter

BASELINE: Final = "hand-written"
OFFLINE: Final = "without the network"
APP_URL: Final = "http://localhost:8080"
MAX_OWN_CPU: Final = 1.0
"""Milliseconds of CPU that a sign-in may take without the network."""


@attrs.frozen(kw_only=True)
class Plan:
    """The measurement that a process carries out.

    Attributes:
        url: The base URL of the fake OpenRouter's API.
        at_once: Sign-ins that are under way at the same time.
        rounds: Blocks of each app.
    """

    url: str
    at_once: int
    rounds: int


def measure(setup: Setup) -> Section:
    """Compare the apps."""
    setup.say("sign-ins: beside an app by hand")
    with FakeOpenRouter() as fake:
        plan = Plan(url=fake.base_url, at_once=20 if setup.quick else 200, rounds=2 if setup.quick else 30)
        made: Mapping[str, Mapping[str, float]] = run_child("benchmarks.sign_in", plan)
    rows = [
        (
            name,
            f"{block['cpu'] * 1e3:.2f}",
            f"{block['ratio']:.2f}",
            f"{block['low']:.2f} to {block['high']:.2f}",
            *("" if name.endswith(OFFLINE) else f"{block[share] * 1e3:.0f}" for share in ("p50", "p99")),
        )
        for name, block in made.items()
    ]
    head = ["app", "CPU, ms", "/ hand-written", "in the rounds", "p50, ms", "p99, ms"]
    own = f"ours, {OFFLINE}"
    return Section(
        f"Sign-ins, {plan.at_once} at once",
        f"{table(head, rows)}\n\n{plan.rounds} rounds.",
        [Target(f"CPU of a sign-in, {own}", made[own]["cpu"] * 1e3, MAX_OWN_CPU, unit=" ms")],
    )


class Browser:
    """A browser of one user, which calls an ASGI app.

    Args:
        app: The app.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._cookies: dict[str, str] = {}

    async def open(self, address: str) -> str:
        """Open an address of the app, and return the address that it leads to."""
        url = urlsplit(address)
        cookie = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": url.scheme or "http",
            "path": url.path,
            "raw_path": url.path.encode(),
            "query_string": url.query.encode(),
            "root_path": "",
            "headers": [(b"host", b"localhost:8080"), (b"accept", b"text/html"), (b"cookie", cookie.encode())],
            "client": ("127.0.0.1", 50_000),
            "server": ("127.0.0.1", 8080),
            "state": {},
        }
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        headers: list[tuple[str, str]] = [(name.decode(), value.decode()) for name, value in sent[0]["headers"]]
        if sent[0]["status"] != 303:
            raise RuntimeError(f"{address} was answered by {sent[0]['status']}: {sent[1:]}")
        for name, value in headers:
            if name == "set-cookie":
                key, _, rest = value.partition("=")
                self._cookies[key] = rest.partition(";")[0]
        return dict(headers)["location"]


class App:
    """An app, and what its sign-ins cost.

    Args:
        app: The ASGI app.
        offline: The number that the code of a callback starts with, if nobody has to consent; None otherwise.
    """

    def __init__(self, app: Any, *, is_offline: bool = False) -> None:
        self._app = app
        self._is_offline = is_offline

    async def run_block(self, session: aiohttp.ClientSession, at_once: int) -> Block:
        """Sign in a number of users at once, from the start of each login to the response that signs the user in."""
        browsers = [Browser(self._app) for _ in range(at_once)]
        cpu, first = await _at_once([browser.open("/login?next=/done") for browser in browsers])
        urls = [url for url, _ in first]
        callbacks = [_invent(url) for url in urls] if self._is_offline else await _consent(session, urls)
        gc.collect()
        more, second = await _at_once(
            [browser.open(callback) for browser, callback in zip(browsers, callbacks, strict=True)]
        )
        if {location for location, _ in second} != {"/done"}:
            raise RuntimeError("a user was not led back")
        latencies = sorted(start + end for (_, start), (_, end) in zip(first, second, strict=True))
        cpu += more
        return Block(cpu / at_once, sum(latencies) / at_once, quantile(latencies, 0.5), quantile(latencies, 0.99))


async def _at_once(work: Sequence[Any]) -> tuple[float, list[tuple[str, float]]]:
    """Return the CPU time of all together, and for each its result and when it came."""
    clock = time.perf_counter
    started, cpu = clock(), time.process_time()

    async def timed(one: Any) -> tuple[str, float]:
        return await one, clock() - started

    results = await asyncio.gather(*map(timed, work))
    return time.process_time() - cpu, results


async def _consent(session: aiohttp.ClientSession, urls: Sequence[str]) -> list[str]:
    async def consent(url: str) -> str:
        async with session.post(url, data={"decision": "authorize"}, allow_redirects=False) as response:
            return response.headers["Location"]

    return await asyncio.gather(*map(consent, urls))


def _invent(url: str) -> str:
    callback = dict(part.split("=", 1) for part in urlsplit(url).query.split("&"))["callback_url"]
    return f"{callback.replace('%3A', ':').replace('%2F', '/')}?code=auth_code_{random.getrandbits(64):x}"


async def answer_at_once(request: ClientRequest, call_next: Handler) -> Response:
    """Answer an exchange as OpenRouter does, without sending it; a middleware."""
    return Response(status_code=200, headers={"Content-Type": "application/json"}, body=BODY, elapsed=0.0)


def make_app(url: str, **options: Any) -> FastAPI:
    """Make an app with a login by this library."""

    async def on_login(request: Request, grant: Grant) -> RedirectResponse:
        return RedirectResponse(grant.return_to or "/", 303)

    app = FastAPI()
    openrouter.setup(
        app,
        callback_url=f"{APP_URL}/callback/{{state}}",
        on_login=on_login,
        client=lambda: OpenRouter(None, base_url=url, **options),
        auth_url=url.removesuffix("/api/v1") + "/auth",
        store=MemoryStore(),
    )
    return app


def make_app_by_hand(url: str) -> FastAPI:
    """Make the app of `benchmarks.sites`, which reads its settings when it is imported."""
    os.environ |= {"OPENROUTER_BASE_URL": url, "APP_URL": APP_URL}
    app: FastAPI = importlib.import_module("benchmarks.sites.redirect").app
    return app


class FlowAlone:
    """An `AuthorizationFlow` as an app without a framework: what is left if FastAPI's part is taken away.

    Args:
        client: The client, which sends nothing.
    """

    def __init__(self, client: OpenRouter) -> None:
        self._flow = AuthorizationFlow(client, callback_url=f"{APP_URL}/callback/{{state}}")

    async def run_block(self, session: aiohttp.ClientSession, at_once: int) -> Block:
        """Start and finish a number of logins."""
        started, cpu = time.perf_counter(), time.process_time()
        for _ in range(at_once):
            pending = await self._flow.start(binding="browser")
            await self._flow.finish(_invent(pending.url), binding="browser")
        cpu, elapsed = time.process_time() - cpu, time.perf_counter() - started
        return Block(cpu / at_once, elapsed / at_once, elapsed / at_once, elapsed / at_once)


@contextlib.asynccontextmanager
async def running(plan: Plan) -> AsyncIterator[dict[str, App | FlowAlone]]:
    """Run the apps, each with its lifespan."""
    apps = {
        BASELINE: make_app_by_hand(plan.url),
        "ours": make_app(plan.url),
        f"ours, {OFFLINE}": make_app(plan.url, middlewares=[answer_at_once]),
    }
    async with contextlib.AsyncExitStack() as cleanup:
        made: dict[str, App | FlowAlone] = {}
        for name, app in apps.items():
            await cleanup.enter_async_context(app.router.lifespan_context(app))
            made[name] = App(app, is_offline=name.endswith(OFFLINE))
        client = OpenRouter(None, base_url=plan.url, middlewares=[answer_at_once])
        made[f"ours, the flow alone, {OFFLINE}"] = FlowAlone(await cleanup.enter_async_context(client))
        yield made


async def compare(plan: Plan) -> dict[str, dict[str, float]]:
    """Return the medians of each app's blocks, and of their ratios to those of the app by hand."""
    blocks: list[dict[str, Block]] = []
    async with running(plan) as apps, aiohttp.ClientSession() as session:
        for name in apps:
            await apps[name].run_block(session, plan.at_once)
        for _ in range(plan.rounds):
            order = random.sample(list(apps), len(apps))
            made = {}
            for name in order:
                gc.collect()
                made[name] = await apps[name].run_block(session, plan.at_once)
            blocks.append(made)
        return {name: _medians(blocks, name) for name in apps}


def _medians(blocks: Sequence[Mapping[str, Block]], name: str) -> dict[str, float]:
    ratios = sorted(made[name].cpu / made[BASELINE].cpu for made in blocks)
    figures = {
        field.name: statistics.median(getattr(made[name], field.name) for made in blocks)
        for field in attrs.fields(Block)
    }
    return figures | {"ratio": statistics.median(ratios), "low": ratios[0], "high": ratios[-1]}


def main() -> None:
    pin(to_server=False)
    plan = Plan(**json.loads(sys.argv[1]))
    with tempfile.TemporaryDirectory() as folder:
        # The app by hand serves this folder.
        os.mkdir(f"{folder}/pages")
        os.chdir(folder)
        made = asyncio.run(compare(plan))
    print(json.dumps(made))


if __name__ == "__main__":
    main()
