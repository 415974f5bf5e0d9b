"""The state of an API key, as the operation ``getCurrentKey`` of OpenRouter's API reference describes it."""

from __future__ import annotations

from datetime import datetime

import attrs

from openrouter_async._values.models import HttpMeta


@attrs.frozen(kw_only=True)
class CurrentKey:
    """The state of an API key that is valid.

    Unknown fields are ignored, and a missing field is None. A valid key can have no credit left: see ``has_credit``.
    The account's own credits cannot be read with a user's key.

    Attributes:
        label: The name of the key.
        limit: The credit limit of the key in US dollars; None for no limit.
        limit_remaining: The rest of the limit in US dollars; None for no limit.
        limit_reset: When the limit resets, such as ``monthly``; None for never.
        usage: The total usage of the key in US dollars.
        usage_daily: The usage on the current UTC day in US dollars.
        usage_weekly: The usage in the current UTC week in US dollars.
        usage_monthly: The usage in the current UTC month in US dollars.
        is_free_tier: Whether the account has never bought credits.
        is_management_key: Whether the key can manage other keys, which a user's key cannot.
        expires_at: When the key expires, with its time zone; None for never.
        creator_user_id: The id of the user who created the key.
    """

    label: str | None = None
    limit: float | None = None
    limit_remaining: float | None = None
    limit_reset: str | None = None
    usage: float | None = None
    usage_daily: float | None = None
    usage_weekly: float | None = None
    usage_monthly: float | None = None
    is_free_tier: bool | None = None
    is_management_key: bool | None = None
    expires_at: datetime | None = None
    creator_user_id: str | None = None

    @property
    def has_credit(self) -> bool:
        """Whether something is left of the key's own limit; True without a limit."""
        return self.limit_remaining is None or self.limit_remaining > 0


@attrs.frozen(kw_only=True)
class GetCurrentKeyResponse:
    """The response of ``GET /key``.

    Attributes:
        data: The state of the key.
        http_meta: The HTTP metadata of the answer; ignored by ``==``.
    """

    data: CurrentKey
    http_meta: HttpMeta = attrs.field(factory=HttpMeta, eq=False, repr=False)
