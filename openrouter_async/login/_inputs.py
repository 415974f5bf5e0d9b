"""Checks of the values that an app gives to a flow, and the requests to claim a login that are made of them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any, Final

from openrouter_async._values.frames import hide_arguments
from openrouter_async.errors import RequestValidationError
from openrouter_async.login._callbacks import Callback
from openrouter_async.login._completion import authorization_error
from openrouter_async.login._records import digest, login_id
from openrouter_async.login._store import ClaimRequest

MAX_CONTEXT_SIZE: Final = 1024
"""The maximum size of the JSON of a ``context``, in bytes: a whole cookie has 4,096."""

_MAX_BINDING_LENGTH: Final = 1024


def claim_request_for(callback: Callback, binding: str | int | None, cookies: Mapping[str, str] | None) -> ClaimRequest:
    """Return the request to claim the login that a callback belongs to.

    Raises:
        AuthorizationError: The callback is an error of OpenRouter without a state.
        RequestValidationError: The binding is not valid.
    """
    try:
        if callback.state is None:
            # Nothing shows whose login this was, so none is touched.
            raise authorization_error(callback, None)
        return to_claim_request(callback.state, binding, cookies)
    finally:
        del binding, cookies


@hide_arguments
def to_claim_request(state: str, binding: str | int | None, cookies: Mapping[str, str] | None) -> ClaimRequest:
    """Return the request to claim the login of a state.

    Raises:
        RequestValidationError: The binding is not valid.
    """
    return ClaimRequest(
        id=login_id(state),
        binding=digest(state, "binding", to_binding(binding)),
        is_bound=binding is not None,
        token=secrets.token_urlsafe(16),
        cookies={} if cookies is None else cookies,
    )


def to_binding(value: object) -> str | None:
    """Return a binding as a string.

    Raises:
        RequestValidationError: It is neither an int nor a string of a valid length.
    """
    if value is None:
        return None
    # A bool is an int, but never a chat id.
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not 0 < len(str(value)) <= _MAX_BINDING_LENGTH:
        del value
        raise RequestValidationError("binding", f"must be an int, or a string of 1 to {_MAX_BINDING_LENGTH} characters")
    return str(value)


def to_context(value: object) -> Any:
    """Return a copy of an app's data as every store returns it, with lists in place of tuples.

    Raises:
        RequestValidationError: It is not JSON, or too large.
    """
    requirement = f"must be JSON of at most {MAX_CONTEXT_SIZE} bytes"
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):
        raise RequestValidationError("context", requirement) from None
    if len(text) > MAX_CONTEXT_SIZE:
        raise RequestValidationError("context", requirement)
    return json.loads(text)
