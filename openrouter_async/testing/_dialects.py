"""The ways in which OpenRouter says no: as it is documented, and as it was observed."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from openrouter_async.testing._authority import Refusal

METHOD_NOT_ALLOWED: Final = "Method Not Allowed"


class Dialect(enum.StrEnum):
    """How refusals are worded where documentation and observation differ."""

    DOCUMENTED = "documented"
    """403 for a bad code, 405 for a wrong HTTP method, one shape for all errors."""
    OBSERVED = "observed"
    """400 ``Invalid code`` for a bad code, 404 for a wrong HTTP method, a ``ZodError`` for a malformed body."""


@attrs.frozen
class Answer:
    """What is sent back.

    Attributes:
        status: The HTTP status.
        body: What becomes JSON.
        headers: Headers beside it.
        events: JSON objects to send as server-sent events instead of the body; None for a plain answer.
    """

    status: int
    body: Mapping[str, Any]
    headers: Mapping[str, str] = attrs.field(factory=dict)
    events: Sequence[Mapping[str, Any]] | None = None


@attrs.frozen
class Problem:
    """What is wrong with a field of a body.

    Attributes:
        field: Its name; empty for the body itself.
        requirement: What it must be.
        expected: The type that it must have; None when that is not what is wrong.
    """

    field: str
    requirement: str
    expected: str | None = None


def error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Answer:
    """An error of the documented shape."""
    return Answer(status, {"error": {"code": status, "message": message}}, headers or {})


def refusal(dialect: Dialect, why: Refusal) -> Answer:
    """Say that a code is not redeemed."""
    if why is Refusal.INVALID_CODE and dialect is Dialect.OBSERVED:
        return error(400, "Invalid code")
    if why is Refusal.WRONG_METHOD:
        return error(400, "Invalid code_challenge_method")
    if why is Refusal.EXPIRED:
        return error(403, "Authorization code expired")
    return error(403, "Invalid code or code_verifier")


def wrong_http_method(dialect: Dialect, allowed: Sequence[str]) -> Answer:
    """Say that there is nothing for this method."""
    if dialect is Dialect.OBSERVED:
        return error(404, "Not Found")
    return error(405, METHOD_NOT_ALLOWED, {"Allow": ", ".join(sorted(allowed))})


def malformed(dialect: Dialect, problems: Sequence[Problem]) -> Answer:
    """Say what is wrong with a body."""
    if dialect is Dialect.DOCUMENTED:
        said = "; ".join(f"{problem.field or 'body'}: {problem.requirement}" for problem in problems)
        return error(400, f"Invalid request parameters: {said}")
    issues = [
        ({"code": "invalid_type", "expected": problem.expected} if problem.expected else {"code": "custom"})
        | {"path": [problem.field] if problem.field else [], "message": f"Invalid input: {problem.requirement}"}
        for problem in problems
    ]
    return Answer(400, {"success": False, "error": {"name": "ZodError", "message": json.dumps(issues, indent=2)}})
