"""The messages of a login in a chat, and the recognition of codes."""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import Awaitable, Callable
from datetime import datetime
from operator import attrgetter
from typing import Final, Literal, TypeVar

import attrs

from openrouter_async.errors import OpenRouterError
from openrouter_async.login._models import Grant
from openrouter_async.login.errors import CodeRejectedError
from openrouter_async.redaction._masks import mask

_T = TypeVar("_T")

# A code starts with a letter or digit, unlike commands, @names and #tags, and has no "/" or "@", unlike links and
# e-mail addresses. Words have neither digits nor underscores and fewer than 24 letters; numbers have no letter.
_CODE: Final = re.compile(r"(?=.*[A-Za-z])(?=.*[\d_]|.{24})[A-Za-z0-9][A-Za-z0-9._~+=-]{15,1023}")
_PARAMETER: Final = re.compile(r"(?:^|[?&])(?:code|error)=")
_API_KEY: Final = re.compile(r"sk-", re.IGNORECASE)


def looks_like_code(text: str) -> bool:
    """Return whether a chat message may be a code, or the callback, that a user copied.

    A bot also receives commands, links, e-mail addresses and passwords, which must be neither deleted nor sent on.

    Args:
        text: The message.
    """
    text = text.strip()
    if len(text.split()) != 1 or text[0] in "/@#" or _API_KEY.match(text):
        return False
    return bool(_PARAMETER.search(text) or _CODE.fullmatch(text))


@attrs.frozen(kw_only=True)
class LoginPrompt:
    """The link that the bot shows to the user, and to nobody else.

    Attributes:
        url: The page that the user opens.
        expires_at: The time when the login expires, in UTC.
        headless: Whether the page shows a code, which the user pastes into the chat.
    """

    url: str = attrs.field(repr=mask)
    expires_at: datetime
    headless: bool

    async def qr_code(self, kind: Literal["png", "svg"] = "png", *, scale: int = 4) -> bytes:
        """Return the URL as a QR code, for a user whose browser is on another device; needs the extra ``bots``.

        Args:
            kind: The format of the image.
            scale: Pixels per module, the smallest square of a QR code.
        """
        try:
            import segno
        except ImportError as missing:
            raise ImportError("QR codes need segno: pip install 'openrouter-async[bots]'") from missing

        def draw() -> bytes:
            image = io.BytesIO()
            segno.make_qr(self.url, error="l").save(image, kind=kind, scale=scale)
            return image.getvalue()

        # In a thread, because drawing the QR code of such a long URL would block the event loop for too long.
        return await asyncio.to_thread(draw)


@attrs.frozen(kw_only=True)
class BotTexts:
    """The texts of a bot; replace them for another wording or language.

    Attributes:
        login: Beside the link to the page, which shows a code.
        web_login: Beside the link to the page, which sends the browser back.
        button: On the button that opens the page.
        code_button: On the button that asks for the code, in Discord.
        code: The label of the field for the code, in Discord.
        again_button: On the button below an error that starts a new login.
        done: After the login.
        logged_out: After signing out.
        private: In groups, where others would read the messages.
        private_button: On the button that leads from a group to the private chat.
        login_description: The description of the command ``/login``.
        logout_description: The description of the command ``/logout``.
        error: Gives the text for an error.
    """

    login: str = (
        "Open the page, allow access, and send me the code that it shows. Never give that code to anybody else."
    )
    web_login: str = "Open the page and allow access."
    button: str = "Sign in with OpenRouter"
    code_button: str = "Enter the code"
    code: str = "The code from the page"
    again_button: str = "Sign in again"
    done: str = "You are signed in."
    logged_out: str = "You are signed out."
    private: str = "Please use a private chat with me to sign in."
    private_button: str = "Open the private chat"
    login_description: str = "Sign in with OpenRouter"
    logout_description: str = "Sign out"
    error: Callable[[OpenRouterError], str] = attrgetter("user_message")

    def done_with(self, grant: Grant) -> str:
        """Return the text after a login, and why the key is refused if the flow verified it and it is.

        Args:
            grant: The result of the login.
        """
        return self.done if grant.key_error is None else f"{self.done} {self.error(grant.key_error)}"


async def answer_to(act: Awaitable[_T], done: Callable[[_T], str], texts: BotTexts) -> tuple[str, bool]:
    """Wait for what a user asked for.

    Args:
        act: Carries it out.
        done: Gives the text of its result.
        texts: The texts of the bot.

    Returns:
        The text of the answer, and whether to offer a new login beside it.
    """
    try:
        return done(await act), False
    except OpenRouterError as failure:
        return texts.error(failure), failure.restart_login or isinstance(failure, CodeRejectedError)
