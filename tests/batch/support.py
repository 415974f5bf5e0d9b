from __future__ import annotations

import asyncio

from openrouter_async import (
    Batch,
    ExchangeAuthCodeForAPIKeyRequest,
    ExchangeAuthCodeForAPIKeyResponse,
    ExchangeResult,
    Handler,
    Request,
    Response,
)
from openrouter_async.testing import FakeOpenRouter


def issue(fake: FakeOpenRouter, count: int) -> list[str]:
    return [fake.issue_code() for _ in range(count)]


async def read(batch: Batch, results: list[ExchangeResult]) -> None:
    """Put what comes into the list, up to whatever ends the batch."""
    async for result in batch:
        results.append(result)


class Safe:
    """An `on_key` that keeps what it gets."""

    def __init__(self) -> None:
        self.keys: dict[str, str] = {}

    async def __call__(
        self, request: ExchangeAuthCodeForAPIKeyRequest, response: ExchangeAuthCodeForAPIKeyResponse
    ) -> None:
        self.keys[request.code] = response.key


class Gate:
    """A middleware that holds requests before they are sent, and counts them."""

    def __init__(self) -> None:
        self.waiting = 0
        self.passed = 0
        self.most = 0
        self._open = asyncio.Semaphore(0)

    def let(self, count: int) -> None:
        for _ in range(count):
            self._open.release()

    async def __call__(self, request: Request, call_next: Handler) -> Response:
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        try:
            await self._open.acquire()
        finally:
            self.waiting -= 1
        self.passed += 1
        return await call_next(request)
