"""What a store of pending logins holds and promises, for those who write one."""

from openrouter_async.login._records import (
    TOMBSTONE_TTL,
    Claim,
    ClaimRequest,
    ClaimStatus,
    KeyRecord,
    LoginRecord,
    LoginStore,
    digest,
    login_id,
)

__all__ = [
    "TOMBSTONE_TTL",
    "Claim",
    "ClaimRequest",
    "ClaimStatus",
    "KeyRecord",
    "LoginRecord",
    "LoginStore",
    "digest",
    "login_id",
]
