"""A Discord bot whose users sign in with OpenRouter. Each user's key is stored in a file of its own.

pip install 'openrouter-async[discord]'
DISCORD_BOT_TOKEN=... python discord_bot.py
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import discord
from discord import app_commands

from openrouter_async import OpenRouter
from openrouter_async.integrations.bots import BotLogin
from openrouter_async.integrations.discord import add_commands
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


class Bot(discord.Client):
    def __init__(self, flow: AuthorizationFlow, keys: Keys) -> None:
        super().__init__(intents=discord.Intents.none())
        self.login_flow = BotLogin(flow, on_login=keys.store, on_logout=keys.forget, key_label="Example bot")
        self.tree = app_commands.CommandTree(self)
        self.keys = keys

    async def setup_hook(self) -> None:
        add_commands(self.tree, self.login_flow)

        @self.tree.command(description="Whether you are signed in")
        async def status(interaction: discord.Interaction) -> None:
            stored = await self.keys.of(interaction.user.id).load()
            text = "You are not signed in: /login" if stored is None else f"You are {stored.user_id}."
            await interaction.response.send_message(text, ephemeral=True)

        await self.tree.sync()

    async def close(self) -> None:
        await super().close()
        await self.login_flow.aclose()


async def main() -> None:
    logging.basicConfig(level=logging.INFO)
    async with OpenRouter() as client, Bot(AuthorizationFlow(client), Keys(Path("keys"))) as bot:
        await bot.start(os.environ["DISCORD_BOT_TOKEN"])


if __name__ == "__main__":
    asyncio.run(main())
