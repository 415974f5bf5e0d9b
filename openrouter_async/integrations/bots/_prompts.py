"""What a chat shows of a login, and what it brings back."""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import Callable
from datetime import datetime
from operator import attrgetter
from typing import Final, Literal

import attrs

from openrouter_async.errors import OpenRouterError
from openrouter_async.redaction import mask

# Words of a language have neither digits nor underscores, and not so many letters.
_CODE: Final = re.compile(r"(?=.*[\d_]|.{24})[\x21-\x7e]{16,1024}")
_PARAMETER: Final = re.compile(r"(?:^|[?&])(?:code|error)=")


def looks_like_code(text: str) -> bool:
    """Whether a chat message may be what a user copied from OpenRouter's page.

    A bot hears much else, and should neither delete that nor answer it with an error.

    Args:
        text: The message.
    """
    text = text.strip()
    if len(text.split()) != 1:
        return False
    return bool(_PARAMETER.search(text) or ("://" not in text and _CODE.fullmatch(text)))


@attrs.frozen(kw_only=True)
class LoginPrompt:
    """What the bot shows to the user, and to nobody else.

    Attributes:
        url: The page that the user opens.
        expires_at: When the login is over, in UTC.
        headless: Whether the page shows a code, which the user pastes into the chat.
    """

    url: str = attrs.field(repr=mask)
    expires_at: datetime
    headless: bool

    async def qr_code(self, kind: Literal["png", "svg"] = "png", *, scale: int = 4) -> bytes:
        """The URL as a QR code, for a user whose browser is on another device. It needs the extra ``bots``.

        Args:
            kind: The format of the image.
            scale: Pixels of a module, the smallest square.
        """
        try:
            import segno
        except ImportError as missing:
            raise ImportError("QR codes need segno: pip install 'openrouter-async[bots]'") from missing

        def draw() -> bytes:
            image = io.BytesIO()
            segno.make_qr(self.url, error="l").save(image, kind=kind, scale=scale)
            return image.getvalue()

        # A login's URL fills a QR code of 60 modules and more, which takes longer than a loop should stand still.
        return await asyncio.to_thread(draw)


@attrs.frozen(kw_only=True)
class BotTexts:
    """What a bot says; replace it to say it otherwise, or in another language.

    Attributes:
        login: With the way to the page, which shows a code.
        web_login: With the way to the page, which sends the browser back.
        button: On the button that opens the page.
        code_button: On the button that asks for the code, where there is one.
        code: What is asked for.
        done: After the login.
        logged_out: After signing out.
        private: Where others read along.
        private_button: On the button that leads from there to the private chat.
        login_description: What the command does.
        logout_description: What the other one does.
        error: What is said of an error.
    """

    login: str = (
        "Open the page, allow access, and send me the code that it shows. Never give that code to anybody else."
    )
    web_login: str = "Open the page and allow access."
    button: str = "Sign in with OpenRouter"
    code_button: str = "Enter the code"
    code: str = "The code from the page"
    done: str = "You are signed in."
    logged_out: str = "You are signed out."
    private: str = "Please sign in in a private chat with me."
    private_button: str = "Open the private chat"
    login_description: str = "Sign in with OpenRouter"
    logout_description: str = "Sign out"
    error: Callable[[OpenRouterError], str] = attrgetter("user_message")
