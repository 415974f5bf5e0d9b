"""This library, as it comes: with retries, deadlines, single flight, outcomes, and a safe place for keys."""

from __future__ import annotations

from benchmarks.client import VERIFIER, Client, Tls
from openrouter_async import OpenRouter
from openrouter_async._http.chain import Handler, Request, Response
from openrouter_async._values.models import ExchangeAuthCodeForAPIKeyRequest, ExchangeAuthCodeForAPIKeyResponse


async def keep_key(_request: ExchangeAuthCodeForAPIKeyRequest, _response: ExchangeAuthCodeForAPIKeyResponse) -> None:
    """Stands for an application's own safe place."""


async def pass_on(request: Request, call_next: Handler) -> Response:
    """A middleware that does nothing."""
    return await call_next(request)


class Ours(Client):
    """This library, as it comes."""

    def __init__(
        self,
        base_url: str,
        tls: Tls | None,
        *,
        middlewares: int = 0,
        reuse_connections: bool | None = None,
    ) -> None:
        self._client = OpenRouter(
            None,
            base_url=base_url,
            ssl=tls.context if tls else None,
            on_key=keep_key,
            middlewares=[pass_on] * middlewares,
            reuse_connections=reuse_connections,
        )

    async def exchange(self, code: str) -> str:
        result = await self._client.oauth.exchange_auth_code_for_api_key(
            code=code, code_verifier=VERIFIER, code_challenge_method="S256"
        )
        return result.key

    async def close(self) -> None:
        await self._client.aclose()
