"""Sign in in a tab, while the page that opened it asks for the status, and may cancel."""

import asyncio
from typing import Any
from weakref import WeakKeyDictionary

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles

from benchmarks.sites.app import PRIVATE, make_app, page, sign_in
from benchmarks.sites.exchange import SignInError
from benchmarks.sites.logins import Login, find, finish_callback
from benchmarks.sites.origin import check_origin
from benchmarks.sites.scripts import start_json

MAX_WAIT = 25
ENDS: WeakKeyDictionary[Login, asyncio.Future[dict[str, Any]]] = WeakKeyDictionary()

app = make_app()


@app.post("/login")
async def begin(request: Request) -> Response:
    return start_json(request)


@app.get("/callback/{state}")
async def callback(request: Request, state: str, code: str = "", error: str = "") -> Response:
    end = end_of(find(request, state))
    try:
        if end.done() and end.result()["status"] == "failed":
            raise SignInError(end.result()["error"]["detail"])
        _, grant = await finish_callback(request, state, code, error)
    except SignInError as failure:
        conclude(end, "failed", failure.message)
        raise
    conclude(end, "finished")
    # Neither the address nor the history keeps the code.
    return sign_in(page("You can close this tab.", script="history.replaceState(null, '', '/');"), grant)


@app.get("/login/status/{state}")
async def status(request: Request, state: str, wait: float = 0) -> Response:
    end = end_of(find(request, state))
    await asyncio.wait((end,), timeout=min(max(wait, 0), MAX_WAIT))
    return JSONResponse(end.result() if end.done() else {"status": "pending"}, headers=PRIVATE)


@app.delete("/login/status/{state}")
async def cancel(request: Request, state: str) -> Response:
    check_origin(request)
    login = find(request, state)
    if login.exchange is not None:
        raise SignInError("This sign-in is being finished.", 409)
    conclude(end_of(login), "failed", "This sign-in was cancelled.")
    return JSONResponse(end_of(login).result(), headers=PRIVATE)


def end_of(login: Login) -> asyncio.Future[dict[str, Any]]:
    """Return the future of a login's end."""
    return ENDS.setdefault(login, asyncio.get_running_loop().create_future())


def conclude(end: asyncio.Future[dict[str, Any]], status: str, detail: str | None = None) -> None:
    """End a login, unless it has ended."""
    if not end.done():
        end.set_result({"status": status, "error": {"detail": detail} if detail else None})


app.mount("/", StaticFiles(directory="pages"))
