"""Sign-in for chat bots, whatever their network."""

from openrouter_async.integrations.bots._login import BotLogin, OnLogin, OnLogout, UserId
from openrouter_async.integrations.bots._prompts import BotTexts, LoginPrompt, looks_like_code
from openrouter_async.integrations.bots._sessions import UnknownTicketError

__all__ = [
    "BotLogin",
    "BotTexts",
    "LoginPrompt",
    "OnLogin",
    "OnLogout",
    "UnknownTicketError",
    "UserId",
    "looks_like_code",
]
