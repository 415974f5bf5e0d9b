"""The client: an async context manager around one pooled session."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from ssl import SSLContext
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack

import attrs
from yarl import URL

from openrouter_async._client.config import (
    ApiKeySource,
    ClientOptions,
    OnKey,
    Settings,
    base_url_from_environment,
    from_environment,
    to_proxy,
)
from openrouter_async._client.oauth import OAuth
from openrouter_async._client.pipeline import ClientState, Pipeline
from openrouter_async._http.chain import Middleware
from openrouter_async._http.retry import OnRetry
from openrouter_async._http.retry_policy import RetryPolicy
from openrouter_async._http.single_flight import SingleFlight
from openrouter_async._http.transport import Transport
from openrouter_async._values.clock import SYSTEM_CLOCK, Clock
from openrouter_async._values.models import UNSET, ExchangeAuthCodeForAPIKeyResponse, Unset
from openrouter_async.errors import RequestValidationError

if TYPE_CHECKING:
    from aiohttp import ClientSession

    from openrouter_async._client.stats import ClientStats


class OpenRouter:
    """A session with OpenRouter's OAuth API.

    ::

        async with OpenRouter() as client:
            result = await client.oauth.exchange_auth_code_for_api_key(code=code, code_verifier=verifier)

    It may be made outside a loop; it binds to the loop in which it is first used.

    Args:
        api_key: The app's own key, or a callable, sync or async, that gives it for each call. By default
            ``OPENROUTER_API_KEY``; None sends no bearer token, as public clients do.
        base_url: The address of the API; by default ``OPENROUTER_BASE_URL``, else
            ``https://openrouter.ai/api/v1``. Plain
            http is accepted only to a loopback host.
        timeout: Seconds for one attempt, from waiting for a connection to the last byte of the answer.
        retry: When a call is tried again.
        middlewares: They run once for each call, the first outermost.
        attempt_middlewares: They run once for each attempt, inside the retries.
        session: A session to borrow: it is never closed, never reconfigured, and its own middlewares keep working.
        pool_size: Connections at the most.
        proxy: The URL of an HTTP proxy; None uses none.
        ssl: A TLS context; True verifies by the system's certificates.
        trust_env: Whether proxies are read from the environment, as aiohttp does.
        http_referer: The app's URL, its identity; by default ``OPENROUTER_HTTP_REFERER``.
        x_open_router_title: The app's name; by default ``OPENROUTER_X_OPEN_ROUTER_TITLE``.
        x_open_router_categories: The app's categories, separated by commas; by default
            ``OPENROUTER_X_OPEN_ROUTER_CATEGORIES``.
        headers: More headers for every request.
        on_key: An async callable of (request, response), the key's safe place: it is awaited before any caller gets the
            key, and also when the caller was cancelled meanwhile.
        on_retry: A callable of (request, attempt), called before each retry.
        clock: Where time and chance come from, for tests.

    Raises:
        RequestValidationError: An argument is not valid.
    """

    def __init__(
        self,
        api_key: str | ApiKeySource | None | Unset = UNSET,
        *,
        base_url: str | URL | Unset = UNSET,
        timeout: float = 30.0,
        retry: RetryPolicy | None = None,
        middlewares: Iterable[Middleware] = (),
        attempt_middlewares: Iterable[Middleware] = (),
        session: ClientSession | None = None,
        pool_size: int = 100,
        proxy: str | URL | None = None,
        ssl: SSLContext | bool = True,
        trust_env: bool = False,
        http_referer: str | None = None,
        x_open_router_title: str | None = None,
        x_open_router_categories: str | None = None,
        headers: Mapping[str, str] | None = None,
        on_key: OnKey | None = None,
        on_retry: OnRetry | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        settings = Settings(
            api_key=from_environment("OPENROUTER_API_KEY") if isinstance(api_key, Unset) else api_key,
            base_url=base_url_from_environment() if isinstance(base_url, Unset) else base_url,
            timeout=timeout,
            retry=RetryPolicy() if retry is None else retry,
            middlewares=middlewares,
            attempt_middlewares=attempt_middlewares,
            http_referer=http_referer or from_environment("OPENROUTER_HTTP_REFERER"),
            x_open_router_title=x_open_router_title or from_environment("OPENROUTER_X_OPEN_ROUTER_TITLE"),
            x_open_router_categories=(
                x_open_router_categories or from_environment("OPENROUTER_X_OPEN_ROUTER_CATEGORIES")
            ),
            headers=headers,
            on_key=on_key,
            on_retry=on_retry,
        )
        if isinstance(pool_size, bool) or not isinstance(pool_size, int) or pool_size < 1:
            raise RequestValidationError("pool_size", "must be an integer from 1")
        transport = Transport(session=session, pool_size=pool_size, proxy=to_proxy(proxy), ssl=ssl, trust_env=trust_env)
        self._bind(settings, ClientState(clock, transport), owner=None)

    def _bind(self, settings: Settings, shared: ClientState, *, owner: OpenRouter | None) -> None:
        self._settings = settings
        self._shared = shared
        # A client made by with_options keeps the one alive that closes the pool.
        self._owner = owner
        self.oauth = OAuth(Pipeline(settings, shared, self))

    def with_options(self, **options: Unpack[ClientOptions]) -> OpenRouter:
        """A client that differs in some options and shares this one's pool, pauses and exchanges on their way.

        Closing it closes nothing: the pool is closed with the client that it came from.

        Args:
            options: Any of the arguments of `OpenRouter` but those of the pool.

        Raises:
            RequestValidationError: An option is not valid.
        """
        client = object.__new__(type(self))
        client._bind(attrs.evolve(self._settings, **options), self._shared, owner=self._owner or self)
        return client

    async def __aenter__(self) -> Self:
        self.bind()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self, *, timeout: float = 10.0) -> None:
        """Refuse new calls, let the exchanges on their way end, and close the pool. Closing again does no harm.

        Args:
            timeout: Seconds to wait for the exchanges on their way; then they are cancelled, and their callers get a
                `ClientClosedError`.
        """
        if self._owner is not None:
            return
        self._shared.is_closed = True
        try:
            await self._shared.in_flight.drain(timeout)
        finally:
            await self._shared.transport.aclose()

    def stats(self) -> ClientStats:
        """What this client and those that share its pool are doing, and have done: for health checks."""
        # Most clients are never asked.
        from openrouter_async._client.stats import ClientStats

        shared = self._shared
        return ClientStats(
            is_closed=shared.is_closed,
            exchanges_in_flight=len(shared.in_flight),
            attempts_in_flight=shared.transport.in_flight,
            connection_limit=shared.transport.connection_limit,
            waiting_to_retry=shared.counters.waiting,
            paused=shared.overload.pauses,
            retry_budget=shared.overload.budgets,
            calls=shared.counters.calls,
            attempts=shared.counters.attempts,
            retries=shared.counters.retries,
            succeeded=shared.counters.succeeded,
            failed=dict(shared.counters.failed),
        )

    def __del__(self) -> None:
        # An argument that was refused leaves a client without a pool.
        shared: ClientState | None = getattr(self, "_shared", None)
        if shared is not None and self._owner is None and shared.transport.abandon():
            warnings.warn(
                f"unclosed {self!r}; use `async with` or aclose()", ResourceWarning, stacklevel=2, source=self
            )

    def __repr__(self) -> str:
        state = "closed" if self._shared.is_closed else "open"
        return f"<{type(self).__module__.partition('.')[0]}.{type(self).__name__} {self._settings.base_url} {state}>"

    # What follows is for those who embed the client: logins, integrations, tests.

    @property
    def clock(self) -> Clock:
        """Where time and chance come from."""
        return self._shared.clock

    @property
    def on_key(self) -> OnKey | None:
        """Where keys are put."""
        return self._settings.on_key

    @property
    def in_flight(self) -> SingleFlight[ExchangeAuthCodeForAPIKeyResponse]:
        """The exchanges on their way."""
        return self._shared.in_flight

    def bind(self) -> None:
        """Bind to the running loop, or say why this is not possible.

        Raises:
            ClientClosedError: The client is closed, belongs to another loop, or was carried over a fork.
        """
        self._shared.bind()
