"""Sign-in for chat bots, whatever their network."""

from openrouter_async.integrations.bots._login import BotLogin, OnLogin, OnLogout, UserId
from openrouter_async.integrations.bots._prompts import BotTexts, LoginPrompt, looks_like_code
from openrouter_async.integrations.bots._storage import MemoryShelf, RedisShelf, Shelf

__all__ = [
    "BotLogin",
    "BotTexts",
    "LoginPrompt",
    "MemoryShelf",
    "OnLogin",
    "OnLogout",
    "RedisShelf",
    "Shelf",
    "UserId",
    "looks_like_code",
]
