"""Sign in with OpenRouter in a desktop app whose window is a web page, and whose sidecar is a local FastAPI server.

The window never sees the key: the page starts a login, opens the browser, follows the login's events, and can paste a
code or cancel. Run it, and open the address that it prints::

    python examples/desktop_sidecar.py

Without an account, run ``openrouter-async sandbox`` beside it, and set ``OPENROUTER_BASE_URL`` to the
address of the API that it prints.
"""

import asyncio
import json
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import uvicorn
from fastapi import APIRouter, Body, Depends, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, StreamingResponse

from openrouter_async import OpenRouter
from openrouter_async.login import Grant, LoginSession, LoopbackLogin

# Other programs of this computer, and pages in its browser, can reach the port; only the window knows the token.
TOKEN = os.environ.get("SIDECAR_TOKEN") or secrets.token_urlsafe(32)


class Sidecar:
    """The one login of the app, and the grant of the last one."""

    def __init__(self, client: OpenRouter) -> None:
        self.client = client
        self.login: LoginSession | None = None
        self.grant: Grant | None = None

    async def start(self) -> LoginSession:
        await self.close()
        self.login = await LoopbackLogin(self.client, key_label="My app", app_name="My app").__aenter__()
        self.keeping = asyncio.create_task(self.keep(self.login))
        return self.login

    async def keep(self, login: LoginSession) -> None:
        async for state in login.events():
            self.grant = state.grant or self.grant

    async def close(self) -> None:
        if self.login is not None:
            await self.login.aclose()
            await self.keeping


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with OpenRouter() as client:
        app.state.sidecar = sidecar = Sidecar(client)
        yield
        await sidecar.close()


def check_token(request: Request, token: str = "") -> None:
    if not secrets.compare_digest(request.headers.get("X-Token", token).encode(), TOKEN.encode()):
        raise HTTPException(403)


def get_sidecar(request: Request) -> Sidecar:
    sidecar: Sidecar = request.app.state.sidecar
    return sidecar


def get_login(sidecar: Annotated[Sidecar, Depends(get_sidecar)]) -> LoginSession:
    if sidecar.login is None:
        raise HTTPException(404, "no login was started")
    return sidecar.login


Login = Annotated[LoginSession, Depends(get_login)]
api = APIRouter(prefix="/login", dependencies=[Depends(check_token)])


@api.post("")
async def start(sidecar: Annotated[Sidecar, Depends(get_sidecar)], *, opens: bool = True) -> dict[str, Any]:
    login = await sidecar.start()
    if opens:
        login.open_browser()
    return login.to_dict()


@api.get("")
async def status(login: Login) -> dict[str, Any]:
    return login.to_dict()


@api.post("/code")
async def submit(login: Login, code: Annotated[str, Body(embed=True)]) -> dict[str, Any]:
    await login.submit(code)
    return login.to_dict()


@api.delete("")
async def cancel(login: Login) -> dict[str, Any]:
    login.cancel()
    return login.to_dict()


@api.get("/events")
async def events(login: Login) -> StreamingResponse:
    async def stream() -> AsyncIterator[str]:
        async for _ in login.events():
            yield f"data: {json.dumps(login.to_dict())}\n\n"

    return StreamingResponse(stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


app = FastAPI(title="My app", lifespan=lifespan)
app.include_router(api)


@app.get("/", response_class=HTMLResponse, dependencies=[Depends(check_token)])
def window() -> str:
    return PAGE


PAGE = """<!doctype html>
<html lang="en">
<title>My app</title>
<h1>My app</h1>
<p id="status">You are not signed in.</p>
<button id="start">Sign in with OpenRouter</button>
<form id="paste" hidden>
  <p>If no browser opens: <a id="url" target="_blank" rel="noreferrer">open this page</a></p>
  <label>Or paste the code: <input name="code" type="password" autocomplete="off"></label>
  <button>Finish</button> <button type="button" id="cancel">Cancel</button>
</form>
<script>
const token = new URLSearchParams(location.search).get("token");
const $ = (id) => document.getElementById(id);
const call = (method, path, body) => fetch("/login" + path, {
  method, headers: {"X-Token": token, "Content-Type": "application/json"}, body: body && JSON.stringify(body),
}).then((response) => response.json());
const texts = {pending: "Waiting for you …", exchanging: "One moment …", finished: "You are signed in.",
               failed: "You are not signed in.", cancelled: "You are not signed in."};
function show(login) {
  $("status").textContent = [texts[login.status], login.error?.detail].filter(Boolean).join(" ");
  $("paste").hidden = login.url === null;
  if (login.url !== null) $("url").href = login.url;
}
$("start").onclick = async () => {
  show(await call("POST", ""));
  const events = new EventSource("/login/events?token=" + encodeURIComponent(token));
  events.onmessage = ({data}) => {
    const login = JSON.parse(data);
    show(login);
    if (login.url === null) events.close();
  };
};
$("paste").onsubmit = (event) => {
  event.preventDefault();
  call("POST", "/code", {code: event.target.code.value});
  event.target.reset();
};
$("cancel").onclick = () => call("DELETE", "");
</script>
"""


if __name__ == "__main__":
    port = int(os.environ.get("PORT", "8081"))
    print(f"Open http://127.0.0.1:{port}/?token={TOKEN}")
    uvicorn.run(app, host="127.0.0.1", port=port, access_log=False)
