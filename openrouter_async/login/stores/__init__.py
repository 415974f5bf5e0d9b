"""What a store of pending logins holds and promises, for those who write one."""

from openrouter_async.login._records import (
    GRACE,
    Claim,
    Claimant,
    ClaimStatus,
    KeyRecord,
    LoginRecord,
    Store,
    digest,
    login_id,
)

__all__ = ["GRACE", "Claim", "ClaimStatus", "Claimant", "KeyRecord", "LoginRecord", "Store", "digest", "login_id"]
