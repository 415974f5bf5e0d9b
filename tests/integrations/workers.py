"""A web app for several processes behind one port and one Valkey, in any framework; each answer names its process.

An ASGI app for ``uvicorn --workers 4 tests.integrations.workers:app``; for aiohttp, each process runs this module with
the port as its argument. The settings are environment variables.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from aiohttp import web

from openrouter_async.login import Grant, RedisStore
from tests.integrations.single_page import make_routes
from tests.integrations.support import integration, make_app

KIND = os.environ["KIND"]
HEADER = "X-Worker"
_ID = str(os.getpid())


async def on_login(request: Any, grant: Grant) -> Any:
    return integration(KIND).redirect(request, grant)


made = make_app(
    KIND,
    make_routes(KIND),
    callback_url=os.environ["APP_URL"] + "/callback/{state}",
    on_login=on_login,
    store=lambda: RedisStore.from_url(os.environ["REDIS_URL"], encryption_keys=os.environ["SECRET_KEY"]),
    exchange_path="/exchange",
)


async def app(scope: Any, receive: Any, send: Any) -> None:
    async def send_named(message: Any) -> None:
        if message["type"] == "http.response.start":
            message = message | {"headers": [*message["headers"], (HEADER.encode(), _ID.encode())]}
        await send(message)

    await made(scope, receive, send_named)


async def name_process(request: web.Request, response: web.StreamResponse) -> None:
    response.headers[HEADER] = _ID


if __name__ == "__main__":
    made.on_response_prepare.append(name_process)
    web.run_app(made, host="127.0.0.1", port=int(sys.argv[1]), reuse_port=True)
