from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import aiohttp
import attrs
from yarl import URL

from openrouter_async.pkce import PKCEPair
from openrouter_async.testing import FakeOpenRouter

PAIR = PKCEPair(code_verifier="dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")
STATE = "s" * 43


@attrs.frozen
class Reply:
    status: int
    headers: Any
    text: str
    json: Any = None

    @property
    def message(self) -> str:
        found: str = self.json["error"]["message"]
        return found


async def send(url: str | URL, *, method: str = "POST", json: Any = None, data: Any = None, **headers: str) -> Reply:
    """One request on a connection of its own; redirects are not followed."""
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, json=json, data=data, headers=headers, allow_redirects=False) as response,
    ):
        text = await response.text()
        is_json = response.content_type == "application/json"
        return Reply(response.status, response.headers, text, await response.json() if is_json else None)


async def exchange(fake: FakeOpenRouter, code: str, **fields: Any) -> Reply:
    return await send(f"{fake.base_url}/auth/keys", json={"code": code, **fields})


async def create(fake: FakeOpenRouter, *, bearer: str | None = None, **fields: Any) -> Reply:
    body = {"callback_url": "https://app.example/callback", **fields}
    return await send(
        f"{fake.base_url}/auth/keys/code", json=body, Authorization=f"Bearer {fake.token if bearer is None else bearer}"
    )


def asking(fake: FakeOpenRouter, callback_url: str | None = "https://app.example/callback", **parameters: str) -> str:
    """The URL of the consent page for a login with PKCE."""
    asked = {"code_challenge": PAIR.code_challenge, "code_challenge_method": "S256", **parameters}
    if callback_url is not None:
        asked["callback_url"] = callback_url
    return f"{fake.auth_url}?{urlencode(asked)}"
