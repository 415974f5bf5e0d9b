"""Sign-in from Discord, by discord.py; needs the extra ``discord``.

::

    class Bot(discord.Client):
        async def setup_hook(self) -> None:
            add_commands(self.tree, login)
            await self.tree.sync()

All answers are ephemeral: nobody but the user sees them, not even in a server. The code is entered in a modal, which is
private as well. discord.py itself logs everything that Discord sends, codes and tokens included, when its logger
``discord`` is set to DEBUG; `discord.Client.run` sets it to INFO.
"""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from openrouter_async.errors import OpenRouterError
from openrouter_async.events import Event
from openrouter_async.integrations.bots import BotLogin, BotTexts
from openrouter_async.integrations.bots._prompts import answer_to

try:
    import discord
    from discord import app_commands, ui
except ImportError as missing:
    raise ImportError("this needs discord.py: pip install 'openrouter-async[discord]'") from missing

__all__ = ["add_commands"]

_logger = logging.getLogger(__name__)

_T = TypeVar("_T")

# The `custom_id` of the button that asks for the code, and of the one that starts a new login after one that failed.
_CODE_BUTTON: Final = "openrouter-login-code"
_START_BUTTON: Final = "openrouter-login-start"
_MODAL_TIMEOUT: Final = 600.0
_MAX_TITLE_LENGTH: Final = 45


def add_commands(
    tree: app_commands.CommandTree[Any],
    login: BotLogin,
    *,
    texts: BotTexts | None = None,
    qr_code: bool = False,
    guild: discord.abc.Snowflake | None = None,
) -> None:
    """Add the commands ``/login`` and ``/logout``, and buttons that still work after a restart of the bot.

    Call it in ``setup_hook``, as it needs the running event loop; the caller syncs the tree.

    Args:
        tree: The commands of the bot.
        login: Signs the users in, by their Discord ids.
        texts: The texts of the bot.
        qr_code: Whether the URL is also shown as a QR code.
        guild: The server that the commands are for; None for all servers and for direct messages.
    """
    commands = _Commands(login, BotTexts() if texts is None else texts, qr_code=qr_code)
    for name, description, callback in (
        ("login", commands.texts.login_description, commands.start),
        ("logout", commands.texts.logout_description, commands.logout),
    ):
        tree.add_command(app_commands.Command(name=name, description=description, callback=callback), guild=guild)
    listener = ui.View(timeout=None)
    listener.add_item(commands.code_button())
    listener.add_item(commands.start_button())
    tree.client.add_view(listener)


class _Commands:
    def __init__(self, login: BotLogin, texts: BotTexts, *, qr_code: bool) -> None:
        self.texts = texts
        self._login = login
        self._qr_code = qr_code

    def code_button(self) -> _Button:
        return _Button(self.texts.code_button, _CODE_BUTTON, self._ask_for_code)

    def start_button(self) -> _Button:
        return _Button(self.texts.again_button, _START_BUTTON, self.start)

    async def start(self, interaction: discord.Interaction) -> None:
        try:
            prompt = await _defer(interaction, self._login.start(interaction.user.id))
        except OpenRouterError as failure:
            await _send(interaction, self.texts.error(failure))
            return
        files = [discord.File(io.BytesIO(await prompt.qr_code()), "login.png")] if self._qr_code else []
        text = self.texts.login if prompt.headless else self.texts.web_login
        link = ui.Button[ui.View](label=self.texts.button, url=prompt.url)
        await _send(interaction, text, view=_show(link, self.code_button()), files=files)

    async def _ask_for_code(self, interaction: discord.Interaction) -> None:
        await _try(interaction.response.send_modal(_CodeModal(self)))

    async def finish_code(self, interaction: discord.Interaction, code: str) -> None:
        finishing = self._login.finish_code(interaction.user.id, code)
        del code
        await self._act(interaction, finishing, self.texts.done_with)

    async def logout(self, interaction: discord.Interaction) -> None:
        await self._act(interaction, self._login.logout(interaction.user.id), lambda _: self.texts.logged_out)

    async def _act(self, interaction: discord.Interaction, act: Awaitable[_T], done: Callable[[_T], str]) -> None:
        text, can_restart = await answer_to(_defer(interaction, act), done, self.texts)
        await _send(interaction, text, **({"view": _show(self.start_button())} if can_restart else {}))


async def _defer(interaction: discord.Interaction, act: Awaitable[_T]) -> _T:
    """Await an act, and meanwhile tell Discord, which waits only three seconds, that the answer comes later."""
    result, _ = await asyncio.gather(act, _try(interaction.response.defer(ephemeral=True, thinking=True)))
    return result


async def _send(interaction: discord.Interaction, text: str, **parts: Any) -> None:
    await _try(interaction.followup.send(text, ephemeral=True, **parts))


async def _try(call: Awaitable[object]) -> None:
    """Await a call to Discord. If it fails, log that: the login or logout was carried out all the same."""
    try:
        await call
    except Exception as failure:  # noqa: BLE001 - an interaction that is too old, and whatever aiohttp raises
        _logger.warning(
            "an interaction could not be answered: %s", type(failure).__name__, extra={"event": Event.MESSAGE_FAILED}
        )


def _show(*buttons: ui.Button[Any]) -> ui.View:
    view = ui.View(timeout=None)
    for button in buttons:
        view.add_item(button)
    # discord.py would keep every view it sends for ever; clicks go to the view that add_commands registered.
    view.stop()
    return view


class _Button(ui.Button[ui.View]):
    def __init__(self, label: str, custom_id: str, act: Callable[[discord.Interaction], Awaitable[None]]) -> None:
        super().__init__(label=label, custom_id=custom_id)
        self._act = act

    async def callback(self, interaction: discord.Interaction) -> None:
        await self._act(interaction)


class _CodeModal(ui.Modal):
    def __init__(self, commands: _Commands) -> None:
        super().__init__(title=commands.texts.button[:_MAX_TITLE_LENGTH], timeout=_MODAL_TIMEOUT)
        self._commands = commands
        self._code: ui.TextInput[_CodeModal] = ui.TextInput(label=commands.texts.code[:_MAX_TITLE_LENGTH])
        self.add_item(self._code)

    async def on_submit(self, interaction: discord.Interaction) -> None:
        await self._commands.finish_code(interaction, self._code.value)

    async def on_error(  # type: ignore[override] # the base class of all views has one more argument
        self, interaction: discord.Interaction, error: Exception
    ) -> None:
        # discord.py's default error log would include the modal, and with it the code.
        _logger.warning("a code could not be answered: %s", type(error).__name__, extra={"event": Event.MESSAGE_FAILED})
