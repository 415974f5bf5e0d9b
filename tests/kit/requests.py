"""Requests as middlewares and the transport get them."""

from __future__ import annotations

from typing import Any

from yarl import URL

from openrouter_async import Request, RetryPolicy


def make_request(**fields: Any) -> Request:
    """Return an exchange of the code of a test; the fields replace those of the request."""
    defaults: dict[str, Any] = {
        "method": "POST",
        "url": URL("https://openrouter.ai/api/v1/auth/keys"),
        "headers": {},
        "body": b"{}",
        "operation": "exchangeAuthCodeForAPIKey",
        "timeout": 30,
        "retry": RetryPolicy(),
    }
    return Request(**(defaults | fields))
