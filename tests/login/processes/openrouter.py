"""The fake OpenRouter in a process of its own, with a route that returns the requests that it received."""

from __future__ import annotations

import asyncio
import json

from aiohttp import web

from openrouter_async.testing import FakeOpenRouter
from tests.kit.servers import start_app
from tests.login.processes import until_terminated


def make_app(fake: FakeOpenRouter) -> web.Application:
    async def consent(request: web.Request) -> web.Response:
        # The code is used up at once, and the answer takes its time: a worker can die in between.
        return web.Response(
            text=fake.consent(request.query["url"], user_id=request.query["user_id"], fault="delay-20ms")
        )

    async def tell(_: web.Request) -> web.Response:
        return web.json_response(
            {
                "requests": [request.body["code"] for request in fake.requests],
                "keys": {issued.code: issued.key for issued in fake.issued_keys},
            }
        )

    app = web.Application()
    app.router.add_get("/consent", consent)
    app.router.add_get("/tell", tell)
    return app


async def main() -> None:
    async with FakeOpenRouter() as fake:
        runner, address = await start_app(make_app(fake))
        print(json.dumps({"base_url": fake.base_url, "auth_url": fake.auth_url, "address": address}), flush=True)
        await until_terminated()
        await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
