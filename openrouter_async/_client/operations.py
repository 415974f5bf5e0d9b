"""The operations of the API: their names, paths and results."""

from __future__ import annotations

from typing import Any, Final, Generic

import attrs
from yarl import URL

from openrouter_async._values.converter import R
from openrouter_async._values.current_key import GetCurrentKeyResponse
from openrouter_async._values.models import CreateAuthKeysCodeResponse, ExchangeAuthCodeForAPIKeyResponse


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Operation(Generic[R]):
    """An operation of the API.

    Attributes:
        name: Its ``operationId``.
        path: Its path below the base URL.
        result: The class of its result.
        needs_bearer: Whether it is refused without a bearer token.
        method: Its HTTP method.
    """

    name: str
    path: str
    result: type[R]
    needs_bearer: bool = False
    method: str = "POST"


EXCHANGE: Final = Operation(
    name="exchangeAuthCodeForAPIKey", path="/auth/keys", result=ExchangeAuthCodeForAPIKeyResponse
)
CREATE: Final = Operation(
    name="createAuthKeysCode", path="/auth/keys/code", result=CreateAuthKeysCodeResponse, needs_bearer=True
)
CURRENT_KEY: Final = Operation(
    name="getCurrentKey", path="/key", result=GetCurrentKeyResponse, needs_bearer=True, method="GET"
)
OPERATIONS: Final[tuple[Operation[Any], ...]] = (EXCHANGE, CREATE, CURRENT_KEY)


def operation_urls(base_url: URL) -> dict[Operation[Any], URL]:
    """Return the URL of each operation."""
    # Joining with "/" would drop the path of the base URL.
    base = str(base_url).rstrip("/")
    return {operation: URL(base + operation.path) for operation in OPERATIONS}
