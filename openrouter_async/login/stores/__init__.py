"""The records and the protocol of login stores, for implementations of your own."""

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
