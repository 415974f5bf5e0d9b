"""The description of the API as the fake serves it, in OpenAPI 3.1 and in the project's own words."""

from __future__ import annotations

from typing import Any, Final


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties}


def _json(schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _with_stream(answers: dict[str, Any]) -> dict[str, Any]:
    # The schema is that of one event.
    answers["200"]["content"]["text/event-stream"] = {"schema": _object(["data"], data={"type": "string"})}
    return answers


def _answers(success: dict[str, Any], *statuses: int) -> dict[str, Any]:
    error = {"$ref": "#/components/schemas/Error"}
    return {"200": _json(success, "It was done")} | {
        str(status): _json(error, _MEANINGS[status]) for status in statuses
    }


_MEANINGS: Final = {
    400: "The request is malformed",
    401: "The bearer token is missing or not valid",
    403: "The code or its verifier is not valid, or the bearer token may not do this",
    404: "There is no such key",
    405: "The path has another HTTP method",
    413: "The request is too large",
    429: "There are too many requests",
    500: "The server failed",
}
_NULLABLE_TEXT: Final[dict[str, Any]] = {"type": ["string", "null"]}
_METHODS: Final = ["S256", "plain"]

DESCRIPTION: Final[dict[str, Any]] = {
    "openapi": "3.1.0",
    "info": {"title": "The fake OpenRouter's OAuth API", "version": "1"},
    "paths": {
        "/auth/keys": {
            "post": {
                "operationId": "exchangeAuthCodeForAPIKey",
                "summary": "Exchange an authorization code for an API key",
                "requestBody": {
                    "required": True,
                    **_json(
                        _object(
                            ["code"],
                            code={"type": "string"},
                            code_verifier={"type": "string"},
                            code_challenge_method={"type": ["string", "null"], "enum": [*_METHODS, None]},
                        ),
                        "The code, and the proof of possession",
                    ),
                },
                "responses": _answers(
                    _object(["key", "user_id"], key={"type": "string"}, user_id=_NULLABLE_TEXT),
                    *(400, 403, 405, 413, 429, 500),
                ),
            }
        },
        "/auth/keys/code": {
            "post": {
                "operationId": "createAuthKeysCode",
                "summary": "Create an authorization code",
                "security": [{"bearer": []}],
                "requestBody": {
                    "required": True,
                    **_json(
                        _object(
                            ["callback_url"],
                            callback_url={
                                "type": "string",
                                "format": "uri",
                                "examples": ["https://app.example/callback"],
                            },
                            code_challenge={"type": "string"},
                            code_challenge_method={"type": "string", "enum": _METHODS},
                            limit={"type": "number"},
                            usage_limit_type={"type": "string", "enum": ["daily", "weekly", "monthly"]},
                            expires_at={
                                "type": ["string", "null"],
                                "format": "date-time",
                                "examples": ["2027-12-31T23:59:59Z"],
                            },
                            key_label={"type": "string", "maxLength": 100},
                            workspace_id={"type": "string", "format": "uuid"},
                        ),
                        "The properties of the code and its key",
                    ),
                },
                "responses": _answers(
                    _object(
                        ["data"],
                        data=_object(
                            ["id", "app_id", "created_at"],
                            id={"type": "string"},
                            app_id={"type": "integer"},
                            created_at={"type": "string", "format": "date-time"},
                        ),
                    ),
                    *(400, 401, 403, 405, 413, 429, 500),
                ),
            }
        },
        "/key": {
            "get": {
                "operationId": "getCurrentKey",
                "summary": "Get the state of the bearer's key",
                "security": [{"bearer": []}],
                "responses": _answers(_object(["data"], data={"type": "object"}), 401, 405, 413, 429, 500),
            }
        },
        "/keys/{hash}": {
            "delete": {
                "operationId": "deleteKeys",
                "summary": "Revoke a key",
                "security": [{"bearer": []}],
                "parameters": [{"name": "hash", "in": "path", "required": True, "schema": {"type": "string"}}],
                "responses": _answers(_object(["deleted"], deleted={"type": "boolean"}), 401, 404, 405, 413, 429, 500),
            }
        },
        "/chat/completions": {
            "post": {
                "operationId": "sendChatCompletionRequest",
                "summary": "Repeat the last message, as a stream of events if requested",
                "security": [{"bearer": []}],
                "requestBody": {
                    "required": True,
                    **_json(
                        _object(
                            ["messages"],
                            model={"type": "string"},
                            messages={"type": "array", "minItems": 1, "items": {"type": "object"}},
                            stream={"type": "boolean"},
                        ),
                        "The messages so far",
                    ),
                },
                "responses": _with_stream(
                    _answers(_object(["choices"], choices={"type": "array"}), 400, 401, 405, 413, 429, 500)
                ),
            }
        },
    },
    "components": {
        "schemas": {
            "Error": _object(
                ["error"],
                error=_object(
                    ["code", "message"],
                    code={"type": "integer"},
                    message={"type": "string"},
                    metadata={"type": ["object", "null"]},
                ),
                user_id=_NULLABLE_TEXT,
            )
        },
        "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
    },
}
"""The OpenAPI description, without the URL of the server."""
