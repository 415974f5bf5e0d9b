"""Translate the exceptions of an attempt, most of them aiohttp's, into the library's errors."""

from __future__ import annotations

import os
from ssl import SSLCertVerificationError, SSLError
from typing import Final

import aiohttp

from openrouter_async._http.aiohttp_parts import Body
from openrouter_async._http.bodies import EarlyAnswerError
from openrouter_async._http.chain import Request
from openrouter_async.errors import ClientClosedError, OpenRouterError, Outcome, RequestTimeoutError, TransportError

SESSION_CLOSED: Final = "the session that the client uses is closed"

_REASONS: Final[tuple[tuple[type[Exception], str], ...]] = (
    # The most specific first. The exceptions' own messages are not used, because some quote the server's answer.
    (EarlyAnswerError, "there was an answer before the request"),
    (aiohttp.ClientHttpProxyError, "the proxy refused the connection"),
    (aiohttp.ClientProxyConnectionError, "cannot connect to the proxy"),
    (aiohttp.ClientConnectorDNSError, "the host name cannot be resolved"),
    (aiohttp.ClientConnectorCertificateError, "the server's certificate is not valid"),
    (aiohttp.ClientSSLError, "the TLS handshake failed"),
    (aiohttp.ServerFingerprintMismatch, "the server's certificate has another fingerprint"),
    (aiohttp.ClientConnectorError, "cannot connect"),
    (aiohttp.ServerDisconnectedError, "the server closed the connection without an answer"),
    (aiohttp.ClientPayloadError, "the connection broke in the middle of the body"),
    (aiohttp.ClientResponseError, "the answer is not HTTP"),
    (aiohttp.InvalidURL, "the URL cannot be used"),
    (aiohttp.NonHttpUrlClientError, "the URL is not http or https"),
    (aiohttp.ClientConnectionError, "the connection broke"),
    (OSError, "the connection broke"),
)


def translate(caught: Exception, request: Request, body: Body, *, is_closed: bool = False) -> OpenRouterError:
    """Return our error for an exception of an attempt.

    Args:
        caught: The exception, of aiohttp or the operating system; its own message is not used.
        request: The request.
        body: Its body, which knows whether it was sent.
        is_closed: Whether the session is closed.
    """
    if is_closed and isinstance(caught, RuntimeError):
        return ClientClosedError(SESSION_CLOSED)
    outcome = Outcome.UNKNOWN if body.written else Outcome.NOT_SENT
    place = f"{request.method} {request.url.scheme}://{request.url.authority}{request.url.raw_path}"
    if isinstance(caught, TimeoutError):
        when = "an answer" if body.written else "a connection"
        return RequestTimeoutError(f"{place}: waited more than {request.timeout:g} s for {when}", outcome=outcome)
    return TransportError(
        f"{place}: {_describe_failure(caught, body)}",
        outcome=outcome,
        is_permanent=_is_permanent(caught, body),
        stale_connection=body.reused and isinstance(caught, (EarlyAnswerError, aiohttp.ClientConnectionError)),
    )


def _describe_failure(caught: Exception, body: Body) -> str:
    reason = next((text for kind, text in _REASONS if isinstance(caught, kind)), None)
    if reason is None:
        reason = f"{type(caught).__name__} while the request was {'under way' if body.written else 'being made'}"
    if isinstance(caught, aiohttp.ClientHttpProxyError):
        return f"{reason} with the status {caught.status}"
    if (tls := _tls_reason(caught)) is not None:
        return f"{reason}: {tls}"
    if isinstance(caught, OSError) and caught.errno is not None:
        return f"{reason} ({os.strerror(caught.errno) if caught.errno > 0 else type(caught).__name__})"
    return reason


def _tls_reason(caught: Exception) -> str | None:
    """Return OpenSSL's reason for a failed handshake; its errno is always "Operation not permitted"."""
    if isinstance(caught, aiohttp.ClientConnectorCertificateError):
        caught = caught.certificate_error
    elif isinstance(caught, aiohttp.ClientConnectorSSLError):
        caught = caught.os_error
    if isinstance(caught, SSLCertVerificationError):
        return getattr(caught, "verify_message", None)
    return getattr(caught, "reason", None) if isinstance(caught, SSLError) else None


def _is_permanent(caught: Exception, body: Body) -> bool:
    """Return whether another attempt would fail in the same way."""
    if isinstance(caught, aiohttp.ClientHttpProxyError):
        return caught.status in (403, 407)
    if isinstance(caught, (aiohttp.ClientConnectorCertificateError, aiohttp.ServerFingerprintMismatch)):
        return True
    return not body.written and isinstance(caught, (TypeError, ValueError)) and not isinstance(caught, OSError)
