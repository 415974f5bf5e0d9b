"""The state of an API key, as the operation ``getCurrentKey`` of OpenRouter's API reference describes it."""

from __future__ import annotations

from datetime import datetime

import attrs

from openrouter_async._values.models import HttpMeta


@attrs.frozen(kw_only=True)
class CurrentKey:
    """The state of an API key that is valid.

    Fields that OpenRouter adds are ignored, and a field that is missing is None. A valid key can be without credit: see
    ``has_credit``. The account's own credits cannot be read with a user's key.

    Attributes:
        label: The name of the key.
        limit: The credit limit of the key in US dollars; None for no limit.
        limit_remaining: US dollars that are left of the limit; None for no limit.
        limit_reset: When the limit resets, such as ``monthly``; None for never.
        usage: US dollars that were used with the key, in all.
        usage_daily: US dollars that were used on the current UTC day.
        usage_weekly: US dollars that were used in the current UTC week.
        usage_monthly: US dollars that were used in the current UTC month.
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
        """Whether the key's own limit leaves something to use; True without a limit."""
        return self.limit_remaining is None or self.limit_remaining > 0


@attrs.frozen(kw_only=True)
class GetCurrentKeyResponse:
    """The response of ``GET /key``.

    Attributes:
        data: The state of the key.
        http_meta: How the response came about; not part of equality.
    """

    data: CurrentKey
    http_meta: HttpMeta = attrs.field(factory=HttpMeta, eq=False, repr=False)
