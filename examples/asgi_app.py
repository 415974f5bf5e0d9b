"""Sign in with OpenRouter in an ASGI app without a framework.

Run it, and open http://localhost:8080::

    uvicorn --app-dir examples --port 8080 asgi_app:app

Without an account, run ``openrouter-async sandbox`` beside it, and set ``OPENROUTER_BASE_URL`` to the
address of the API that it prints. In production, set ``APP_URL`` to the app's https address.
"""

import os
import secrets
from typing import Any

from openrouter_async.integrations import asgi as openrouter
from openrouter_async.integrations.asgi import Request, Response
from openrouter_async.login import Grant

APP_URL = os.environ.get("APP_URL", "http://localhost:8080")
IS_SECURE = APP_URL.startswith("https:")
COOKIE = "__Host-session" if IS_SECURE else "session"
# Forgotten when the process ends: keep keys encrypted in a database of yours instead.
SESSIONS: dict[str, Grant] = {}


async def on_login(request: Request, grant: Grant) -> Response:
    session = secrets.token_urlsafe(32)
    SESSIONS[session] = grant
    response = openrouter.redirect(request, grant)
    cookie = f"{COOKIE}={session}; Path=/; HttpOnly; SameSite=Lax{'; Secure' if IS_SECURE else ''}"
    response.headers.add("Set-Cookie", cookie)
    return response


def home(request: Request) -> Response:
    return page('<p><a href="/login?next=/account">Sign in with OpenRouter</a></p>')


def account(request: Request) -> Response:
    grant = SESSIONS.get(request.cookies.get(COOKIE, ""))
    if grant is None:
        return Response(303, headers={"Location": "/"})
    return page(
        f'<p>You are signed in. Your key ends in <code id="key">{grant.key[-4:]}</code>.</p>'
        f'<p><a href="{grant.logs_url}">What it was used for</a> · <a href="{grant.settings_url}">Limit it</a></p>'
        '<form method="post" action="/logout"><button>Sign out</button></form>'
    )


def logout(request: Request) -> Response:
    SESSIONS.pop(request.cookies.get(COOKIE, ""), None)
    return Response(303, headers={"Location": "/"})


def page(content: str) -> Response:
    html = f'<!doctype html><html lang="en"><title>My app</title><h1>My app</h1>{content}</html>'
    return Response(200, html, {"Content-Type": "text/html; charset=utf-8"})


ROUTES = {("GET", "/"): home, ("GET", "/account"): account, ("POST", "/logout"): logout}


async def routes(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        route = ROUTES.get((scope["method"], scope["path"]))
        response = Response(404, "Not Found") if route is None else route(Request(scope))
        await response(scope, receive, send)


app = openrouter.create_app(
    routes,
    callback_url=APP_URL + "/callback/{state}",
    on_login=on_login,
    key_label="My app",
)
