"""A Telegram to talk to bots in, as far as the bots of these tests need it: https://core.telegram.org/bots/api."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any, Self

import attrs
from aiogram import Bot
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.types import Update
from aiohttp import web

from tests.kit.servers import start_app
from tests.support import PATIENCE

TOKEN = "42:telegram-token"
BOT = {"id": 42, "is_bot": True, "first_name": "Bot", "username": "the_bot"}


@attrs.frozen
class Call:
    """A call that the bot made."""

    method: str
    fields: dict[str, Any]

    @property
    def text(self) -> str:
        text: str = self.fields.get("text") or self.fields["caption"]
        return text

    @property
    def url(self) -> str:
        """Where the button leads."""
        [[button]] = json.loads(self.fields["reply_markup"])["inline_keyboard"]
        url: str = button["url"]
        return url


class FakeTelegram:
    """A server of the bot API. Tests talk as users by `say`, and read the bot's answers from `answer`."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.failing: set[str] = set()
        self._answers: asyncio.Queue[Call] = asyncio.Queue()
        self._updates: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._count = 0

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post(f"/bot{TOKEN}/{{method}}", self._handle)
        self._runner, self.url = await start_app(app)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        # aiogram remembers the last updates, whose dates pydantic cannot free any more when the interpreter ends.
        Update.event_type.fget.cache_clear()  # type: ignore[attr-defined]

    def make_bot(self) -> Bot:
        return Bot(TOKEN, session=AiohttpSession(api=TelegramAPIServer.from_base(self.url)))

    def say(self, user_id: int, text: str | None, *, group: bool = False, entity: str | None = None) -> int:
        """Send a message; without a text it is a picture. All of it may be an entity, such as a mention."""
        self._count += 1
        chat = {"id": -100, "type": "supergroup", "title": "G"} if group else {"id": user_id, "type": "private"}
        message: dict[str, Any] = {"message_id": self._count, "date": int(time.time()), "chat": chat}
        message["from"] = {"id": user_id, "is_bot": False, "first_name": "User"}
        if text is None:
            message["photo"] = []
        else:
            message["text"] = text
            if text.startswith("/"):
                message["entities"] = [{"type": "bot_command", "offset": 0, "length": len(text.split()[0])}]
            elif entity is not None:
                message["entities"] = [{"type": entity, "offset": 0, "length": len(text)}]
        self._updates.put_nowait({"update_id": self._count, "message": message})
        return self._count

    async def answer(self) -> Call:
        """The next message of the bot, also one that it could not send."""
        return await asyncio.wait_for(self._answers.get(), PATIENCE)

    @property
    def deleted(self) -> list[int]:
        """The messages that the bot deleted."""
        return [int(call.fields["message_id"]) for call in self.calls if call.method == "deleteMessage"]

    async def _next_updates(self, timeout: float) -> list[dict[str, Any]]:
        try:
            return [await asyncio.wait_for(self._updates.get(), timeout)]
        except TimeoutError:
            return []

    async def _handle(self, request: web.Request) -> web.Response:
        method = request.match_info["method"]
        fields: dict[str, Any] = {}
        for name, value in (await request.post()).items():
            fields[name] = value.file.read() if isinstance(value, web.FileField) else value
        if method == "getUpdates":
            return web.json_response({"ok": True, "result": await self._next_updates(float(fields.get("timeout", 0)))})
        call = Call(method, fields)
        self.calls.append(call)
        if method in ("sendMessage", "sendPhoto"):
            self._answers.put_nowait(call)
        if method in self.failing:
            error = {"ok": False, "error_code": 400, "description": "Bad Request: it cannot be done"}
            return web.json_response(error, status=400)
        if method == "getMe":
            return web.json_response({"ok": True, "result": BOT})
        if method in ("deleteMessage", "deleteWebhook"):
            return web.json_response({"ok": True, "result": True})
        chat = {"id": int(fields["chat_id"]), "type": "private"}
        return web.json_response({"ok": True, "result": {"message_id": 1000, "date": 1, "chat": chat}})
