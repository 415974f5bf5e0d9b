"""The rest of the app: its sessions, its pages for failures, and its static files."""

import os
import secrets
from typing import TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from benchmarks.sites.exchange import Grant, SignInError, lifespan

APP_URL = os.environ.get("APP_URL", "http://localhost:8080")
PRIVATE = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
SESSIONS: dict[str, Grant] = {}

R = TypeVar("R", bound=Response)


def sign_in(response: R, grant: Grant) -> R:
    """Sign the user in, with a session of the app's own."""
    SESSIONS[session := secrets.token_urlsafe()] = grant
    response.set_cookie("session", session, httponly=True, samesite="lax")
    response.headers.update(PRIVATE)
    return response


async def explain(request: Request, error: Exception) -> Response:
    """Answer a request that failed, with JSON to a script and with a page to anybody else."""
    assert isinstance(error, SignInError)
    if "text/html" not in request.headers.get("Accept", ""):
        return JSONResponse({"status": "failed", "detail": error.message}, error.status, PRIVATE)
    return page(f'{error.message} <a href="/">Back to the app</a>', error.status)


def page(text: str, status: int = 200, script: str = "") -> HTMLResponse:
    """Return a page of a sentence, and of a script that may run in it."""
    nonce = secrets.token_urlsafe()
    policy = {"Content-Security-Policy": f"default-src 'none'; script-src 'nonce-{nonce}'; frame-ancestors 'none'"}
    content = f'<!doctype html><html lang="en"><title>My app</title><p>{text}</p>'
    return HTMLResponse(f'{content}<script nonce="{nonce}">{script}</script></html>', status, PRIVATE | policy)


def make_app() -> FastAPI:
    """Make the app."""
    app = FastAPI(lifespan=lifespan)
    app.add_exception_handler(SignInError, explain)
    return app
