"""A worker of a web app: it starts logins and finishes those that others started."""

from __future__ import annotations

import asyncio
import sys

from aiohttp import web

from openrouter_async import Handler, OpenRouter, Request, Response
from openrouter_async.errors import OpenRouterError
from openrouter_async.login import AuthorizationFlow, RedisStore
from tests.kit.servers import start_app
from tests.login.processes import until_terminated

LATENCY = 0.02


async def be_far_away(request: Request, call_next: Handler) -> Response:
    """Delay the exchange, so that the worker can be killed during it."""
    await asyncio.sleep(LATENCY)
    return await call_next(request)


def make_app(flow: AuthorizationFlow) -> web.Application:
    async def start(request: web.Request) -> web.Response:
        pending = await flow.start(context=int(request.query["user"]), binding=request.query["browser"])
        return web.json_response({"url": pending.url})

    async def finish(request: web.Request) -> web.Response:
        try:
            grant = await flow.finish(str(request.rel_url), binding=request.cookies["browser"])
        except OpenRouterError as error:
            return web.json_response(
                {"error": type(error).__name__, "outcome": error.outcome, "message": error.user_message}
            )
        return web.json_response({"key": grant.key, "user_id": grant.user_id, "context": grant.context})

    app = web.Application()
    app.router.add_get("/start", start)
    app.router.add_get("/callback/{state}", finish)
    return app


async def main(redis_url: str, keys: str, base_url: str, auth_url: str, lease: str) -> None:
    store = RedisStore.from_url(redis_url, encryption_keys=keys)
    async with OpenRouter(None, base_url=base_url, attempt_middlewares=[be_far_away]) as client:
        flow = AuthorizationFlow(
            client,
            callback_url="https://app.example/callback/{state}",
            auth_url=auth_url,
            store=store,
            claim_ttl=float(lease),
        )
        runner, address = await start_app(make_app(flow))
        print(address, flush=True)
        await until_terminated()
        await runner.cleanup()
        await flow.aclose()
    await store.aclose()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
