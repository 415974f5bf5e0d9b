"""Sign in with OpenRouter in a FastAPI web app.

Run it, and open http://localhost:8080; the API is described at http://localhost:8080/docs::

    uvicorn --app-dir examples --port 8080 fastapi_app:app

Without an account, run ``openrouter-async sandbox`` beside it, and set ``OPENROUTER_BASE_URL`` to the
address of the API that it prints. In production, set ``APP_URL`` to the app's https address.
"""

import os
import secrets
from typing import Annotated

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import HTTPException
from fastapi.responses import HTMLResponse, RedirectResponse

from openrouter_async import OpenRouter
from openrouter_async.integrations import fastapi as openrouter
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
    response.set_cookie(COOKIE, session, httponly=True, samesite="lax", secure=IS_SECURE, path="/")
    return response


def get_grant(request: Request) -> Grant:
    grant = SESSIONS.get(request.cookies.get(COOKIE, ""))
    if grant is None:
        raise HTTPException(303, headers={"Location": "/"})
    return grant


app = FastAPI(title="My app")
openrouter.setup(
    app,
    callback_url=APP_URL + "/callback/{state}",
    on_login=on_login,
    client=lambda: OpenRouter(),
    key_label="My app",
)


@app.get("/", response_class=HTMLResponse)
def home() -> str:
    return page('<p><a href="/login?next=/account">Sign in with OpenRouter</a></p>')


@app.get("/account", response_class=HTMLResponse)
def account(grant: Annotated[Grant, Depends(get_grant)]) -> str:
    return page(
        f'<p>You are signed in. Your key ends in <code id="key">{grant.key[-4:]}</code>.</p>'
        f'<p><a href="{grant.logs_url}">What it was used for</a> · <a href="{grant.settings_url}">Limit it</a></p>'
        '<form method="post" action="/logout"><button>Sign out</button></form>'
    )


@app.post("/logout", response_class=RedirectResponse, status_code=303)
def logout(request: Request) -> str:
    SESSIONS.pop(request.cookies.get(COOKIE, ""), None)
    return "/"


def page(content: str) -> str:
    return f'<!doctype html><html lang="en"><title>My app</title><h1>My app</h1>{content}</html>'
