"""The protocols of stores and their values, for implementations of your own."""

from openrouter_async.login._store import (
    TOMBSTONE_TTL,
    Claim,
    ClaimRequest,
    ClaimStatus,
    LeaseItem,
    LeaseStore,
    LoginStore,
)

__all__ = [
    "TOMBSTONE_TTL",
    "Claim",
    "ClaimRequest",
    "ClaimStatus",
    "LeaseItem",
    "LeaseStore",
    "LoginStore",
]
