"""Sign in by a page that does PKCE itself, and brings its code and its verifier."""

import asyncio
from hashlib import sha256

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field

from benchmarks.sites.app import make_app, sign_in
from benchmarks.sites.exchange import SignInError, exchange
from benchmarks.sites.origin import check_origin

MAX_BODY = 8192
MAX_CODES = 10_000
CODES: dict[bytes, bool] = {}

app = make_app()


class Exchange(BaseModel):
    code: str = Field(min_length=1, max_length=1024)
    code_verifier: str = Field(pattern=r"^[\w.~-]{43,128}$")


@app.post("/exchange")
async def exchange_code(request: Request) -> Response:
    check_origin(request)
    try:
        asked = Exchange.model_validate_json(await read_body(request))
    except ValueError:
        raise SignInError("The request is not valid.") from None
    digest = sha256(f"{asked.code}\n{asked.code_verifier}".encode()).digest()
    if digest in CODES:
        raise SignInError("This code was used already. Please sign in again.", 409)
    CODES[digest] = True
    if len(CODES) > MAX_CODES:
        del CODES[next(iter(CODES))]
    # The exchange goes on if the page is left meanwhile.
    grant = await asyncio.shield(asyncio.create_task(exchange(request, asked.code, asked.code_verifier)))
    return sign_in(JSONResponse({"status": "finished"}), grant)


async def read_body(request: Request) -> bytes:
    """Read a small JSON body."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise SignInError("The request is too large.", 413)
    return body


app.mount("/", StaticFiles(directory="pages"))
