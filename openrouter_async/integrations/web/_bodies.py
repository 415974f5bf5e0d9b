"""Read small JSON bodies, and keep their secrets out of tracebacks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from openrouter_async.integrations.web._answers import JSON, Refusal
from openrouter_async.integrations.web._framework import RequestInfo, RequestT, ResponseT
from openrouter_async.integrations.web._site import LoginSite

MAX_BODY_SIZE: Final = 16 * 1024
"""The maximum size of a body in bytes: a user may paste a URL of 8,192 characters."""


async def read_fields(
    site: LoginSite[RequestT, ResponseT],
    request: RequestT,
    info: RequestInfo,
    required: Sequence[str],
    optional: Sequence[str] = (),
) -> dict[str, str]:
    """Read the fields of a JSON object, each of them a string.

    Only JSON is accepted: a form of another site can send the other types without a CORS preflight, but not JSON.

    Args:
        site: The login of the app.
        request: The request.
        info: The parts of the request.
        required: The names of the required fields; unknown fields are ignored.
        optional: The names of the optional fields; one that is null is absent from the result.

    Raises:
        Refusal: The body is too large, or not a JSON object with these fields.
    """
    if info.headers.get("Content-Type", "").partition(";")[0].strip().lower() != JSON:
        raise Refusal(415, "not-json", f"The body of the request must be {JSON}.")
    # Some frameworks decompress bodies, and raise their own errors for those that they cannot read.
    if info.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise Refusal(415, "compressed", "The body of the request must not be compressed.")
    body = await site.framework.read_body(request, MAX_BODY_SIZE)
    size, value = len(body), _parse(body)
    # A traceback that shows local variables would show the code.
    del body
    if size > MAX_BODY_SIZE:
        del value
        raise Refusal(413, "too-large", f"The body of the request may have at most {MAX_BODY_SIZE} bytes.")
    fields = {name: value[name] for name in (*required, *optional) if value.get(name) is not None}
    del value
    wrong = next((name for name in (*required, *fields) if not isinstance(fields.get(name), str)), None)
    if wrong is not None:
        del fields
        raise Refusal(400, "invalid-request", f"The request must have {wrong}, a string.")
    return fields


def _parse(body: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
