"""Sign in by a popup, which tells the page that opened it, and closes."""

import json

from fastapi import Request, Response
from fastapi.staticfiles import StaticFiles

from benchmarks.sites.app import make_app, page, sign_in
from benchmarks.sites.exchange import SignInError
from benchmarks.sites.logins import finish_callback
from benchmarks.sites.scripts import start_json

app = make_app()


@app.post("/login")
async def begin(request: Request) -> Response:
    return start_json(request)


@app.get("/callback/{state}")
async def callback(request: Request, state: str, code: str = "", error: str = "") -> Response:
    try:
        _, grant = await finish_callback(request, state, code, error)
    except SignInError as failure:
        return page(failure.message, failure.status, tell(state, "failed"))
    return sign_in(page("You can close this window.", script=tell(state, "finished") + "close();"), grant)


def tell(state: str, status: str) -> str:
    """Return a script that tells the opener, or another window of this origin if there is no opener."""
    message = json.dumps({"type": "openrouter-login", "status": status, "login": state}).replace("<", "\\u003c")
    return (
        f"const message = {message};"
        "if (opener) opener.postMessage(message, location.origin);"
        'else new BroadcastChannel("openrouter-login").postMessage(message);'
    )


app.mount("/", StaticFiles(directory="pages"))
