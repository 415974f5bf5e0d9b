"""Signing users in from Telegram, by aiogram; needs the extra ``aiogram``.

::

    dispatcher.include_router(create_router(login))

The router takes ``/login``, ``/logout``, links with ``?start=login`` or a ticket of `BotLogin.hold`, and, from users
who have begun a login, messages that look like a code. All else goes to the routers after it. Messages with a code are
deleted. In groups it does nothing but show the way to the private chat.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable

from openrouter_async.errors import OpenRouterError
from openrouter_async.integrations.bots import BotLogin, BotTexts
from openrouter_async.integrations.bots._sessions import TICKET
from openrouter_async.login.errors import LoginStoreError

try:
    from aiogram import F, Router
    from aiogram.enums import ChatType
    from aiogram.exceptions import TelegramAPIError
    from aiogram.filters import Command, CommandObject, CommandStart
    from aiogram.types import BufferedInputFile, InlineKeyboardButton, InlineKeyboardMarkup, Message
except ImportError as missing:
    raise ImportError("this needs aiogram: pip install 'openrouter-async[aiogram]'") from missing

logger = logging.getLogger(__name__)


def create_router(
    login: BotLogin, *, texts: BotTexts | None = None, qr_code: bool = False, name: str = "openrouter"
) -> Router:
    """A router that signs users in; include it before routers that take any text.

    Args:
        login: What signs them in. A user's id is the number that Telegram gives to the user.
        texts: What the bot says.
        qr_code: Whether the URL is shown as a QR code, too.
        name: The router's name.
    """
    router = Router(name=name)
    handlers = _Handlers(login, BotTexts() if texts is None else texts, qr_code=qr_code)
    private = F.chat.type == ChatType.PRIVATE
    router.message(private, Command("login", magic=F.args))(handlers.complete_by_command)
    router.message(private, Command("login"))(handlers.begin)
    router.message(private, Command("logout"))(handlers.logout)
    router.message(private, CommandStart(deep_link=True, magic=F.args == "login"))(handlers.begin)
    router.message(private, CommandStart(deep_link=True, magic=F.args.regexp(TICKET)))(handlers.complete_by_command)
    router.message(private, F.text, handlers.expects)(handlers.complete)
    router.message(~private, Command("login", "logout"))(handlers.lead_to_private_chat)
    return router


class _Handlers:
    def __init__(self, login: BotLogin, texts: BotTexts, *, qr_code: bool) -> None:
        self._login = login
        self._texts = texts
        self._qr_code = qr_code

    # The id of a private chat is that of its user.

    async def begin(self, message: Message) -> None:
        try:
            prompt = await self._login.begin(message.chat.id)
        except OpenRouterError as failure:
            await _answer(message, self._texts.error(failure))
            return
        text = self._texts.login if prompt.headless else self._texts.web_login
        keyboard = _button(self._texts.button, prompt.url)
        # Who gets the URL forwarded could be made to consent to a login of somebody else.
        if self._qr_code:
            image = BufferedInputFile(await prompt.qr_code(), "login.png")
            await message.answer_photo(
                image, caption=text, reply_markup=keyboard, protect_content=True, parse_mode=None
            )
        else:
            await message.answer(text, reply_markup=keyboard, protect_content=True, parse_mode=None)

    async def expects(self, message: Message) -> bool:
        try:
            return await self._login.expects(message.chat.id, message.text or "")
        except LoginStoreError as failure:
            logger.warning("it is not known whether a message has a code: %s", failure)
            return False

    async def complete(self, message: Message) -> None:
        await self._complete(message, message.text or "")

    async def complete_by_command(self, message: Message, command: CommandObject) -> None:
        await self._complete(message, command.args or "")

    async def _complete(self, message: Message, code: str) -> None:
        completing = self._say(self._login.complete(message.chat.id, code), self._texts.done)
        del code
        # The code is of use to nobody but this bot, so the exchange need not wait until it is gone.
        text, _ = await asyncio.gather(completing, _delete(message))
        await _answer(message, text)

    async def logout(self, message: Message) -> None:
        await _answer(message, await self._say(self._login.logout(message.chat.id), self._texts.logged_out))

    async def lead_to_private_chat(self, message: Message) -> None:
        assert message.bot is not None  # noqa: S101 - aiogram gives it to each message that it dispatches
        me = await message.bot.me()
        keyboard = _button(self._texts.private_button, f"https://t.me/{me.username}?start=login")
        await message.reply(self._texts.private, reply_markup=keyboard, parse_mode=None)

    async def _say(self, doing: Awaitable[object], done: str) -> str:
        try:
            await doing
        except OpenRouterError as failure:
            return self._texts.error(failure)
        return done


def _button(text: str, url: str) -> InlineKeyboardMarkup:
    return InlineKeyboardMarkup(inline_keyboard=[[InlineKeyboardButton(text=text, url=url)]])


async def _answer(message: Message, text: str) -> None:
    # The bot's own parse mode would trip over the full stops.
    await message.answer(text, parse_mode=None)


async def _delete(message: Message) -> None:
    try:
        await message.delete()
    except TelegramAPIError as failure:
        logger.warning("a message with a code could not be deleted: %s", type(failure).__name__)
