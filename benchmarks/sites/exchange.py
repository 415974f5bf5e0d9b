"""The exchange of a code for a key, with a time limit, a few attempts, and errors for the user."""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypedDict

import aiohttp
from fastapi import FastAPI, Request

BASE_URL = os.environ.get("OPENROUTER_BASE_URL", "https://openrouter.ai/api/v1")
ATTEMPTS = 4
FOR_THE_MOMENT = {408, 429, 500, 502, 503, 504}


class Grant(TypedDict):
    key: str
    user_id: str | None


class SignInError(Exception):
    """A failure, with a sentence for the user."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as app.state.openrouter:
        yield


async def exchange(request: Request, code: str, verifier: str) -> Grant:
    """Exchange a code."""
    url, session = f"{BASE_URL}/auth/keys", request.app.state.openrouter
    body = {"code": code, "code_verifier": verifier, "code_challenge_method": "S256"}
    for attempt in range(ATTEMPTS):
        await asyncio.sleep(random.uniform(0, 2**attempt) if attempt else 0)
        try:
            async with session.post(url, json=body, allow_redirects=False) as response:
                if response.status == 200:
                    return read_grant(await response.json())
                if response.status not in FOR_THE_MOMENT:
                    raise SignInError("OpenRouter did not accept this code.")
        except (aiohttp.ClientError, TimeoutError):
            continue
    raise SignInError("OpenRouter does not answer. Please try again later.", 503)


def read_grant(answer: object) -> Grant:
    """Read the answer to an exchange."""
    if not isinstance(answer, dict) or not isinstance(answer.get("key"), str):
        raise SignInError("OpenRouter's answer has no key. Please sign in again.", 502)
    return Grant(key=answer["key"], user_id=answer.get("user_id"))
