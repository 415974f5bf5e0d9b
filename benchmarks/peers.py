"""Clients that are built on httpx."""

from __future__ import annotations

import ssl

import httpx
import openrouter

from benchmarks.client import VERIFIER, Client, Tls

_LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=100)
_TIMEOUT = httpx.Timeout(30, pool=None)


class OfficialSDK(Client):
    """The official SDK, with one client that all calls share."""

    def __init__(self, base_url: str, tls: Tls | None) -> None:
        self._http = httpx.AsyncClient(verify=_verify(tls), limits=_LIMITS, timeout=_TIMEOUT, follow_redirects=True)
        self._sdk = openrouter.OpenRouter(api_key="sk-or-v1-app", server_url=base_url, async_client=self._http)

    async def exchange(self, code: str) -> str:
        result = await self._sdk.o_auth.exchange_auth_code_for_api_key_async(
            code=code, code_verifier=VERIFIER, code_challenge_method="S256"
        )
        return result.key

    async def close(self) -> None:
        await self._http.aclose()


class Httpx(Client):
    """httpx, as an application would write it."""

    def __init__(self, base_url: str, tls: Tls | None) -> None:
        self._base_url = base_url
        self._http = httpx.AsyncClient(verify=_verify(tls), limits=_LIMITS, timeout=_TIMEOUT)

    async def exchange(self, code: str) -> str:
        response = await self._http.post(
            f"{self._base_url}/auth/keys",
            json={"code": code, "code_verifier": VERIFIER, "code_challenge_method": "S256"},
        )
        response.raise_for_status()
        key: str = response.json()["key"]
        return key

    async def close(self) -> None:
        await self._http.aclose()


def _verify(tls: Tls | None) -> ssl.SSLContext | bool:
    return True if tls is None else tls.context
