"""Parsing of request bodies, by the rules of the API's description."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NoReturn
from uuid import UUID

import attrs

from openrouter_async._values.models import MAX_KEY_LABEL_LENGTH, CodeChallengeMethod, UsageLimitType
from openrouter_async._values.validation import is_finite_number
from openrouter_async.redaction._masks import mask, mask_optional
from openrouter_async.testing._authority import KeyOptions
from openrouter_async.testing._consent import BadAuthorizationError, check_callback_url
from openrouter_async.testing._dialects import Problem

_UTC_TIME: Final = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|\+00:00)", re.ASCII)


class MalformedBodyError(ValueError):
    """A body that the API refuses.

    Attributes:
        problems: The faults found in it.
    """

    def __init__(self, *problems: Problem) -> None:
        super().__init__("malformed body")
        self.problems = problems


@attrs.frozen(kw_only=True)
class Exchange:
    """The parsed body of ``POST /auth/keys``."""

    code: str = attrs.field(repr=mask)
    code_verifier: str | None = attrs.field(repr=mask_optional)
    code_challenge_method: CodeChallengeMethod | None


@attrs.frozen(kw_only=True)
class Creation:
    """The parsed body of ``POST /auth/keys/code``."""

    callback_url: str
    code_challenge: str | None
    code_challenge_method: CodeChallengeMethod | None
    key: KeyOptions


class _Fields:
    """Takes fields out of an object and collects the problems with them."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self._body = body
        self.problems: list[Problem] = []

    def take(
        self,
        name: str,
        parse: Callable[[Any], Any],
        requirement: str,
        expected: str | None = None,
        *,
        required: bool = False,
        nullable: bool = False,
    ) -> Any:
        if name not in self._body:
            if required:
                self.problems.append(Problem(name, requirement, expected))
            return None
        value = self._body[name]
        if value is None and nullable:
            return None
        try:
            return parse(value)
        except (ValueError, TypeError, OverflowError):
            self.problems.append(Problem(name, requirement, expected))
            return None

    def check(self) -> None:
        if self.problems:
            raise MalformedBodyError(*self.problems)


def parse(content: bytes) -> Mapping[str, Any]:
    """Parse a body that must be a JSON object.

    Raises:
        MalformedBodyError: The body is not a JSON object.
    """
    try:
        body = json.loads(content.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise MalformedBodyError(Problem("", "must be JSON")) from None
    if not isinstance(body, dict):
        raise MalformedBodyError(Problem("", "must be an object", "object"))
    return body


def read_exchange(content: bytes) -> Exchange:
    """Read the body of ``POST /auth/keys``.

    Raises:
        MalformedBodyError: The body does not match the API's description.
    """
    fields = _Fields(parse(content))
    code = fields.take("code", _text, "must be a string", "string", required=True)
    verifier = fields.take("code_verifier", _text, "must be a string", "string")
    method = fields.take("code_challenge_method", CodeChallengeMethod, "must be S256, plain or null", nullable=True)
    fields.check()
    return Exchange(code=code, code_verifier=verifier, code_challenge_method=method)


def read_creation(content: bytes) -> Creation:
    """Read the body of ``POST /auth/keys/code``.

    Raises:
        MalformedBodyError: The body does not match the API's description.
    """
    fields = _Fields(parse(content))
    creation = Creation(
        callback_url=fields.take(
            "callback_url",
            _callback_url,
            "must be an https URL, or http on localhost or 127.0.0.1, without a fragment",
            required=True,
        ),
        code_challenge=fields.take("code_challenge", _text, "must be a string", "string"),
        code_challenge_method=fields.take("code_challenge_method", CodeChallengeMethod, "must be S256 or plain"),
        key=KeyOptions(
            limit=fields.take("limit", _number, "must be a number", "number"),
            usage_limit_type=fields.take("usage_limit_type", UsageLimitType, "must be daily, weekly or monthly"),
            expires_at=fields.take(
                "expires_at", _utc_time, "must be a UTC timestamp like 2027-12-31T23:59:59Z", nullable=True
            ),
            label=fields.take("key_label", _label, f"must be a string of at most {MAX_KEY_LABEL_LENGTH} characters"),
            workspace_id=fields.take("workspace_id", _uuid, "must be a UUID"),
        ),
    )
    for hidden in ("spawn_agent", "spawn_cloud"):
        # OpenRouter's own tools send this.
        fields.take(hidden, _text, "must be a string", "string")
    fields.check()
    return creation


def _refuse(_constant: str) -> NoReturn:
    # Python's parser accepts NaN and Infinity, which are not JSON.
    raise ValueError


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _label(value: Any) -> str:
    if len(_text(value)) > MAX_KEY_LABEL_LENGTH:
        raise ValueError
    return _text(value)


def _number(value: Any) -> float:
    if not is_finite_number(value):
        raise TypeError
    return value


def _callback_url(value: Any) -> str:
    try:
        check_callback_url(_text(value))
    except BadAuthorizationError:
        raise ValueError from None
    return _text(value)


def _utc_time(value: Any) -> datetime:
    if not _UTC_TIME.fullmatch(_text(value)):
        raise ValueError
    return datetime.fromisoformat(value).astimezone(UTC)


def _uuid(value: Any) -> str:
    # uuid.UUID also accepts braces and missing hyphens.
    if str(UUID(_text(value))) != value.lower():
        raise ValueError
    return _text(value)
