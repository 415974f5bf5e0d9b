from __future__ import annotations

from openrouter_async import (
    Batch,
    ExchangeAuthCodeForAPIKeyRequest,
    ExchangeAuthCodeForAPIKeyResponse,
    ExchangeResult,
)
from openrouter_async.testing import FakeOpenRouter


def issue(fake: FakeOpenRouter, count: int) -> list[str]:
    return [fake.issue_code() for _ in range(count)]


async def read(batch: Batch, results: list[ExchangeResult]) -> None:
    """Append the results to the list until the batch ends or raises."""
    async for result in batch:
        results.append(result)


class Safe:
    """An `on_key` that remembers its calls."""

    def __init__(self) -> None:
        self.keys: dict[str, str] = {}

    async def __call__(
        self, request: ExchangeAuthCodeForAPIKeyRequest, response: ExchangeAuthCodeForAPIKeyResponse
    ) -> None:
        self.keys[request.code] = response.key
