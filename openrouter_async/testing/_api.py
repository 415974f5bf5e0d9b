"""The API's operations: from a request that came to the answer to give, without sockets."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Container, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

import attrs

from openrouter_async.testing._authority import Authority, CodeRefusedError, IssuedKey
from openrouter_async.testing._bodies import MalformedBodyError, read_creation, read_exchange
from openrouter_async.testing._dialects import Answer, Dialect, error, malformed, refusal, wrong_http_method
from openrouter_async.testing._records import BoundedHistory, RecordedRequest
from openrouter_async.testing._scripts import RateLimit

Operation: TypeAlias = Callable[[RecordedRequest], Answer]

APP_ID: Final = 12345
"""The id of the app that all codes belong to."""


@attrs.define(kw_only=True)
class API:
    """The operations, and what they leave behind.

    Attributes:
        authority: Issues and redeems.
        tokens: The bearer tokens that may create codes.
        dialect: How refusals are worded.
        issued_keys: The keys that were issued.
        redeemed_codes: The codes that they were issued for.
        counters: How often what happened.
        limit: The rate limit; None for none.
    """

    authority: Authority
    tokens: Container[str]
    dialect: Dialect
    issued_keys: BoundedHistory[IssuedKey]
    redeemed_codes: BoundedHistory[str]
    counters: Counter[str]
    limit: RateLimit | None = None

    @property
    def routes(self) -> Mapping[str, tuple[str, str, Operation]]:
        """The name, the HTTP method and the operation of each path."""
        return {
            "/auth/keys": ("exchange", "POST", self._exchange),
            "/auth/keys/code": ("create", "POST", self._create),
            "/key": ("key", "GET", self._key),
        }

    def refuse_early(self, record: RecordedRequest, method: str) -> Answer | None:
        """The answer to a request that no operation has to look at; None when one has.

        Args:
            record: The request.
            method: The HTTP method that its path is for.
        """
        wait = 0.0 if self.limit is None else self.limit.take()
        if wait:
            return error(429, "Rate limit exceeded", {"Retry-After": str(math.ceil(wait))})
        return None if record.method == method else wrong_http_method(self.dialect, [method])

    def _exchange(self, record: RecordedRequest) -> Answer:
        try:
            asked = read_exchange(record.content)
            key = self.authority.redeem(asked.code, asked.code_verifier, asked.code_challenge_method)
        except MalformedBodyError as malformation:
            return malformed(self.dialect, malformation.problems)
        except CodeRefusedError as refused:
            return refusal(self.dialect, refused.refusal)
        self.issued_keys.add(key)
        self.redeemed_codes.add(key.code)
        self.counters["redeemed"] += 1
        return Answer(200, {"key": key.key, "user_id": key.user_id})

    def _create(self, record: RecordedRequest) -> Answer:
        token = bearer_of(record)
        if token is None:
            return error(401, "Missing Authentication header")
        if token not in self.tokens:
            if self.authority.find_valid_key(token) is not None:
                return error(403, "Only management keys can perform this operation")
            return error(401, "Invalid credentials")
        try:
            asked = read_creation(record.content)
        except MalformedBodyError as malformation:
            return malformed(self.dialect, malformation.problems)
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
        if token is None:
            return error(401, "Missing Authentication header")
        key = self.authority.find_valid_key(token)
        return error(401, "Invalid credentials") if key is None else Answer(200, {"data": _describe(key)})


def bearer_of(record: RecordedRequest) -> str | None:
    """The bearer token of a request; None without one (RFC 6750, section 2.1)."""
    scheme, _, token = record.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def _timestamp(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _describe(key: IssuedKey) -> dict[str, Any]:
    return {
        "label": f"{key.key[:12]}...{key.key[-3:]}" if key.label is None else key.label,
        "limit": key.limit,
        "limit_remaining": key.limit,
        "limit_reset": key.usage_limit_type,
        "usage": 0,
        "is_free_tier": True,
        "expires_at": None if key.expires_at is None else _timestamp(key.expires_at),
    }
