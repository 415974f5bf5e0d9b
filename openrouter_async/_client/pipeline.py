"""The path of every call: from a request model to the result, or to an error that says what became of the request."""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
from collections.abc import Awaitable, Callable, Coroutine
from types import CoroutineType
from typing import Any

from yarl import URL

from openrouter_async._client.config import Settings, merge_headers
from openrouter_async._client.operations import CURRENT_KEY, EXCHANGE, Operation, operation_urls
from openrouter_async._http.chain import Handler, Request, Response, SendState, build_chain
from openrouter_async._http.counters import Counters
from openrouter_async._http.options import Bearer, RequestOptions
from openrouter_async._http.responses import error_from_response, finalize_error
from openrouter_async._http.retry import RetryMiddleware
from openrouter_async._http.single_flight import CallerGroup, SingleFlight
from openrouter_async._http.throttle import HostThrottle
from openrouter_async._http.timeouts import DeadlineExpiredError, Deadlines
from openrouter_async._http.transport import Transport
from openrouter_async._values import converter
from openrouter_async._values.clock import Clock
from openrouter_async._values.converter import R
from openrouter_async._values.frames import without_secrets
from openrouter_async._values.models import (
    CreateAuthKeysCodeRequest,
    ExchangeAuthCodeForAPIKeyRequest,
    ExchangeAuthCodeForAPIKeyResponse,
    HttpMeta,
    Unset,
)
from openrouter_async.errors import (
    APIError,
    ClientClosedError,
    KeyDeliveryError,
    OpenRouterError,
    Outcome,
    RequestValidationError,
    ResponseValidationError,
)


class ClientState:
    """The state that a client shares with the clients made from it by ``with_options``."""

    def __init__(self, clock: Clock, transport: Transport) -> None:
        self.clock = clock
        self.transport = transport
        self.throttle = HostThrottle(clock)
        self.flights: SingleFlight[ExchangeAuthCodeForAPIKeyResponse] = SingleFlight()
        self.hook_deadlines = Deadlines()
        self.counters = Counters()
        self.is_closed = False
        self.closing: asyncio.Task[None] | None = None

    def bind(self) -> None:
        """Bind to the running loop, or raise if that is not possible.

        Raises:
            ClientClosedError: The client is closed, belongs to another loop, or was carried over a fork.
        """
        if self.is_closed:
            raise ClientClosedError("the client is closed")
        self.transport.session()


class Pipeline:
    """The calls of a client.

    Args:
        settings: The client's settings.
        shared: The state shared with other clients.
        client: The client. It closes the pool when it is garbage collected, so a call under way keeps it alive.

    Attributes:
        settings: The client's settings.
        shared: The state shared with other clients.
    """

    def __init__(self, settings: Settings, shared: ClientState, client: object) -> None:
        self.settings = settings
        self.shared = shared
        self._client = client
        self._headers = settings.request_headers()
        self._urls = operation_urls(settings.base_url)
        # A string keeps its hash, and a URL computes it each time.
        self._exchange_url = str(self._urls[EXCHANGE])
        retry = RetryMiddleware(
            throttle=shared.throttle, clock=shared.clock, on_retry=settings.on_retry, counters=shared.counters
        )
        attempt = build_chain("attempt_middlewares", settings.attempt_middlewares, shared.transport.send)
        self._handle: Handler = build_chain("middlewares", (*settings.middlewares, retry), attempt)

    def exchange(
        self,
        model: ExchangeAuthCodeForAPIKeyRequest,
        options: RequestOptions | None,
        group: CallerGroup | None = None,
    ) -> Coroutine[Any, Any, ExchangeAuthCodeForAPIKeyResponse]:
        """Exchange a code, or wait for an equal exchange under way.

        This is a plain function that returns a coroutine: each coroutine between the caller and aiohttp costs CPU time.

        Args:
            model: The request.
            options: The options in which this call differs from its client.
            group: The group of callers that this one is withdrawn with.
        """
        source = self.settings.api_key if self.settings.authenticate_exchange else None
        if source is None or isinstance(source, Bearer):
            return self._join_exchange(model, source, options, group)
        return self._resolve_and_exchange(model, options, group)

    async def _resolve_and_exchange(
        self,
        model: ExchangeAuthCodeForAPIKeyRequest,
        options: RequestOptions | None,
        group: CallerGroup | None,
    ) -> ExchangeAuthCodeForAPIKeyResponse:
        return await self._join_exchange(model, await self.resolve_bearer(), options, group)

    def _join_exchange(
        self,
        model: ExchangeAuthCodeForAPIKeyRequest,
        bearer: Bearer | None,
        options: RequestOptions | None,
        group: CallerGroup | None,
    ) -> Coroutine[Any, Any, ExchangeAuthCodeForAPIKeyResponse]:
        # Check again after resolving the bearer token: the client may have been closed meanwhile.
        self.shared.bind()
        deliver = None if self.settings.on_key is None else self._deliver
        start = functools.partial(self.call, EXCHANGE, model, bearer, options, deliver)
        url = self._exchange_url if options is None else str(self._url_of(EXCHANGE, options))
        key = (url, model.code, model.code_verifier, model.code_challenge_method)
        return self.shared.flights.run(key, (self, bearer, options), start, group)

    async def resolve_bearer(self) -> Bearer | None:
        """Return the bearer token for one call.

        Raises:
            RequestValidationError: The callable failed, took too long, or returned something that cannot be sent.
        """
        source = self.settings.api_key
        if source is None or isinstance(source, Bearer):
            return source
        try:
            key = source()
            if inspect.isawaitable(key):
                with self.shared.hook_deadlines.start(self.settings.hook_timeout):
                    key = await key
        except DeadlineExpiredError:
            raise RequestValidationError(
                "api_key", f"its callable took more than {self.settings.hook_timeout:g} s"
            ) from None
        except Exception as failure:
            raise RequestValidationError("api_key", f"its callable raised {type(failure).__name__}") from failure
        try:
            return None if key is None else Bearer(key)
        finally:
            # A traceback that shows local variables would show it.
            del key

    async def call(
        self,
        operation: Operation[R],
        model: ExchangeAuthCodeForAPIKeyRequest | CreateAuthKeysCodeRequest | None,
        bearer: Bearer | None,
        options: RequestOptions | None,
        deliver: Callable[[Any, R, SendState], Awaitable[None]] | None,
        send_state: SendState,
    ) -> R:
        """Carry out one call: serialize the request, send it through the chain, and read the response.

        Args:
            operation: The operation.
            model: The request; None when it has no body.
            bearer: The bearer token.
            options: The options in which this call differs from its client.
            deliver: Called with the result before it is returned.
            send_state: Kept up to date while the call is under way.

        Returns:
            The result of the operation.
        """
        started = time.perf_counter()
        request = self.build_request(operation, model, bearer, options, send_state)
        try:
            response = await self._handle(request)
        except OpenRouterError as failure:
            self._finalize(failure, send_state)
            raise
        if not 200 <= response.status_code < 300:
            failed = error_from_response(request, response, self.shared.clock)
            if operation is CURRENT_KEY and isinstance(failed, APIError):
                # The bearer token is the user's key here, not the app's.
                failed.is_key_rejected = response.status_code == 401
            raise self._failed(failed, response, send_state)
        http_meta = HttpMeta(
            status_code=response.status_code,
            headers=response.headers,
            attempts=len(response.history) + 1,
            elapsed=time.perf_counter() - started,
        )
        try:
            result = converter.load(operation.result, response.body, http_meta)
        except converter.MalformedBodyError as malformed:
            error = ResponseValidationError(
                f"{response.status_code}: {malformed}", status_code=response.status_code, headers=response.headers
            )
        else:
            self.shared.counters.succeeded += 1
            if deliver is not None:
                await deliver(model, result, send_state)
            send_state.finish(result)
            return result
        raise self._failed(error, response, send_state)

    def build_request(
        self,
        operation: Operation[Any],
        model: ExchangeAuthCodeForAPIKeyRequest | CreateAuthKeysCodeRequest | None,
        bearer: Bearer | None,
        options: RequestOptions | None,
        send_state: SendState,
    ) -> Request:
        """Build the request for one call from the model, the client's settings and the call's options.

        Raises:
            RequestValidationError: The operation needs a bearer token, and there is none.
        """
        settings = self.settings
        url, headers, timeout, retry = self._urls[operation], self._headers, settings.timeout, settings.retry
        secrets: tuple[str, ...] = ()
        if isinstance(model, ExchangeAuthCodeForAPIKeyRequest):
            secrets = (model.code,) if model.code_verifier is None else (model.code, model.code_verifier)
        if bearer is not None:
            headers = {"Authorization": f"Bearer {bearer.token}"} | headers
            secrets = (*secrets, bearer.token)
        if options is not None:
            url = self._url_of(operation, options)
            if options.headers:
                headers = merge_headers(headers, options.headers)
            timeout = timeout if isinstance(options.timeout, Unset) else options.timeout
            retry = retry if isinstance(options.retry, Unset) else options.retry
        if operation.needs_bearer and not any(name.lower() == "authorization" for name in headers):
            raise RequestValidationError("api_key", f"must be given: {operation.name} needs a bearer token")
        return Request(
            method=operation.method,
            url=url,
            headers=headers,
            body=b"" if model is None else converter.dump(model),
            operation=operation.name,
            timeout=timeout,
            retry=retry,
            secrets=secrets,
            send_state=send_state,
        )

    def _url_of(self, operation: Operation[Any], options: RequestOptions) -> URL:
        if isinstance(options.server_url, Unset):
            return self._urls[operation]
        return operation_urls(options.server_url)[operation]

    async def _deliver(
        self,
        model: ExchangeAuthCodeForAPIKeyRequest,
        response: ExchangeAuthCodeForAPIKeyResponse,
        send_state: SendState,
    ) -> None:
        on_key = self.settings.on_key
        assert on_key is not None  # noqa: S101 - only then is there something to deliver to
        try:
            result = on_key(model, response)
            if isinstance(result, CoroutineType) or inspect.isawaitable(result):
                with self.shared.hook_deadlines.start(self.settings.hook_timeout):
                    await result
        except DeadlineExpiredError:
            raise KeyDeliveryError(
                f"on_key took more than {self.settings.hook_timeout:g} s; the key is in .response", response=response
            ) from None
        except GeneratorExit:
            raise
        except BaseException as failure:  # noqa: BLE001 - it becomes the cause of the error
            # This includes a cancellation, by the hook itself or by closing the client: the key must not be lost.
            error = KeyDeliveryError(
                f"on_key raised {type(failure).__name__}; the key is in .response", response=response
            )
            error.__cause__ = without_secrets(failure, (response.key, model.code, model.code_verifier))
        else:
            send_state.key_saved = True
            return
        # Raised outside of the handler, so that `__context__` does not hold the hook's exception.
        raise error

    def _failed(self, error: OpenRouterError, response: Response, send_state: SendState) -> OpenRouterError:
        error.history = response.history
        self._finalize(error, send_state)
        return error

    def _finalize(self, error: OpenRouterError, send_state: SendState) -> None:
        """Add to an error what is known about the whole call, and count it."""
        finalize_error(error)
        before = send_state.exchanged_before
        if before is not None and isinstance(error, APIError) and error.is_code_rejected:
            # The code was valid: this process used it, and the user made no mistake.
            error.outcome = Outcome.UNKNOWN
            error.args = (f"{error}: this process {'has' if before else 'may have'} exchanged the code already",)
        self.shared.counters.failed[error.outcome] += 1
