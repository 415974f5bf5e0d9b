"""Sign in with OpenRouter in an aiohttp web app.

Run it, and open http://localhost:8080::

    python examples/aiohttp_app.py

Without an account, run ``openrouter-async sandbox`` beside it, and set ``OPENROUTER_BASE_URL`` to the
address of the API that it prints. In production, set ``APP_URL`` to the app's https address.
"""

import os
import secrets

from aiohttp import web

from openrouter_async import OpenRouter
from openrouter_async.integrations import aiohttp as openrouter
from openrouter_async.login import Grant

PORT = int(os.environ.get("PORT", "8080"))
APP_URL = os.environ.get("APP_URL", f"http://localhost:{PORT}")
IS_SECURE = APP_URL.startswith("https:")
COOKIE = "__Host-session" if IS_SECURE else "session"
# Forgotten when the process ends: keep keys encrypted in a database of yours instead.
SESSIONS = web.AppKey("sessions", dict[str, Grant])


async def on_login(request: web.Request, grant: Grant) -> web.StreamResponse:
    session = secrets.token_urlsafe(32)
    request.app[SESSIONS][session] = grant
    response = openrouter.redirect(request, grant)
    response.set_cookie(COOKIE, session, httponly=True, samesite="Lax", secure=IS_SECURE, path="/")
    return response


async def home(request: web.Request) -> web.Response:
    return page('<p><a href="/login?next=/account">Sign in with OpenRouter</a></p>')


async def account(request: web.Request) -> web.Response:
    grant = request.app[SESSIONS].get(request.cookies.get(COOKIE, ""))
    if grant is None:
        raise web.HTTPSeeOther("/")
    return page(
        f'<p>You are signed in. Your key ends in <code id="key">{grant.key[-4:]}</code>.</p>'
        f'<p><a href="{grant.logs_url}">What it was used for</a> · <a href="{grant.settings_url}">Limit it</a></p>'
        '<form method="post" action="/logout"><button>Sign out</button></form>'
    )


async def logout(request: web.Request) -> web.StreamResponse:
    request.app[SESSIONS].pop(request.cookies.get(COOKIE, ""), None)
    raise web.HTTPSeeOther("/")


def page(content: str) -> web.Response:
    text = f'<!doctype html><html lang="en"><title>My app</title><h1>My app</h1>{content}</html>'
    return web.Response(text=text, content_type="text/html")


def make_app() -> web.Application:
    app = web.Application()
    app[SESSIONS] = {}
    app.add_routes([web.get("/", home), web.get("/account", account), web.post("/logout", logout)])
    openrouter.setup(
        app,
        callback_url=APP_URL + "/callback/{state}",
        on_login=on_login,
        client=lambda: OpenRouter(),
        key_label="My app",
    )
    return app


if __name__ == "__main__":
    web.run_app(make_app(), host="localhost", port=PORT)
