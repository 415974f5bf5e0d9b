"""Signing users in from Discord, by discord.py; needs the extra ``discord``.

::

    class Bot(discord.Client):
        async def setup_hook(self) -> None:
            add_commands(self.tree, login)
            await self.tree.sync()

All answers are ephemeral: in a server, too, nobody but the user sees them. The code is asked for in a modal, which
nobody sees either. discord.py itself logs whatever Discord sends, codes and tokens included, when its logger
``discord`` is set to DEBUG; `discord.Client.run` sets it to INFO.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Awaitable
from typing import Any, Final

from openrouter_async.errors import OpenRouterError
from openrouter_async.integrations.bots import BotLogin, BotTexts

try:
    import discord
    from discord import app_commands, ui
except ImportError as missing:
    raise ImportError("this needs discord.py: pip install 'openrouter-async[discord]'") from missing

logger = logging.getLogger(__name__)

CODE_BUTTON: Final = "openrouter-login-code"
"""The ``custom_id`` of the button that asks for the code."""

_MODAL_TIMEOUT: Final = 600.0
_TITLE_LENGTH: Final = 45


def add_commands(
    tree: app_commands.CommandTree[Any],
    login: BotLogin,
    *,
    texts: BotTexts | None = None,
    qr_code: bool = False,
    guild: discord.abc.Snowflake | None = None,
) -> None:
    """Add the commands ``/login`` and ``/logout``, and a button whose clicks are understood after a restart, too.

    It needs the loop that the bot runs in, so call it in ``setup_hook``; the caller syncs the tree.

    Args:
        tree: The commands of the bot.
        login: What signs users in. A user's id is the number that Discord gives to the user.
        texts: What the bot says.
        qr_code: Whether the URL is shown as a QR code, too.
        guild: The server that the commands are for; None for all of them, and for direct messages.
    """
    commands = _Commands(login, BotTexts() if texts is None else texts, qr_code=qr_code)
    for name, description, callback in (
        ("login", commands.texts.login_description, commands.begin),
        ("logout", commands.texts.logout_description, commands.logout),
    ):
        tree.add_command(app_commands.Command(name=name, description=description, callback=callback), guild=guild)
    tree.client.add_view(_LoginView(commands))


class _Commands:
    def __init__(self, login: BotLogin, texts: BotTexts, *, qr_code: bool) -> None:
        self.texts = texts
        self._login = login
        self._qr_code = qr_code

    async def begin(self, interaction: discord.Interaction) -> None:
        # Discord waits three seconds for an answer, which a shelf or a store may need.
        await interaction.response.defer(ephemeral=True, thinking=True)
        try:
            prompt = await self._login.begin(interaction.user.id)
        except OpenRouterError as failure:
            await interaction.followup.send(self.texts.error(failure), ephemeral=True)
            return
        files = [discord.File(io.BytesIO(await prompt.qr_code()), "login.png")] if self._qr_code else []
        text = self.texts.login if prompt.headless else self.texts.web_login
        await interaction.followup.send(text, view=_LoginView(self, prompt.url), files=files, ephemeral=True)

    async def ask_for_code(self, interaction: discord.Interaction) -> None:
        await interaction.response.send_modal(_CodeModal(self))

    async def complete(self, interaction: discord.Interaction, code: str) -> None:
        completing = self._login.complete(interaction.user.id, code)
        del code
        await self._say(interaction, completing, self.texts.done)

    async def logout(self, interaction: discord.Interaction) -> None:
        await self._say(interaction, self._login.logout(interaction.user.id), self.texts.logged_out)

    async def _say(self, interaction: discord.Interaction, doing: Awaitable[object], done: str) -> None:
        await interaction.response.defer(ephemeral=True, thinking=True)
        try:
            await doing
        except OpenRouterError as failure:
            done = self.texts.error(failure)
        await interaction.followup.send(done, ephemeral=True)


class _LoginView(ui.View):
    """The buttons below the way to the page. With a URL they are shown, without one they are listened to."""

    def __init__(self, commands: _Commands, url: str | None = None) -> None:
        super().__init__(timeout=None)
        if url is not None:
            self.add_item(ui.Button(label=commands.texts.button, url=url))
        self.add_item(_CodeButton(commands))
        if url is not None:
            # discord.py would hold each view that it has sent, for ever.
            self.stop()


class _CodeButton(ui.Button[_LoginView]):
    def __init__(self, commands: _Commands) -> None:
        super().__init__(label=commands.texts.code_button, custom_id=CODE_BUTTON)
        self._commands = commands

    async def callback(self, interaction: discord.Interaction) -> None:
        await self._commands.ask_for_code(interaction)


class _CodeModal(ui.Modal):
    def __init__(self, commands: _Commands) -> None:
        super().__init__(title=commands.texts.button[:_TITLE_LENGTH], timeout=_MODAL_TIMEOUT)
        self._commands = commands
        self._code: ui.TextInput[_CodeModal] = ui.TextInput(label=commands.texts.code[:_TITLE_LENGTH])
        self.add_item(self._code)

    async def on_submit(self, interaction: discord.Interaction) -> None:
        await self._commands.complete(interaction, self._code.value)

    async def on_error(  # type: ignore[override] # the base class of all views has one more argument
        self, interaction: discord.Interaction, error: Exception
    ) -> None:
        # What discord.py would log shows the modal.
        logger.warning("a code could not be answered: %s", type(error).__name__)
