"""A Telegram bot whose users sign in with OpenRouter. Each user's key is stored in a file of its own.

pip install 'openrouter-async[aiogram]'
TELEGRAM_BOT_TOKEN=... python telegram_bot.py
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from aiogram import Bot, Dispatcher, Router
from aiogram.filters import Command
from aiogram.types import Message

from openrouter_async import OpenRouter
from openrouter_async.integrations.aiogram import create_router
from openrouter_async.integrations.bots import BotLogin
from openrouter_async.login import AuthorizationFlow, Grant
from openrouter_async.sinks import FileSink


class Keys:
    """The keys of the users, by their ids."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, user_id: int) -> FileSink:
        return FileSink(self._folder / f"{user_id}.json")

    async def store(self, user_id: int, grant: Grant) -> None:
        await self.of(user_id).save(grant.key, user_id=grant.user_id)

    async def forget(self, user_id: int) -> None:
        await self.of(user_id).delete()


def make_dispatcher(flow: AuthorizationFlow, keys: Keys) -> Dispatcher:
    login = BotLogin(flow, on_login=keys.store, on_logout=keys.forget, key_label="Example bot")
    app = Router()

    @app.message(Command("status"))
    async def status(message: Message) -> None:
        stored = await keys.of(message.chat.id).load()
        await message.answer("You are not signed in: /login" if stored is None else f"You are {stored.user_id}.")

    dispatcher = Dispatcher()
    dispatcher.include_routers(create_router(login), app)
    dispatcher.shutdown.register(login.aclose)
    return dispatcher


async def main() -> None:
    async with OpenRouter() as client:
        dispatcher = make_dispatcher(AuthorizationFlow(client), Keys(Path("keys")))
        await dispatcher.start_polling(Bot(os.environ["TELEGRAM_BOT_TOKEN"]))


if __name__ == "__main__":
    asyncio.run(main())
