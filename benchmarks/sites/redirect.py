"""Sign in by a link that leads to OpenRouter and back."""

from fastapi import Request, Response
from fastapi.responses import RedirectResponse
from fastapi.staticfiles import StaticFiles

from benchmarks.sites.app import make_app, sign_in
from benchmarks.sites.logins import finish_callback, start

app = make_app()


@app.get("/login")
async def begin(request: Request) -> Response:
    login = start(request.query_params.get("next", "/"))
    return login.bind(RedirectResponse(login.url, 303))


@app.get("/callback/{state}")
async def callback(request: Request, state: str, code: str = "", error: str = "") -> Response:
    login, grant = await finish_callback(request, state, code, error)
    return sign_in(RedirectResponse(login.return_to, 303), grant)


app.mount("/", StaticFiles(directory="pages"))
