"""What is known of a request that may have been tried before, in this run or an earlier one."""

from __future__ import annotations

import enum
import hashlib

from openrouter_async._values.models import ExchangeAuthCodeForAPIKeyRequest, ExchangeAuthCodeForAPIKeyResponse
from openrouter_async.errors import APIError, OpenRouterError, Outcome, TransportError


class RequestStatus(enum.StrEnum):
    """What is known of a request that was tried."""

    UNCERTAIN = "uncertain"
    """It was about to be sent, or was sent, and its result is not known: it may have been carried out."""
    RETRYABLE = "retryable"
    """It never left, or was refused for a reason that passes; it is as good as new."""
    SUCCEEDED = "succeeded"
    """It gave a key."""
    REJECTED = "rejected"
    """It was refused for good."""
    LOST = "lost"
    """Its code is used up, and it is unknown by whom: a key may exist that nobody has."""

    @property
    def is_final(self) -> bool:
        """Whether trying again is of no use."""
        return self in (RequestStatus.SUCCEEDED, RequestStatus.REJECTED, RequestStatus.LOST)


def request_digest(request: ExchangeAuthCodeForAPIKeyRequest | str) -> str:
    """The name of a request in journals and claims: 128 bits of the SHA-256 of its fields, in hex.

    A code together with its verifier is as good as the key, and what names them outlives both by far. A digest tells
    equal requests from others, and gives nothing away: a code is far too long to be guessed.

    Args:
        request: The request, or a bare code.
    """
    if isinstance(request, str):
        request = ExchangeAuthCodeForAPIKeyRequest(code=request)
    # The length keeps the fields apart: no two requests make the same text.
    text = f"{len(request.code)}:{request.code}:{request.code_verifier}:{request.code_challenge_method}"
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]


def status_after(result: ExchangeAuthCodeForAPIKeyResponse | Exception) -> RequestStatus:
    """What the result of one try tells of its request."""
    if isinstance(result, ExchangeAuthCodeForAPIKeyResponse):
        return RequestStatus.SUCCEEDED
    if not isinstance(result, OpenRouterError):
        # A middleware of the app does not say whether it sent the request.
        return RequestStatus.UNCERTAIN
    if isinstance(result, APIError) and (result.is_code_rejected or result.status_code == 400):
        return RequestStatus.LOST if result.outcome is Outcome.UNKNOWN else RequestStatus.REJECTED
    return {
        Outcome.NOT_SENT: RequestStatus.RETRYABLE,
        # A bearer token can be mended, and a pause ends.
        Outcome.REFUSED: RequestStatus.RETRYABLE,
        Outcome.UNKNOWN: RequestStatus.UNCERTAIN,
        Outcome.COMPLETED: RequestStatus.SUCCEEDED,
    }[result.outcome]


def mark_outcome_unknown(error: Exception) -> None:
    """Make a rejection of a code honest when an earlier try may have used it: its outcome is unknown."""
    if isinstance(error, APIError) and error.is_code_rejected and error.outcome is Outcome.REFUSED:
        error.outcome = Outcome.UNKNOWN
        error.__cause__ = TransportError("an earlier run ended without an answer", outcome=Outcome.UNKNOWN)
        error.args = (
            f"{error}: but an earlier run may have used the code. "
            "Log in again; an unused key may be listed at https://openrouter.ai/settings/keys",
        )
