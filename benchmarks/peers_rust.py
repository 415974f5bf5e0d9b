"""A client in Rust."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from pyreqwest.client import ClientBuilder

from benchmarks.client import VERIFIER, Client, Tls


class Pyreqwest(Client):
    """A client in Rust, as an application would write it."""

    def __init__(self, base_url: str, tls: Tls | None) -> None:
        builder = ClientBuilder().timeout(timedelta(seconds=30)).max_connections(100).error_for_status(True)
        if tls is not None:
            builder = builder.add_root_certificate_pem(Path(tls.authority).read_bytes())
        self._url = f"{base_url}/auth/keys"
        self._client = builder.build()

    async def exchange(self, code: str) -> str:
        body = {"code": code, "code_verifier": VERIFIER, "code_challenge_method": "S256"}
        response = await self._client.post(self._url).body_json(body).build().send()
        key: str = (await response.json())["key"]
        return key

    async def close(self) -> None:
        await self._client.close()
