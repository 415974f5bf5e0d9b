"""Logins that a script of the app's own page starts."""

from fastapi import Request
from fastapi.responses import JSONResponse

from benchmarks.sites.logins import LIFETIME, start
from benchmarks.sites.origin import check_origin


def start_json(request: Request) -> JSONResponse:
    """Start a login, and tell the script about it."""
    check_origin(request)
    login = start(request.query_params.get("next", "/"))
    about = {"login": login.state, "authorization_url": login.url, "expires_in": LIFETIME}
    return login.bind(JSONResponse(about | {"status_url": f"/login/status/{login.state}"}))
