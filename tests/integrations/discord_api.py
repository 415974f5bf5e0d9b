"""A Discord to use bots in, as far as the bots of these tests need it: https://discord.com/developers/docs."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Self

import attrs
import pytest
from aiohttp import web
from discord.gateway import DiscordWebSocket
from discord.http import Route
from yarl import URL

from tests.kit.servers import start_app
from tests.support import PATIENCE

BOT: dict[str, Any] = {"id": "99", "username": "bot", "discriminator": "0", "avatar": None, "bot": True}
APPLICATION: dict[str, Any] = {
    "id": "99",
    "name": "bot",
    "icon": None,
    "description": "",
    "bot_public": True,
    "verify_key": "",
    "flags": 0,
    "bot_require_code_grant": False,
    "owner": BOT,
    "team": None,
    "rpc_origins": [],
}
MESSAGE: dict[str, Any] = {
    "id": "7",
    "channel_id": "5",
    "author": BOT,
    "content": "",
    "timestamp": "2027-01-01T00:00:00Z",
    "type": 0,
    "edited_timestamp": None,
    "tts": False,
    "mention_everyone": False,
    "mentions": [],
    "mention_roles": [],
    "attachments": [],
    "embeds": [],
    "pinned": False,
}
CHANNEL: dict[str, Any] = {"id": "5", "type": 0, "name": "general", "position": 0, "permission_overwrites": []}
MEMBER: dict[str, Any] = {"roles": [], "joined_at": None, "deaf": False, "mute": False, "flags": 0, "permissions": "0"}
EPHEMERAL = 64
COMMAND, CLICK, SUBMIT = 2, 3, 5
DEFER, MODAL = 5, 9
LINK = 5


@attrs.frozen
class Answer:
    """An answer of the bot: the callback of an interaction, or a later message by its webhook."""

    payload: dict[str, Any]
    image: bytes | None = None

    @property
    def text(self) -> str:
        text: str = self.payload["content"]
        return text

    @property
    def is_ephemeral(self) -> bool:
        flags: int = self.payload.get("flags", 0)
        return bool(flags & EPHEMERAL)

    @property
    def _buttons(self) -> list[dict[str, Any]]:
        return [button for row in self.payload["components"] for button in row["components"]]

    @property
    def url(self) -> str:
        [url] = [button["url"] for button in self._buttons if button["style"] == LINK]
        return str(url)

    @property
    def button(self) -> str:
        """The id of the button that can be clicked."""
        [custom_id] = [button["custom_id"] for button in self._buttons if button["style"] != LINK]
        return str(custom_id)


class FakeDiscord:
    """A server of Discord's API and gateway. Tests act as users by `command`, `click` and `submit`."""

    def __init__(self) -> None:
        self.answers: asyncio.Queue[Answer] = asyncio.Queue()
        self.commands: list[dict[str, Any]] = []
        self.failing = False
        self.is_too_late = False
        self._socket: asyncio.Future[web.WebSocketResponse] = asyncio.get_running_loop().create_future()
        self._count = 0
        self._seen = 1

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/users/@me", self._give(BOT))
        app.router.add_get("/oauth2/applications/@me", self._give(APPLICATION))
        app.router.add_put("/applications/99/commands", self._take_commands)
        app.router.add_post("/interactions/{id}/{token}/callback", self._take_callback)
        app.router.add_post("/webhooks/99/{token}", self._take_message)
        app.router.add_get("/gateway/", self._talk)
        self._runner, url = await start_app(app)
        self.address = url.removeprefix("http://")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let discord.py talk to this server."""
        monkeypatch.setattr(Route, "BASE", f"http://{self.address}")
        monkeypatch.setattr(DiscordWebSocket, "DEFAULT_GATEWAY", URL(f"ws://{self.address}/gateway/"))

    async def command(self, user_id: int, name: str, *, in_server: bool = False) -> None:
        await self._act(user_id, COMMAND, {"id": "1", "name": name, "type": 1}, in_server=in_server)

    async def click(self, user_id: int, custom_id: str) -> None:
        await self._act(user_id, CLICK, {"custom_id": custom_id, "component_type": 2})

    async def submit(self, user_id: int, modal: Answer, text: str) -> None:
        [row] = modal.payload["components"]
        [field] = row["components"]
        filled = {"type": 4, "custom_id": field["custom_id"], "value": text}
        data = {"custom_id": modal.payload["custom_id"], "components": [{"type": 1, "components": [filled]}]}
        await self._act(user_id, SUBMIT, data)

    async def answer(self) -> Answer:
        """Return the bot's next message, which only the user can see."""
        answer = await asyncio.wait_for(self.answers.get(), PATIENCE)
        assert answer.is_ephemeral
        return answer

    async def modal(self) -> Answer:
        """Return the bot's next modal."""
        answer = await asyncio.wait_for(self.answers.get(), PATIENCE)
        assert "custom_id" in answer.payload
        return answer

    async def _act(self, user_id: int, kind: int, data: dict[str, Any], *, in_server: bool = False) -> None:
        self._count += 1
        user = {"id": str(user_id), "username": "user", "discriminator": "0", "avatar": None}
        interaction: dict[str, Any] = {
            "id": str(self._count),
            "application_id": "99",
            "type": kind,
            "token": f"token-{self._count}",
            "version": 1,
            "data": data,
            "locale": "en-US",
            "entitlements": [],
            "context": 0 if in_server else 1,
            "channel_id": "5",
            "channel": {"id": "5", "type": 0 if in_server else 1},
            "app_permissions": "0",
            "authorizing_integration_owners": {},
            "attachment_size_limit": 1,
        }
        if in_server:
            interaction |= {
                "guild_id": "6",
                "guild": {"id": "6"},
                "channel": CHANNEL,
                "member": MEMBER | {"user": user},
            }
        else:
            interaction["user"] = user
        if kind == CLICK:
            interaction["message"] = MESSAGE | {"channel": interaction["channel"]}
        await self._dispatch("INTERACTION_CREATE", interaction)

    async def _dispatch(self, event: str, data: dict[str, Any]) -> None:
        socket = await asyncio.wait_for(asyncio.shield(self._socket), PATIENCE)
        self._seen += 1
        await socket.send_json({"op": 0, "t": event, "s": self._seen, "d": data})

    def _give(self, data: dict[str, Any]) -> Any:
        async def handle(_: web.Request) -> web.Response:
            return _json(data)

        return handle

    async def _take_commands(self, request: web.Request) -> web.Response:
        self.commands = await request.json()
        fields = {"application_id": "99", "version": "1", "default_member_permissions": None}
        made = [{"id": str(number), **fields, **command} for number, command in enumerate(self.commands, 1)]
        return _json(made)

    async def _take_callback(self, request: web.Request) -> web.Response:
        answer = await request.json()
        if self.is_too_late:
            self.answers.put_nowait(Answer({"flags": EPHEMERAL}))
            return _json({"code": 10062, "message": "Unknown interaction"}, status=404)
        if answer["type"] == DEFER:
            assert answer["data"]["flags"] == EPHEMERAL
        else:
            self.answers.put_nowait(Answer(answer["data"]))
        interaction = {"id": request.match_info["id"], "type": 2}
        return _json({"interaction": interaction, "resource": {"type": answer["type"]}})

    async def _take_message(self, request: web.Request) -> web.Response:
        image = None
        if request.content_type == "multipart/form-data":
            form = await request.post()
            payload = json.loads(str(form["payload_json"]))
            file = form["files[0]"]
            assert isinstance(file, web.FileField)
            image = file.file.read()
        else:
            payload = await request.json()
        self.answers.put_nowait(Answer(payload, image))
        if self.failing:
            return _json({"code": 50027, "message": "Invalid Webhook Token"}, status=401)
        return _json(MESSAGE)

    async def _talk(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json({"op": 10, "d": {"heartbeat_interval": 60_000}, "s": None, "t": None})
        async for received in socket:
            sent = received.json()
            if sent["op"] == 1:
                await socket.send_json({"op": 11, "d": None, "s": None, "t": None})
            if sent["op"] == 2:
                ready = {"v": 10, "user": BOT, "guilds": [], "session_id": "s", "application": APPLICATION}
                ready["resume_gateway_url"] = f"ws://{self.address}/gateway/"
                await socket.send_json({"op": 0, "t": "READY", "s": 1, "d": ready})
                self._socket.set_result(socket)
        return socket


def _json(data: object, *, status: int = 200) -> web.Response:
    # discord.py recognizes JSON only if the content type has no charset.
    return web.Response(body=json.dumps(data).encode(), status=status, content_type="application/json")
