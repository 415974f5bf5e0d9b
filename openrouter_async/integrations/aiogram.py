"""Sign-in from Telegram, by aiogram; needs the extra ``aiogram``.

::

    dispatcher.include_router(create_router(login))

The router takes ``/login``, ``/logout``, links with ``?start=login`` or a ticket of `BotLogin.park_callback`, and, from
users who have started a login, messages that can be a code or the callback. Everything else goes to the routers after
it. Messages with a code are deleted. In groups it only points to the private chat.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from openrouter_async.errors import OpenRouterError
from openrouter_async.events import Event
from openrouter_async.integrations.bots import BotLogin, BotTexts
from openrouter_async.integrations.bots._prompts import answer_to
from openrouter_async.integrations.bots._sessions import TICKET
from openrouter_async.login.errors import LoginStoreError

try:
    from aiogram import F, Router
    from aiogram.enums import ChatType
    from aiogram.filters import Command, CommandObject, CommandStart
    from aiogram.types import BufferedInputFile, InlineKeyboardButton, InlineKeyboardMarkup, Message
    from magic_filter import RegexpMode
except ImportError as missing:
    if sys.version_info >= (3, 15):  # there the extra does not bring it
        raise ImportError("this needs aiogram, which has no release for Python 3.15 or newer yet") from missing
    raise ImportError("this needs aiogram: pip install 'openrouter-async[aiogram]'") from missing

__all__ = ["create_router"]

_logger = logging.getLogger(__name__)

_T = TypeVar("_T")

# Telegram finds these entities in a message by itself; a code contains none of them.
_FOREIGN_ENTITIES: Final = frozenset({"bot_command", "cashtag", "email", "hashtag", "mention", "phone_number"})


def create_router(
    login: BotLogin, *, texts: BotTexts | None = None, qr_code: bool = False, name: str = "openrouter"
) -> Router:
    """Return a router that signs users in; include it before routers that take any text.

    Args:
        login: Signs the users in, by their Telegram ids.
        texts: The texts of the bot.
        qr_code: Whether the URL is also shown as a QR code.
        name: The router's name.
    """
    router = Router(name=name)
    handlers = _Handlers(login, BotTexts() if texts is None else texts, qr_code=qr_code)
    private = F.chat.type == ChatType.PRIVATE
    router.message(private, Command("login", magic=F.args))(handlers.finish_by_command)
    router.message(private, Command("login"))(handlers.start)
    router.message(private, Command("logout"))(handlers.logout)
    router.message(private, CommandStart(deep_link=True, magic=F.args == "login"))(handlers.start)
    is_ticket = F.args.regexp(TICKET, mode=RegexpMode.FULLMATCH)
    router.message(private, CommandStart(deep_link=True, magic=is_ticket))(handlers.finish_by_command)
    router.message(private, F.text, handlers.expects)(handlers.finish)
    router.message(~private, Command("login", "logout"))(handlers.point_to_private_chat)
    return router


class _Handlers:
    def __init__(self, login: BotLogin, texts: BotTexts, *, qr_code: bool) -> None:
        self._login = login
        self._texts = texts
        self._qr_code = qr_code

    # The id of a private chat is that of its user.

    async def start(self, message: Message) -> None:
        try:
            prompt = await self._login.start(message.chat.id)
        except OpenRouterError as failure:
            await self._answer(message, self._texts.error(failure))
            return
        text = self._texts.login if prompt.headless else self._texts.web_login
        keyboard = _button(self._texts.button, prompt.url)
        # protect_content prevents forwarding: a forwarded URL could make somebody else consent to this user's login.
        if self._qr_code:
            image = BufferedInputFile(await prompt.qr_code(), "login.png")
            await _try(
                message.answer_photo(image, caption=text, reply_markup=keyboard, protect_content=True, parse_mode=None)
            )
        else:
            await _try(message.answer(text, reply_markup=keyboard, protect_content=True, parse_mode=None))

    async def expects(self, message: Message) -> bool:
        if any(entity.type in _FOREIGN_ENTITIES for entity in message.entities or ()):
            return False
        try:
            return await self._login.expects(message.chat.id, message.text or "")
        except LoginStoreError as failure:
            _logger.warning(
                "it is not known whether a message has a code: %s", failure, extra={"event": Event.STORE_FAILED}
            )
            return False

    async def finish(self, message: Message) -> None:
        await self._finish(message, message.text or "")

    async def finish_by_command(self, message: Message, command: CommandObject) -> None:
        await self._finish(message, command.args or "")

    async def _finish(self, message: Message, code: str) -> None:
        acting = self._act(message, self._login.finish_code(message.chat.id, code), self._texts.done_with)
        del code
        # Nobody else can use the code, so the exchange need not wait until the message is deleted.
        await asyncio.gather(acting, _try(message.delete()))

    async def logout(self, message: Message) -> None:
        await self._act(message, self._login.logout(message.chat.id), lambda _: self._texts.logged_out)

    async def point_to_private_chat(self, message: Message) -> None:
        keyboard = _button(self._texts.private_button, await _login_link(message))
        await _try(message.reply(self._texts.private, reply_markup=keyboard, parse_mode=None))

    async def _act(self, message: Message, act: Awaitable[_T], done: Callable[[_T], str]) -> None:
        text, can_restart = await answer_to(act, done, self._texts)
        await self._answer(message, text, can_restart=can_restart)

    async def _answer(self, message: Message, text: str, *, can_restart: bool = False) -> None:
        keyboard = _button(self._texts.again_button, await _login_link(message)) if can_restart else None
        # The bot's default parse mode may reject the text.
        await _try(message.answer(text, reply_markup=keyboard, parse_mode=None))


def _button(text: str, url: str) -> InlineKeyboardMarkup:
    return InlineKeyboardMarkup(inline_keyboard=[[InlineKeyboardButton(text=text, url=url)]])


async def _login_link(message: Message) -> str:
    assert message.bot is not None  # noqa: S101 - aiogram sets it on each message that it dispatches
    me = await message.bot.me()
    return f"https://t.me/{me.username}?start=login"


async def _try(call: Awaitable[object]) -> None:
    """Await a call to Telegram. If it fails, log that: the login or logout was carried out all the same."""
    try:
        await call
    except Exception as failure:  # noqa: BLE001 - sessions of aiogram can raise anything
        _logger.warning(
            "a message could not be sent or deleted: %s",
            type(failure).__name__,
            extra={"event": Event.MESSAGE_FAILED},
        )
