"""The status of a request that may have been sent before, in this run or an earlier one."""

from __future__ import annotations

import enum
import hashlib

from openrouter_async._values.models import ExchangeAuthCodeForAPIKeyRequest, ExchangeAuthCodeForAPIKeyResponse
from openrouter_async.errors import APIError, OpenRouterError, Outcome, TransportError


class RequestStatus(enum.StrEnum):
    """The status of a request that was tried."""

    UNCERTAIN = "uncertain"
    """It was sent, or was about to be sent, and its result is not known: it may have been carried out."""
    RETRYABLE = "retryable"
    """It was not sent, or was refused for a temporary reason: it can be sent again."""
    SUCCEEDED = "succeeded"
    """It succeeded."""
    REJECTED = "rejected"
    """It was refused permanently."""
    LOST = "lost"
    """Its code was used, and it is unknown by whom: a key may have been issued that nobody has."""

    @property
    def is_final(self) -> bool:
        """Whether trying again is pointless."""
        return self in (RequestStatus.SUCCEEDED, RequestStatus.REJECTED, RequestStatus.LOST)


def request_digest(request: ExchangeAuthCodeForAPIKeyRequest | str) -> str:
    """Return the identifier of a request in journals and leases: 128 bits of the SHA-256 of its fields, in hex.

    A code with its verifier is as powerful as the key, and journals are kept for a long time. The digest identifies
    equal requests without revealing them, because codes are far too long to be guessed.

    Args:
        request: The request, or a bare code.
    """
    if isinstance(request, str):
        request = ExchangeAuthCodeForAPIKeyRequest(code=request)
    # Each field is preceded by its length, so that different requests give different texts.
    text = f"{len(request.code)}:{request.code}:{request.code_verifier}:{request.code_challenge_method}"
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]


def status_after(result: ExchangeAuthCodeForAPIKeyResponse | Exception) -> RequestStatus:
    """Return the status of a request after one attempt."""
    if isinstance(result, ExchangeAuthCodeForAPIKeyResponse):
        return RequestStatus.SUCCEEDED
    if not isinstance(result, OpenRouterError):
        # A middleware of the app does not say whether it sent the request.
        return RequestStatus.UNCERTAIN
    if isinstance(result, APIError) and (result.is_code_rejected or result.status_code == 400):
        return RequestStatus.LOST if result.outcome is Outcome.UNKNOWN else RequestStatus.REJECTED
    return {
        Outcome.NOT_SENT: RequestStatus.RETRYABLE,
        # A bearer token can be corrected, and a pause ends.
        Outcome.REFUSED: RequestStatus.RETRYABLE,
        Outcome.UNKNOWN: RequestStatus.UNCERTAIN,
        Outcome.COMPLETED: RequestStatus.SUCCEEDED,
    }[result.outcome]


def mark_outcome_unknown(error: Exception) -> None:
    """Set the outcome of a rejection to unknown, because an earlier attempt may have used the code."""
    if isinstance(error, APIError) and error.is_code_rejected and error.outcome is Outcome.REFUSED:
        error.outcome = Outcome.UNKNOWN
        error.__cause__ = TransportError("an earlier run ended without an answer", outcome=Outcome.UNKNOWN)
        error.args = (
            f"{error}: but an earlier run may have used the code. "
            "Log in again; an unused key may be listed at https://openrouter.ai/settings/keys",
        )
