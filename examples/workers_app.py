"""Sign in with OpenRouter in an app of many workers, on one machine or several, behind one Valkey or Redis.

Logins start on one worker and end on another one, and sessions are known to all::

    pip install 'openrouter-async[starlette,redis,cookie]' uvicorn
    export SECRET_KEY=$(python -m openrouter_async.encryption)
    REDIS_URL=redis://localhost uvicorn --app-dir examples --port 8080 --workers 4 workers_app:app
    # or: hypercorn --bind localhost:8080 --workers 4 examples/workers_app:app

Without an account, run ``openrouter-async sandbox`` beside it, and set ``OPENROUTER_BASE_URL`` to the
address of the API that it prints. In production, set ``APP_URL`` to the app's https address.
"""

import os
import secrets
from hashlib import sha256

from cryptography.fernet import Fernet
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from openrouter_async import OpenRouter
from openrouter_async.integrations import starlette as openrouter
from openrouter_async.login import Grant, RedisStore

APP_URL = os.environ.get("APP_URL", "http://localhost:8080")
IS_SECURE = APP_URL.startswith("https:")
COOKIE = "__Host-session" if IS_SECURE else "session"
REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost")
SECRET_KEY = os.environ["SECRET_KEY"]
SESSION_SECONDS = 30 * 24 * 3600


async def on_login(request: Request, grant: Grant) -> Response:
    session = secrets.token_urlsafe(32)
    sealed = Fernet(SECRET_KEY).encrypt(grant.key.encode())
    async with Redis.from_url(REDIS_URL) as sessions:
        await sessions.set(name_of(session), sealed, ex=SESSION_SECONDS)
    response = openrouter.redirect(request, grant)
    response.set_cookie(COOKIE, session, max_age=SESSION_SECONDS, httponly=True, samesite="lax", secure=IS_SECURE)
    return response


async def home(request: Request) -> Response:
    return page('<p><a href="/login?next=/account">Sign in with OpenRouter</a></p>')


async def account(request: Request) -> Response:
    async with Redis.from_url(REDIS_URL) as sessions:
        sealed = await sessions.get(name_of(request.cookies.get(COOKIE, "")))
    if sealed is None:
        return RedirectResponse("/", 303)
    key = Fernet(SECRET_KEY).decrypt(sealed).decode()
    return page(f'<p>Your key ends in <code id="key">{key[-4:]}</code>. Worker {os.getpid()} says so.</p>')


def name_of(session: str) -> str:
    # Whoever reads the database still cannot take over a session.
    return "session:" + sha256(session.encode()).hexdigest()


def page(content: str) -> Response:
    return HTMLResponse(f'<!doctype html><html lang="en"><title>My app</title><h1>My app</h1>{content}</html>')


app = Starlette(routes=[Route("/", home), Route("/account", account)])
openrouter.setup(
    app,
    callback_url=APP_URL + "/callback/{state}",
    on_login=on_login,
    client=lambda: OpenRouter(),
    store=lambda: RedisStore.from_url(REDIS_URL, encryption_keys=SECRET_KEY),
)
