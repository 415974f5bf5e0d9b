"""A Slack to talk to bots in, as far as the bots of these tests need it: Socket Mode and the Web API.

See https://docs.slack.dev/apis/events-api/using-socket-mode.
"""

from __future__ import annotations

import asyncio
from typing import Any, Self

from aiohttp import web
from slack_sdk.web.async_client import AsyncWebClient

from tests.kit.servers import start_app
from tests.support import PATIENCE

TOKEN = "xoxb-bot-token"
APP_TOKEN = "xapp-app-token"
TEAM = "T1"


class FakeSlack:
    """A server of Slack's API. Tests give commands as users by `command`, and read the bot's answers from `answer`."""

    def __init__(self) -> None:
        self._answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._acknowledged: asyncio.Queue[str] = asyncio.Queue()
        self._socket: asyncio.Future[web.WebSocketResponse] = asyncio.get_running_loop().create_future()
        self._count = 0

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/api/auth.test", self._test)
        app.router.add_post("/api/apps.connections.open", self._open)
        app.router.add_get("/socket", self._serve)
        app.router.add_post("/respond", self._respond)
        self._runner, self.url = await start_app(app)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def make_client(self) -> AsyncWebClient:
        return AsyncWebClient(TOKEN, base_url=f"{self.url}/api/")

    async def command(self, user_id: str, command: str, text: str = "") -> None:
        """Give a command, which the bot has to acknowledge."""
        self._count += 1
        envelope = f"envelope-{self._count}"
        payload = {"team_id": TEAM, "user_id": user_id, "channel_id": "C1", "command": command, "text": text}
        payload |= {"response_url": f"{self.url}/respond", "trigger_id": "1", "api_app_id": "A1", "token": "t"}
        socket = await asyncio.wait_for(self._socket, PATIENCE)
        await socket.send_json(
            {"type": "slash_commands", "envelope_id": envelope, "payload": payload, "accepts_response_payload": True}
        )
        while await asyncio.wait_for(self._acknowledged.get(), PATIENCE) != envelope:
            pass

    async def answer(self) -> dict[str, Any]:
        """The next message of the bot."""
        return await asyncio.wait_for(self._answers.get(), PATIENCE)

    async def _test(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == f"Bearer {TOKEN}"
        return web.json_response({"ok": True, "team_id": TEAM, "user_id": "U0", "bot_id": "B1", "url": self.url})

    async def _open(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == f"Bearer {APP_TOKEN}"
        return web.json_response({"ok": True, "url": self.url.replace("http:", "ws:") + "/socket"})

    async def _serve(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json({"type": "hello", "num_connections": 1})
        self._socket.set_result(socket)
        async for message in socket:
            self._acknowledged.put_nowait(message.json()["envelope_id"])
        return socket

    async def _respond(self, request: web.Request) -> web.Response:
        self._answers.put_nowait(await request.json())
        return web.Response(text="ok")
