"""The OpenAPI descriptions of the routes that the FastAPI integration adds."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal

from fastapi.responses import JSONResponse, RedirectResponse
from pydantic import BaseModel, Field


class Problem(BaseModel):
    """Why a sign-in failed (RFC 9457)."""

    type: str = Field(description="The kind of the failure, a URI")
    title: str
    status: int
    detail: str = Field(description="A sentence that is safe to show to the user")
    outcome: Literal["not_sent", "refused", "unknown", "completed"] = Field(description="The outcome of the code")
    restart_login: bool = Field(description="Whether the user has to sign in again from the start")
    retry_after: int | None = Field(description="Seconds until another try may succeed")


class StartedLogin(BaseModel):
    """A sign-in that a page of the app started."""

    authorization_url: str = Field(description="The page of OpenRouter to open")
    expires_at: datetime
    login: str = Field(description="The id of the sign-in")
    status_url: str | None = Field(description="The URL at which this browser gets the status")


class LoginStatus(BaseModel):
    """The status of a sign-in."""

    status: Literal["pending", "finished", "failed"]
    login: str
    expires_at: datetime | None = None
    return_to: str | None = None
    error: Problem | None = None


class FinishedLogin(BaseModel):
    """A sign-in that succeeded."""

    status: Literal["finished"]
    return_to: str = Field(description="The path to lead the user to")


class SignedOut(BaseModel):
    """A user who is signed out."""

    status: Literal["signed_out"]
    settings_url: str = Field(description="The page of OpenRouter where the user can delete the key")


class PastedCode(BaseModel):
    """A code that the user pasted."""

    login: str = Field(description="The id of the sign-in")
    code: str = Field(description="The code, or the URL that the browser ended on")


class CodeWithVerifier(BaseModel):
    """The code of a page that does PKCE itself."""

    code: str
    code_verifier: str
    code_challenge_method: Literal["S256", "plain"] | None = "S256"


_TAGS: Final = ["sign-in"]
_PROBLEM: Final = {"application/problem+json": {"schema": Problem.model_json_schema()}}
_PAGE: Final = {"text/html": {"schema": {"type": "string"}}}
_NEXT: Final = ("next", "The path on this site to return to", {"maxLength": 512})
_DISPLAY: Final = ("display", "How the sign-in ends", {"enum": ["redirect", "popup", "page"]})
_FAILURES: Final = {
    400: "The request is not valid, or belongs to another browser",
    403: "The user denied access, or the request comes from another origin",
    404: "This browser did not start this sign-in",
    409: "The sign-in is already finished, or is being finished",
    410: "The sign-in took too long, or was cancelled",
    413: "The body is too large",
    415: "The body is not JSON",
    429: "Too many codes came from this address, or too many were rejected",
    500: "Sign-in is not possible",
    502: "OpenRouter's answer could not be used",
    503: "OpenRouter cannot be reached, or is busy",
}
_OF_CODES: Final = (400, 403, 409, 410, 429, 500, 502, 503)


def describe(route: str, method: str, path: str) -> dict[str, Any]:
    """Return the arguments of ``add_api_route`` that describe an operation.

    Args:
        route: The name of the route.
        method: The HTTP method.
        path: The path of the route.
    """
    match route, method:
        case "login", "GET":
            return _redirect(
                "Sign in with OpenRouter",
                {200: "A page with a link that starts the sign-in, if another site sent the browser"},
                (400, 503),
                [_parameter(*_NEXT), _parameter(*_DISPLAY)],
                "To OpenRouter's page, where the user consents",
            )
        case "login", _:
            parameters = [_parameter(*_NEXT), _parameter(*_DISPLAY)]
            return _json("Start to sign in with OpenRouter", StartedLogin, (400, 403, 503), parameters)
        case "callback", _:
            parameters = [
                _parameter("code", "The authorization code"),
                _parameter("state", "The state, as it was sent"),
                _parameter("error", "Why there is no code, such as `access_denied`"),
            ]
            if "{state}" in path:
                parameters.insert(0, _in_path("state", "The state"))
            return _redirect(
                "Come back from OpenRouter",
                {200: "Signed in, in a popup or a tab of its own"},
                _OF_CODES,
                parameters,
                "Signed in; back into the app",
            )
        case "status", "GET":
            parameters = [
                _in_path("login", "The id of the sign-in"),
                _parameter("wait", "Seconds to wait for its end", {"type": "number", "minimum": 0}),
            ]
            return _json("Get the status of a sign-in", LoginStatus, (400, 403, 404, 503), parameters)
        case "status", _:
            parameters = [_in_path("login", "The id of the sign-in")]
            return _json("Cancel a sign-in", LoginStatus, (403, 404, 409, 503), parameters)
        case "complete", _:
            statuses = (*_OF_CODES, 413, 415)
            return _json("Finish a sign-in with a pasted code", FinishedLogin, statuses, body=PastedCode)
        case "exchange", _:
            statuses = (*_OF_CODES, 413, 415)
            parameters = [_parameter(*_NEXT)]
            return _json("Sign in with a code of the page", FinishedLogin, statuses, parameters, CodeWithVerifier)
        case _:
            return _json("Sign out", SignedOut, (403, 500))


def _parameter(name: str, description: str, schema: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {
        "name": name,
        "in": "query",
        "required": False,
        "description": description,
        "schema": {"type": "string", **(schema or {})},
    }


def _in_path(name: str, description: str) -> dict[str, Any]:
    return {**_parameter(name, description), "in": "path", "required": True}


def _redirect(
    summary: str,
    pages: Mapping[int, str],
    failures: tuple[int, ...],
    parameters: list[dict[str, Any]],
    location: str,
) -> dict[str, Any]:
    """Describe an operation for browsers, which leads on to another page."""
    responses: dict[int | str, dict[str, Any]] = {
        status: {"description": text, "content": dict(_PAGE)} for status, text in pages.items()
    }
    responses[303] = {
        "description": location,
        "headers": {"Location": {"description": "Where to go", "schema": {"type": "string"}}},
    }
    for status in failures:
        responses[status] = {"description": _FAILURES[status], "content": _PAGE | _PROBLEM}
    return {
        "summary": summary,
        "tags": list(_TAGS),
        "status_code": 303,
        "response_class": RedirectResponse,
        "response_model": None,
        "responses": responses,
        "openapi_extra": {"parameters": parameters},
    }


def _json(
    summary: str,
    model: type[BaseModel],
    failures: tuple[int, ...],
    parameters: list[dict[str, Any]] | None = None,
    body: type[BaseModel] | None = None,
) -> dict[str, Any]:
    """Describe an operation for scripts."""
    extra: dict[str, Any] = {"parameters": parameters or []}
    if body is not None:
        extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": body.model_json_schema()}}}
    return {
        "summary": summary,
        "tags": list(_TAGS),
        "response_class": JSONResponse,
        "response_model": None,
        "responses": {
            200: {"description": "Success", "model": model},
            **{status: {"description": _FAILURES[status], "content": _PROBLEM | _PAGE} for status in failures},
        },
        "openapi_extra": extra,
    }
