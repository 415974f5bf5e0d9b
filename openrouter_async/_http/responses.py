"""Interpretation of answers: the outcome and the error of an attempt, and of a call with several attempts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from openrouter_async._http.chain import Request, Response
from openrouter_async._http.retry_policy import parse_retry_after
from openrouter_async._values.clock import Clock
from openrouter_async._values.converter import MalformedBodyError, load_json
from openrouter_async._values.models import request_id_of
from openrouter_async.errors import APIError, OpenRouterError, Outcome, ResponseValidationError
from openrouter_async.redaction._masks import scrub

_MAX_MESSAGE_LENGTH: Final = 200
_MAX_BODY_LENGTH: Final = 65_536
# Strings, which `re` compiles and caches on first use, because error pages are rare. No character can be matched by two
# parts of an expression, so that even a hostile page is searched in linear time.
_TITLE: Final = r"(?i)<title[^<>]*>([^<]*)"
_MAX_TITLE_SEARCH: Final = 4_096
_LOOKS_LIKE_HTML: Final = r"(?i)\s*<(!doctype|html|head|body)"


def outcome_of(status: int) -> Outcome:
    """Return the outcome of a request that got an error status.

    A 5xx, or a 408 from an intermediary, may come after the server carried the request out. Any other 4xx, including a
    429, means that the request was not carried out (RFC 9110, section 15.5; RFC 6585, section 4). A client cannot
    detect a server that sends one after it redeemed the code.
    """
    return Outcome.UNKNOWN if status >= 500 or status == 408 else Outcome.REFUSED


def error_from_response(request: Request, response: Response, clock: Clock) -> OpenRouterError:
    """Return the error for an answer that is not a 2xx."""
    error = _error_from(request, response, clock)
    for note in response.notes:
        error.add_note(note)
    return error


def _error_from(request: Request, response: Response, clock: Clock) -> OpenRouterError:
    if response.status_code < 400:
        kind = "a redirect, which is never followed" if response.status_code >= 300 else "an informational answer"
        return ResponseValidationError(
            f"{response.status_code}: {kind}", status_code=response.status_code, headers=response.headers
        )
    text = response.body.decode("utf-8", "replace")
    message, code, metadata = _read_error_body(text)
    message, metadata = scrub(message, request.secrets), _scrub_values(metadata, request.secrets)
    if response.headers.get("CF-Mitigated") == "challenge":
        message = "Cloudflare wants to see a browser (cf-mitigated: challenge)"
    return APIError.for_status(response.status_code)(
        _one_line(message) or _reason(response.status_code),
        status_code=response.status_code,
        outcome=outcome_of(response.status_code),
        code=code,
        metadata=metadata,
        body=scrub(text, request.secrets)[:_MAX_BODY_LENGTH],
        headers=response.headers,
        request_id=request_id_of(response.headers),
        retry_after=parse_retry_after(response.headers, clock.time()),
    )


def finalize_error(error: OpenRouterError) -> None:
    """Make an error describe the whole call: set its attempts and outcome, and add earlier failures as notes.

    A code is single-use. If an earlier attempt may have been carried out, "Invalid code" is not a refusal but a sign
    that a key was issued; the first ambiguous failure becomes the cause.
    """
    for attempt in error.history:
        error.add_note(str(attempt))
    error.attempts += len(error.history)
    first = next((attempt for attempt in error.history if attempt.is_ambiguous), None)
    if first is None:
        return
    error.outcome = Outcome.UNKNOWN
    error.__cause__ = first.error
    if isinstance(error, APIError) and error.is_code_rejected:
        error.args = (
            f"{error}: but attempt {first.number} may have used the code ({first.error}). "
            "Log in again; an unused key may be listed at https://openrouter.ai/settings/keys",
        )


def _read_error_body(text: str) -> tuple[str, int | None, Mapping[str, Any] | None]:
    try:
        payload = load_json(text.encode("utf-8", "replace"))
    except MalformedBodyError:
        return (_describe_html(text) if re.match(_LOOKS_LIKE_HTML, text) else text), None, None
    error = payload.get("error", payload) if isinstance(payload, dict) else payload
    if not isinstance(error, dict):
        return _text_or_empty(error), None, None
    message, code, metadata = error.get("message"), error.get("code"), error.get("metadata")
    if error.get("name") == "ZodError" and isinstance(message, str):
        message = _describe_zod_issues(message)
    return (
        _text_or_empty(message),
        code if isinstance(code, int) and not isinstance(code, bool) else None,
        metadata if isinstance(metadata, dict) else None,
    )


def _text_or_empty(value: object) -> str:
    return value if isinstance(value, str) else ""


def _scrub_values(value: Any, secrets: tuple[str, ...]) -> Any:
    if isinstance(value, str):
        return scrub(value, secrets)
    if isinstance(value, dict):
        return {scrub(name, secrets): _scrub_values(inner, secrets) for name, inner in value.items()}
    if isinstance(value, list):
        return [_scrub_values(inner, secrets) for inner in value]
    return value


def _describe_html(text: str) -> str:
    # Imported here, because it loads a table of all entities, and HTML answers are rare.
    import html

    title = re.search(_TITLE, text[:_MAX_TITLE_SEARCH])
    return f"an HTML page: {html.unescape(title[1])}" if title else "an HTML page"


def _describe_zod_issues(message: str) -> str:
    try:
        issues = json.loads(message)
        return "; ".join(f"{'.'.join(map(str, issue['path']))}: {issue['message']}" for issue in issues)
    except (ValueError, TypeError, KeyError, RecursionError):
        return message


def _one_line(text: str) -> str:
    line = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return line if len(line) <= _MAX_MESSAGE_LENGTH else f"{line[: _MAX_MESSAGE_LENGTH - 1]}…"


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "(no reason given)"
