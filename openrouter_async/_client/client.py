"""The client: an async context manager around one pooled session."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterable, Mapping
from ssl import SSLContext
from typing import Any, Final, Never, Self

import attrs
from aiohttp import ClientSession
from yarl import URL

from openrouter_async._client.config import (
    ApiKeySource,
    OnKey,
    Settings,
    base_url_from_environment,
    from_environment,
)
from openrouter_async._client.keys import Keys
from openrouter_async._client.oauth import OAuth, refuse_unknown, spelled
from openrouter_async._client.pipeline import ClientState, Pipeline
from openrouter_async._client.stats import ClientStats
from openrouter_async._http.chain import Middleware
from openrouter_async._http.proxies import to_proxy
from openrouter_async._http.retry import OnRetry
from openrouter_async._http.retry_policy import RetryPolicy
from openrouter_async._http.transport import Transport
from openrouter_async._values.clock import SYSTEM_CLOCK, Clock
from openrouter_async._values.frames import hide_arguments
from openrouter_async._values.models import UNSET, Unset
from openrouter_async._values.validation import check_integer
from openrouter_async.errors import RequestValidationError

DEFAULT_POOL_SIZE: Final = 100

# asyncio itself keeps only weak references to tasks.
_closing: set[asyncio.Task[None]] = set()


class OpenRouter:
    """A client of OpenRouter's OAuth API: an async context manager around one connection pool.

    ::

        async with OpenRouter() as client:
            result = await client.oauth.exchange_auth_code_for_api_key(code=code, code_verifier=verifier)

    A client can be created outside an event loop; it binds to the loop in which it is first used. An argument that is
    `UNSET` takes its value from the environment or the documented default; None means "none".

    Args:
        api_key: The app's own key, or a callable, sync or async, that returns it for each call. By default
            ``OPENROUTER_API_KEY``. None sends no bearer token, as public clients do.
        base_url: The address of the API. By default ``OPENROUTER_BASE_URL``, else ``https://openrouter.ai/api/v1``.
            Plain http is accepted only to a loopback host.
        timeout: Seconds for one attempt, from waiting for a connection to the last byte of the response.
        retry: The retry policy; by default ``RetryPolicy()``. None retries nothing.
        middlewares: Middlewares that run once for each call, the first outermost.
        attempt_middlewares: Middlewares that run once for each attempt, inside the retries.
        session: A session to borrow. It is never closed or reconfigured, and its own middlewares keep working.
        pool_size: The maximum number of connections; by default 100. Refused beside ``session``, which has its own.
        proxy: The URL of an HTTP proxy; None uses none.
        ssl: A TLS context; None verifies by the system's certificates.
        trust_env: Whether proxies are read from the environment; ``~/.netrc`` never is. Refused beside ``session``.
        reuse_connections: Whether a connection serves one request after another. HTTP/1.1 cannot tell a late surplus
            answer from the answer to the next request, so one from a faulty proxy would give a user another user's key.
            By default (None), connections are reused only to the server itself: not through a proxy, nor on a borrowed
            session, whose connections others use, too. A batch through a proxy is faster with True.
        http_referer: The app's URL, by which OpenRouter identifies it. By default ``OPENROUTER_HTTP_REFERER``.
        x_open_router_title: The app's name. By default ``OPENROUTER_X_OPEN_ROUTER_TITLE``.
        x_open_router_categories: The app's categories, separated by commas. By default
            ``OPENROUTER_X_OPEN_ROUTER_CATEGORIES``.
        headers: More headers for every request.
        on_key: A callable of (request, response), sync or async, that saves each key. It has finished before any caller
            gets the key, and it is called even if the caller was cancelled.
        on_retry: A callable of (request, attempt), called before each retry.
        authenticate_exchange: Whether exchanges send the API key, too. Their endpoint is public and needs none, so by
            default the app's key is not sent there.
        hook_timeout: Seconds that an async ``on_key`` or ``api_key`` may take for one call; None sets no limit. An
            ``on_key`` that takes longer is cancelled, and the caller gets a `KeyDeliveryError` that holds the key.
            An ``on_key`` that exchanges its own request fails at once; if it waits for another task that does so, only
            this limit ends it.
        clock: The source of time and randomness, for tests.

    Raises:
        RequestValidationError: An argument is not valid, or would be ignored.
    """

    @hide_arguments
    def __init__(
        self,
        api_key: str | ApiKeySource | None | Unset = UNSET,
        *,
        base_url: str | URL | Unset = UNSET,
        timeout: float = 30.0,
        retry: RetryPolicy | None | Unset = UNSET,
        middlewares: Iterable[Middleware] = (),
        attempt_middlewares: Iterable[Middleware] = (),
        session: ClientSession | None = None,
        pool_size: int | Unset = UNSET,
        proxy: str | URL | None = None,
        ssl: SSLContext | None = None,
        trust_env: bool = False,
        reuse_connections: bool | None = None,
        http_referer: str | None | Unset = UNSET,
        x_open_router_title: str | None | Unset = UNSET,
        x_open_router_categories: str | None | Unset = UNSET,
        headers: Mapping[str, str] | None = None,
        on_key: OnKey | None = None,
        on_retry: OnRetry | None = None,
        authenticate_exchange: bool = False,
        hook_timeout: float | None = 30.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        settings = Settings(
            api_key=_or_environment(api_key, "OPENROUTER_API_KEY"),
            base_url=base_url_from_environment() if isinstance(base_url, Unset) else base_url,
            timeout=timeout,
            retry=RetryPolicy() if isinstance(retry, Unset) else retry,
            middlewares=middlewares,
            attempt_middlewares=attempt_middlewares,
            http_referer=_or_environment(http_referer, "OPENROUTER_HTTP_REFERER"),
            x_open_router_title=_or_environment(x_open_router_title, "OPENROUTER_X_OPEN_ROUTER_TITLE"),
            x_open_router_categories=_or_environment(x_open_router_categories, "OPENROUTER_X_OPEN_ROUTER_CATEGORIES"),
            headers=headers,
            on_key=on_key,
            on_retry=on_retry,
            authenticate_exchange=authenticate_exchange,
            hook_timeout=hook_timeout,
        )
        if session is not None:
            for field, is_given in (("pool_size", pool_size is not UNSET), ("trust_env", trust_env)):
                if is_given:
                    raise RequestValidationError(field, "must not come with a session, which has its own")
        if not isinstance(reuse_connections, (bool, type(None))):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise RequestValidationError("reuse_connections", "must be True, False or None")
        if not isinstance(ssl, (SSLContext, type(None))):
            raise RequestValidationError("ssl", "must be an ssl.SSLContext, or None to verify as usual")
        transport = Transport(
            session=session,
            pool_size=_to_pool_size(pool_size),
            proxy=to_proxy("proxy", proxy),
            ssl=ssl or True,
            trust_env=trust_env,
            reuse_connections=reuse_connections,
        )
        self._attach(settings, ClientState(clock, transport), owner=None)

    def _attach(self, settings: Settings, shared: ClientState, *, owner: OpenRouter | None) -> None:
        self._settings = settings
        self._shared = shared
        # A client made by `with_options` keeps the client that closes the pool alive.
        self._owner = owner
        pipeline = Pipeline(settings, shared, self)
        self.oauth = OAuth(pipeline)
        self.keys = Keys(pipeline)

    @hide_arguments
    @spelled
    def with_options(
        self,
        *,
        api_key: str | ApiKeySource | None | Unset = UNSET,
        base_url: str | URL | Unset = UNSET,
        timeout: float | Unset = UNSET,
        retry: RetryPolicy | None | Unset = UNSET,
        middlewares: Iterable[Middleware] | Unset = UNSET,
        attempt_middlewares: Iterable[Middleware] | Unset = UNSET,
        http_referer: str | None | Unset = UNSET,
        x_open_router_title: str | None | Unset = UNSET,
        x_open_router_categories: str | None | Unset = UNSET,
        headers: Mapping[str, str] | None | Unset = UNSET,
        on_key: OnKey | None | Unset = UNSET,
        on_retry: OnRetry | None | Unset = UNSET,
        authenticate_exchange: bool | Unset = UNSET,
        hook_timeout: float | None | Unset = UNSET,
        **unknown: Never,
    ) -> OpenRouter:
        """Return a client that differs in some options and shares this one's pool, pauses and exchanges under way.

        Closing the returned client closes nothing: the pool is closed with the client that it came from.

        Args:
            api_key: As for `OpenRouter`. For each option here, `UNSET` keeps the client's value, and None means "none".
            base_url: As for `OpenRouter`.
            timeout: As for `OpenRouter`.
            retry: As for `OpenRouter`.
            middlewares: As for `OpenRouter`.
            attempt_middlewares: As for `OpenRouter`.
            http_referer: As for `OpenRouter`.
            x_open_router_title: As for `OpenRouter`.
            x_open_router_categories: As for `OpenRouter`.
            headers: As for `OpenRouter`.
            on_key: As for `OpenRouter`.
            on_retry: As for `OpenRouter`.
            authenticate_exchange: As for `OpenRouter`.
            hook_timeout: As for `OpenRouter`.
            **unknown: Not accepted: any other name raises ``TypeError``.

        Returns:
            The client.

        Raises:
            RequestValidationError: An option is not valid.
        """
        if unknown:
            refuse_unknown(self.with_options, unknown)
        options: dict[str, Any] = {
            "api_key": api_key,
            "base_url": base_url,
            "timeout": timeout,
            "retry": retry,
            "middlewares": middlewares,
            "attempt_middlewares": attempt_middlewares,
            "http_referer": http_referer,
            "x_open_router_title": x_open_router_title,
            "x_open_router_categories": x_open_router_categories,
            "headers": headers,
            "on_key": on_key,
            "on_retry": on_retry,
            "authenticate_exchange": authenticate_exchange,
            "hook_timeout": hook_timeout,
        }
        changes = {name: value for name, value in options.items() if value is not UNSET}
        client = object.__new__(type(self))
        client._attach(attrs.evolve(self._settings, **changes), self._shared, owner=self._owner or self)
        return client

    async def __aenter__(self) -> Self:
        self.bind()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self, *, timeout: float = 10.0) -> None:
        """Refuse new calls, wait for the exchanges in flight, and close the pool.

        Closing continues when its caller is cancelled. A second call waits for the same end, and can only give the
        exchanges more time. Called from a hook of an exchange, it does not wait for that exchange, which itself waits
        for the hook.

        Args:
            timeout: Seconds to wait for the exchanges in flight. After that they are cancelled, and their callers get a
                `ClientClosedError`.
        """
        if self._owner is not None:
            return
        shared = self._shared
        shared.is_closed = True
        shared.flights.close(timeout)
        if shared.closing is None:
            # The task keeps the client alive: garbage collection of the client would close the pool.
            shared.closing = asyncio.get_running_loop().create_task(self._close(), name="openrouter_async.close")
            _closing.add(shared.closing)
            shared.closing.add_done_callback(_closing.discard)
        if shared.flights.is_waited_for_inside:
            return
        # Unlike awaiting the task itself, this does not cancel the task when the caller is cancelled.
        await asyncio.wait((shared.closing,))
        if not shared.closing.cancelled():
            shared.closing.result()

    async def _close(self) -> None:
        try:
            await self._shared.flights.drain()
        finally:
            await self._shared.transport.aclose()

    def stats(self) -> ClientStats:
        """Return statistics of this client and those that share its pool, for health checks."""
        shared = self._shared
        return ClientStats(
            is_closed=shared.is_closed,
            exchanges_in_flight=len(shared.flights),
            attempts_in_flight=shared.transport.in_flight,
            connection_limit=shared.transport.connection_limit,
            waiting_to_retry=shared.counters.waiting,
            paused=shared.throttle.pauses,
            retry_budget=shared.throttle.tokens_left(self._settings.retry.retry_budget),
            calls=shared.counters.calls,
            attempts=shared.counters.attempts,
            retries=shared.counters.retries,
            succeeded=shared.counters.succeeded,
            failed=dict(shared.counters.failed),
        )

    def __del__(self) -> None:
        # A client whose arguments were refused has no pool.
        shared: ClientState | None = getattr(self, "_shared", None)
        if shared is not None and self._owner is None and shared.transport.abandon():
            warnings.warn(
                f"unclosed {self!r}; use `async with` or aclose()", ResourceWarning, stacklevel=2, source=self
            )

    def __repr__(self) -> str:
        state = "closed" if self._shared.is_closed else "open"
        return f"<{type(self).__module__.partition('.')[0]}.{type(self).__name__} {self._settings.base_url} {state}>"

    # The rest is for code that embeds the client: logins, integrations, tests.

    @property
    def base_url(self) -> URL:
        """The address of the API."""
        return self._settings.base_url

    @property
    def clock(self) -> Clock:
        """The source of time and randomness."""
        return self._shared.clock

    @property
    def on_key(self) -> OnKey | None:
        """The hook that saves keys."""
        return self._settings.on_key

    def bind(self) -> None:
        """Bind to the running loop, or raise if that is not possible.

        Raises:
            ClientClosedError: The client is closed, belongs to another loop, or was carried over a fork.
        """
        self._shared.bind()


def _or_environment(value: Any, name: str) -> Any:
    return from_environment(name) if isinstance(value, Unset) else value


def _to_pool_size(value: int | Unset) -> int:
    if isinstance(value, Unset):
        return DEFAULT_POOL_SIZE
    check_integer("pool_size", value)
    return value
