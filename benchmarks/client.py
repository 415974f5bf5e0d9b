"""The interface that the benchmark expects of a client."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Final, Protocol, TypeAlias

import attrs

VERIFIER: Final = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"


@attrs.frozen
class Tls:
    """How a client knows the server.

    Attributes:
        authority: The file with the certificate of the server's authority.
    """

    authority: str

    @property
    def context(self) -> ssl.SSLContext:
        """A context that trusts it."""
        return ssl.create_default_context(cafile=self.authority)


class Client(Protocol):
    """A client that exchanges codes for keys over a connection pool of its own."""

    async def exchange(self, code: str) -> str:
        """The key for a code."""
        ...

    async def close(self) -> None:
        """Close the pool."""
        return


Factory: TypeAlias = Callable[[str, Tls | None], Client]
"""Makes a client for a base URL, within its loop."""


@attrs.frozen
class Contender:
    """A client that is measured.

    Attributes:
        make: Makes it.
        uvloop: Whether its loop is uvloop's.
    """

    make: Factory
    uvloop: bool = False
