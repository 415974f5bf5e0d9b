"""One call of an operation: from its request to its result, or to the error that says what became of it."""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
from collections.abc import Coroutine
from typing import Any, Final, NamedTuple, TypeVar

from yarl import URL

from openrouter_async._client.config import Settings, merge_headers
from openrouter_async._http.chain import Handler, Request, SendState, build_chain
from openrouter_async._http.counters import Counters
from openrouter_async._http.options import Bearer, RequestOptions
from openrouter_async._http.responses import error_from_response, settle
from openrouter_async._http.retry import RetryMiddleware
from openrouter_async._http.single_flight import SingleFlight
from openrouter_async._http.throttle import HostThrottle
from openrouter_async._http.transport import Transport
from openrouter_async._values import converter
from openrouter_async._values.clock import Clock
from openrouter_async._values.models import (
    CreateAuthKeysCodeResponse,
    ExchangeAuthCodeForAPIKeyRequest,
    ExchangeAuthCodeForAPIKeyResponse,
    HttpMeta,
)
from openrouter_async.errors import (
    ClientClosedError,
    KeyDeliveryError,
    OpenRouterError,
    RequestValidationError,
    ResponseValidationError,
)

_Result = TypeVar("_Result", ExchangeAuthCodeForAPIKeyResponse, CreateAuthKeysCodeResponse)


class Operation(NamedTuple):
    """An operation of the API.

    Attributes:
        name: Its ``operationId``.
        path: Its path below the base URL.
    """

    name: str
    path: str


EXCHANGE: Final = Operation("exchangeAuthCodeForAPIKey", "/auth/keys")
CREATE: Final = Operation("createAuthKeysCode", "/auth/keys/code")
OPERATIONS: Final = (EXCHANGE, CREATE)


class ClientState:
    """What a client and those made from it have in common."""

    def __init__(self, clock: Clock, transport: Transport) -> None:
        self.clock = clock
        self.transport = transport
        self.overload = HostThrottle(clock)
        self.in_flight: SingleFlight[ExchangeAuthCodeForAPIKeyResponse] = SingleFlight()
        self.counters = Counters()
        self.is_closed = False

    def bind(self) -> None:
        """Bind to the running loop, or say why this is not possible.

        Raises:
            ClientClosedError: The client is closed, belongs to another loop, or was carried over a fork.
        """
        if self.is_closed:
            raise ClientClosedError("the client is closed")
        self.transport.session()


class Pipeline:
    """The calls of a client.

    Args:
        settings: What is set for them.
        shared: What they have in common with the calls of other clients.
        client: The client. It closes the pool when it is forgotten, so it lives as long as a call is under way.

    Attributes:
        settings: What is set for them.
        shared: What they have in common with the calls of other clients.
    """

    def __init__(self, settings: Settings, shared: ClientState, client: object) -> None:
        self.settings = settings
        self.shared = shared
        self._client = client
        self._headers = settings.request_headers()
        self._urls = _operation_urls(settings.base_url)
        retry = RetryMiddleware(
            overload=shared.overload, clock=shared.clock, on_retry=settings.on_retry, counters=shared.counters
        )
        attempt = build_chain("attempt_middlewares", settings.attempt_middlewares, shared.transport.send)
        self._handle: Handler = build_chain("middlewares", (*settings.middlewares, retry), attempt)

    def join(
        self, model: ExchangeAuthCodeForAPIKeyRequest, options: RequestOptions | None
    ) -> Coroutine[Any, Any, ExchangeAuthCodeForAPIKeyResponse]:
        """Exchange a code, or wait for an exchange that is equal and under way.

        Args:
            model: The request.
            options: What this call does differently from its client.
        """
        source = self.settings.api_key
        # Each coroutine that waits for another costs something whenever it goes on.
        if source is None or isinstance(source, Bearer):
            return self._join(model, source, options)
        return self._resolve(model, options)

    async def _resolve(
        self, model: ExchangeAuthCodeForAPIKeyRequest, options: RequestOptions | None
    ) -> ExchangeAuthCodeForAPIKeyResponse:
        return await self._join(model, await self.resolve_bearer(), options)

    def _join(
        self, model: ExchangeAuthCodeForAPIKeyRequest, bearer: Bearer | None, options: RequestOptions | None
    ) -> Coroutine[Any, Any, ExchangeAuthCodeForAPIKeyResponse]:
        # Only now, as the client may have been closed meanwhile, and nobody would wait for this exchange to end.
        self.shared.bind()
        # The fields are hashed more quickly than the model, and it is done more than once.
        key = (self, bearer, options, model.code, model.code_verifier, model.code_challenge_method)
        return self.shared.in_flight.join(key, functools.partial(self._exchange, model, bearer, options))

    async def resolve_bearer(self) -> Bearer | None:
        """The bearer token for one call.

        Raises:
            RequestValidationError: The callable raised, or gave something that cannot be sent.
        """
        source = self.settings.api_key
        if source is None or isinstance(source, Bearer):
            return source
        try:
            key = source()
            if inspect.isawaitable(key):
                key = await key
        except Exception as failure:
            raise RequestValidationError("api_key", f"its callable raised {type(failure).__name__}") from failure
        return None if key is None else Bearer(key)

    def prepare(
        self,
        operation: Operation,
        body: bytes,
        *,
        bearer: Bearer | None,
        options: RequestOptions | None,
        send_state: SendState,
        secrets: tuple[str, ...],
    ) -> Request:
        """The request for one call, of the client's settings and the call's options."""
        settings = self.settings
        url, headers, timeout, retry = self._urls[operation], self._headers, settings.timeout, settings.retry
        if bearer is not None:
            headers = {"Authorization": f"Bearer {bearer.token}"} | headers
            secrets = (*secrets, bearer.token)
        if options is not None:
            if options.server_url is not None:
                url = _operation_urls(options.server_url)[operation]
            if options.headers:
                headers = merge_headers(headers, options.headers)
            timeout = settings.timeout if options.timeout is None else options.timeout
            retry = settings.retry if options.retry is None else options.retry
        return Request(
            method="POST",
            url=url,
            headers=headers,
            body=body,
            operation=operation.name,
            timeout=timeout,
            retry=retry,
            secrets=secrets,
            send_state=send_state,
        )

    async def _exchange(
        self,
        model: ExchangeAuthCodeForAPIKeyRequest,
        bearer: Bearer | None,
        options: RequestOptions | None,
        send_state: SendState,
    ) -> ExchangeAuthCodeForAPIKeyResponse:
        secrets = (model.code,) if model.code_verifier is None else (model.code, model.code_verifier)
        call = self.prepare(
            EXCHANGE, converter.dump(model), bearer=bearer, options=options, send_state=send_state, secrets=secrets
        )
        del secrets
        response = await self.send(call, ExchangeAuthCodeForAPIKeyResponse)
        on_key = self.settings.on_key
        if on_key is not None:
            try:
                await on_key(model, response)
            except (Exception, asyncio.CancelledError) as failure:
                # Also when it was cancelled, by itself or because the client was closed: the key must not go with it.
                raise KeyDeliveryError(
                    f"on_key raised {type(failure).__name__}; the key is in .response", response=response
                ) from failure
            send_state.key_saved = True
        return response

    async def send(self, request: Request, kind: type[_Result]) -> _Result:
        """Send a request through the chain, and read what the answer says.

        Args:
            request: The request.
            kind: The class of the result.
        """
        started = time.perf_counter()
        try:
            response = await self._handle(request)
        except OpenRouterError as failure:
            self._settle(failure)
            raise
        error: OpenRouterError
        if 200 <= response.status_code < 300:
            http_meta = HttpMeta(
                status_code=response.status_code,
                headers=response.headers,
                attempts=len(response.history) + 1,
                elapsed=time.perf_counter() - started,
            )
            try:
                result = converter.load(kind, response.body, http_meta)
            except converter.MalformedBodyError as malformed:
                error = ResponseValidationError(
                    f"{response.status_code}: {malformed}", status_code=response.status_code, headers=response.headers
                )
            else:
                self.shared.counters.succeeded += 1
                return result
        else:
            error = error_from_response(request, response, self.shared.clock)
        error.history = response.history
        self._settle(error)
        raise error

    def _settle(self, error: OpenRouterError) -> None:
        settle(error)
        self.shared.counters.failed[error.outcome] += 1


def _operation_urls(base_url: URL) -> dict[Operation, URL]:
    # Joining by "/" would lose the path of the base.
    base = str(base_url).rstrip("/")
    return {operation: URL(base + operation.path) for operation in OPERATIONS}
