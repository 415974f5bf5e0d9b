"""Helpers that the tests of all bots share."""

from __future__ import annotations

import io

import attrs
import zxingcpp
from PIL import Image

from openrouter_async.integrations.bots import BotLogin
from openrouter_async.login import Grant, LoginStoreError, MemoryStore

ADA, BEN = 7, 8
CALLBACK = "https://bot.example/callback/{state}"


@attrs.define
class Talk:
    """The result of a conversation with a bot."""

    logins: list[tuple[int, str]] = attrs.field(factory=list[tuple[int, str]])
    logouts: list[int] = attrs.field(factory=list[int])
    login: BotLogin = attrs.field(init=False)

    async def put(self, user_id: int, grant: Grant) -> None:
        self.logins.append((user_id, grant.key))

    async def remove(self, user_id: int) -> None:
        self.logouts.append(user_id)


class Broken(MemoryStore):
    """A store that breaks on demand."""

    def __init__(self) -> None:
        super().__init__()
        self.broken: set[str] = set()

    def _check(self, operation: str) -> None:
        if operation in self.broken:
            raise LoginStoreError("the store is broken")

    async def set(self, name: str, value: bytes, *, now: float, until: float) -> None:
        self._check("set")
        await super().set(name, value, now=now, until=until)

    async def get(self, name: str, *, now: float) -> bytes | None:
        self._check("get")
        return await super().get(name, now=now)

    async def delete(self, name: str) -> None:
        self._check("delete")
        await super().delete(name)


def read_qr_code(png: bytes) -> str:
    with Image.open(io.BytesIO(png)) as image:
        [found] = zxingcpp.read_barcodes(image)
    text: str = found.text
    return text
