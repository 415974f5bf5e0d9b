"""Sign in by a code that the user pastes, or by the callback, whichever comes first."""

from urllib.parse import parse_qs, urlsplit

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field

from benchmarks.sites.app import make_app, page, sign_in
from benchmarks.sites.exchange import SignInError
from benchmarks.sites.logins import find, finish_callback
from benchmarks.sites.origin import check_origin
from benchmarks.sites.scripts import start_json

app = make_app()


class Pasted(BaseModel):
    login: str = Field(max_length=64)
    code: str = Field(max_length=4096)


@app.post("/login")
async def begin(request: Request) -> Response:
    return start_json(request)


@app.get("/callback/{state}")
async def callback(request: Request, state: str, code: str = "", error: str = "") -> Response:
    _, grant = await finish_callback(request, state, code, error)
    return sign_in(page("You can close this tab.", script="history.replaceState(null, '', '/');"), grant)


@app.post("/login/complete")
async def complete(request: Request, pasted: Pasted) -> Response:
    check_origin(request)
    login = find(request, pasted.login)
    # A refused code leaves the login open.
    grant = await login.finish(request, code_in(pasted.code.strip(), login.state))
    return sign_in(JSONResponse({"status": "finished"}), grant)


def code_in(text: str, state: str) -> str:
    """Return the code in a text, which is one, or the address that the browser ended on."""
    if "://" not in text:
        return text
    url = urlsplit(text)
    if not url.path.endswith(f"/callback/{state}"):
        raise SignInError("This address belongs to another sign-in.")
    return parse_qs(url.query).get("code", [""])[0]


app.mount("/", StaticFiles(directory="pages"))
