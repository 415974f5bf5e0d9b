"""The wording of OpenRouter's refusals: as documented, and as observed."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from openrouter_async.testing._authority import Refusal

METHOD_NOT_ALLOWED: Final = "Method Not Allowed"


class Dialect(enum.StrEnum):
    """The wording of refusals where documentation and observation differ."""

    DOCUMENTED = "documented"
    """403 for a bad code, 405 for a wrong HTTP method, one shape for all errors."""
    OBSERVED = "observed"
    """400 ``Invalid code`` for a bad code, 404 for a wrong HTTP method, a ``ZodError`` for a malformed body."""


@attrs.frozen
class Answer:
    """An answer to send.

    Attributes:
        status: The HTTP status.
        body: The body, to be serialized as JSON.
        headers: Additional headers.
        events: JSON objects to send as server-sent events instead of the body; None for a plain answer.
    """

    status: int
    body: Mapping[str, Any]
    headers: Mapping[str, str] = attrs.field(factory=dict)
    events: Sequence[Mapping[str, Any]] | None = None


@attrs.frozen
class Problem:
    """A problem with a field of a body.

    Attributes:
        field: The name of the field; empty for the body itself.
        requirement: The requirement that the field does not meet.
        expected: The required type; None if the type is right.
    """

    field: str
    requirement: str
    expected: str | None = None


def error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Answer:
    """Return an error of the documented shape."""
    return Answer(status, {"error": {"code": status, "message": message}}, headers or {})


def refusal(dialect: Dialect, why: Refusal) -> Answer:
    """Return the answer to a code that is not redeemed."""
    if why is Refusal.INVALID_CODE and dialect is Dialect.OBSERVED:
        return error(400, "Invalid code")
    if why is Refusal.WRONG_METHOD:
        return error(400, "Invalid code_challenge_method")
    if why is Refusal.EXPIRED:
        return error(403, "Authorization code expired")
    return error(403, "Invalid code or code_verifier")


def wrong_http_method(dialect: Dialect, allowed: Sequence[str]) -> Answer:
    """Return the answer to an HTTP method that the path does not have."""
    if dialect is Dialect.OBSERVED:
        return error(404, "Not Found")
    return error(405, METHOD_NOT_ALLOWED, {"Allow": ", ".join(sorted(allowed))})


def malformed(dialect: Dialect, problems: Sequence[Problem]) -> Answer:
    """Return the answer to a malformed body."""
    if dialect is Dialect.DOCUMENTED:
        said = "; ".join(f"{problem.field or 'body'}: {problem.requirement}" for problem in problems)
        return error(400, f"Invalid request parameters: {said}")
    issues = [
        ({"code": "invalid_type", "expected": problem.expected} if problem.expected else {"code": "custom"})
        | {"path": [problem.field] if problem.field else [], "message": f"Invalid input: {problem.requirement}"}
        for problem in problems
    ]
    return Answer(400, {"success": False, "error": {"name": "ZodError", "message": json.dumps(issues, indent=2)}})
