"""The API's operations: from a received request to its answer, without sockets."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Container, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

import attrs

from openrouter_async._http.pace import LeakyBucket
from openrouter_async.testing._authority import USER_ID, Authority, CodeRefusedError, IssuedKey
from openrouter_async.testing._bodies import MalformedBodyError, read_creation, read_exchange
from openrouter_async.testing._chat import complete
from openrouter_async.testing._dialects import Answer, Dialect, error, malformed, refusal, wrong_http_method
from openrouter_async.testing._records import BoundedHistory, RecordedRequest

Operation: TypeAlias = Callable[[RecordedRequest], Answer]

_UNKNOWN_KEY: Final = "User not found."
_PERIODS: Final = ("", "_daily", "_weekly", "_monthly")

APP_ID: Final = 12345
"""The id of the app that all codes belong to."""


@attrs.define(kw_only=True)
class API:
    """The operations, and the state that they change.

    Attributes:
        authority: Issues and redeems codes.
        tokens: The bearer tokens that may create codes.
        dialect: How refusals are worded.
        issued_keys: The issued keys.
        redeemed_codes: The codes for which keys were issued.
        counters: The number of events by name.
        monotonic: Returns the seconds since an arbitrary start.
        limit: The rate limit; None if there is none.
    """

    authority: Authority
    tokens: Container[str]
    dialect: Dialect
    issued_keys: BoundedHistory[IssuedKey]
    redeemed_codes: BoundedHistory[str]
    counters: Counter[str]
    monotonic: Callable[[], float]
    limit: LeakyBucket | None = None

    @property
    def routes(self) -> Mapping[str, tuple[str, str, Operation]]:
        """Return the name, the HTTP method and the operation of each path."""
        return {
            "/auth/keys": ("exchange", "POST", self._exchange),
            "/auth/keys/code": ("create", "POST", self._create),
            "/key": ("key", "GET", self._key),
            "/keys/{hash}": ("revoke", "DELETE", self._revoke),
            "/chat/completions": ("chat", "POST", self._chat),
        }

    def with_refusals(self, operation: Operation) -> Operation:
        """Return an operation whose refusals are answers, too.

        Args:
            operation: An operation of `routes`.
        """

        def answer(record: RecordedRequest) -> Answer:
            try:
                return operation(record)
            except MissingTokenError:
                return error(401, "Missing Authentication header")
            except MalformedBodyError as malformation:
                return malformed(self.dialect, malformation.problems)
            except CodeRefusedError as refused:
                return refusal(self.dialect, refused.refusal)

        return answer

    def refuse_early(self, record: RecordedRequest, method: str) -> Answer | None:
        """Refuse a request before its operation, if that is possible.

        Args:
            record: The request.
            method: The HTTP method of its path.

        Returns:
            The answer; None if the operation has to answer.
        """
        wait = 0.0 if self.limit is None else self.limit.take(self.monotonic())
        if wait:
            return error(429, "Rate limit exceeded", {"Retry-After": str(math.ceil(wait))})
        return None if record.method == method else wrong_http_method(self.dialect, [method])

    def _exchange(self, record: RecordedRequest) -> Answer:
        asked = read_exchange(record.content)
        key = self.authority.redeem(asked.code, asked.code_verifier, asked.code_challenge_method)
        self.issued_keys.add(key)
        self.redeemed_codes.add(key.code)
        self.counters["redeemed"] += 1
        return Answer(200, {"key": key.key, "user_id": key.user_id})

    def _create(self, record: RecordedRequest) -> Answer:
        token = bearer_of(record)
        if token not in self.tokens:
            if self.authority.find_valid_key(token) is not None:
                return error(403, "Only management keys can perform this operation")
            return error(401, "Invalid credentials")
        asked = read_creation(record.content)
        code = self.authority.issue(
            code_challenge=asked.code_challenge,
            code_challenge_method=asked.code_challenge_method,
            callback_url=asked.callback_url,
            key=asked.key,
        )
        created_at = datetime.fromtimestamp(code.created_at, UTC)
        return Answer(200, {"data": {"id": code.code, "app_id": APP_ID, "created_at": _timestamp(created_at)}})

    def _key(self, record: RecordedRequest) -> Answer:
        token = bearer_of(record)
        if token in self.tokens:
            return Answer(200, {"data": _describe(token, None)})
        key = self.authority.find_valid_key(token)
        return error(401, _UNKNOWN_KEY) if key is None else Answer(200, {"data": _describe(token, key)})

    def _revoke(self, record: RecordedRequest) -> Answer:
        if bearer_of(record) not in self.tokens:
            return error(401, "Invalid management key")
        if not self.authority.revoke(record.path.rpartition("/")[2]):
            return error(404, "API key not found")
        return Answer(200, {"deleted": True})

    def _chat(self, record: RecordedRequest) -> Answer:
        token = bearer_of(record)
        if token not in self.tokens and self.authority.find_valid_key(token) is None:
            return error(401, _UNKNOWN_KEY)
        return complete(record.content, created=int(self.authority.now()))


class MissingTokenError(Exception):
    """A request without a bearer token."""


def bearer_of(record: RecordedRequest) -> str:
    """Return the bearer token of a request (RFC 6750, section 2.1).

    Raises:
        MissingTokenError: The request has none.
    """
    scheme, _, token = record.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise MissingTokenError
    return token.strip()


def _timestamp(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


_NO_USAGE: Final = {f"{kind}{period}": 0 for kind in ("usage", "byok_usage") for period in _PERIODS}


def _describe(token: str, key: IssuedKey | None) -> dict[str, Any]:
    masked = f"{token[:12]}...{token[-3:]}"
    return {
        "label": masked,
        "include_byok_in_limit": False,
        **_NO_USAGE,
        "is_free_tier": True,
        "is_management_key": key is None,
        "is_provisioning_key": key is None,
        "organization_id": None,
        "rate_limit": {"requests": -1, "interval": "10s", "note": "This field is deprecated and safe to ignore."},
        "free_model_daily_requests": {"limit": 50, "used": 0, "remaining": 50},
        "allowed_data_regions": ["global"],
        **(_NO_KEY_OPTIONS if key is None else _describe_options(key, masked)),
    }


_NO_KEY_OPTIONS: Final[dict[str, Any]] = {
    "limit": None,
    "limit_remaining": None,
    "limit_reset": None,
    "expires_at": None,
    "creator_user_id": USER_ID,
    "workspace_id": None,
    "budgets": [],
    "effective_budget": None,
}


def _describe_options(key: IssuedKey, masked: str) -> dict[str, Any]:
    budget = None if key.limit is None else _budget(key, key.limit)
    return {
        "label": masked if key.label is None else key.label,
        "limit": key.limit,
        "limit_remaining": key.limit,
        "limit_reset": key.usage_limit_type,
        "expires_at": None if key.expires_at is None else _timestamp(key.expires_at),
        "creator_user_id": key.user_id,
        "workspace_id": key.workspace_id,
        "budgets": [] if budget is None else [budget],
        "effective_budget": budget,
    }


def _budget(key: IssuedKey, limit: float) -> dict[str, Any]:
    return {
        "scope": "key_limit",
        "budget_id": None,
        "guardrail_id": None,
        "limit_usd": limit,
        "spend_usd": 0,
        "remaining_usd": limit,
        "reset_interval": key.usage_limit_type,
        "resets_at": None,
        "include_byok": False,
    }
