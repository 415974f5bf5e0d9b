"""One call of an operation: from its request to its result, or to the error that says what became of it."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, TypeVar

from yarl import URL

from openrouter_async import converter
from openrouter_async.chain import Delivery, Request, Response
from openrouter_async.clock import Clock
from openrouter_async.counters import Counters
from openrouter_async.errors import KeyDeliveryError, OpenRouterError, ResponseValidationError
from openrouter_async.inflight import InFlight
from openrouter_async.models import (
    CreateAuthKeysCodeResponse,
    ExchangeAuthCodeForAPIKeyRequest,
    ExchangeAuthCodeForAPIKeyResponse,
    HttpMeta,
    Unset,
)
from openrouter_async.options import Bearer, RequestOptions
from openrouter_async.outcomes import error_from, settle

OnKey: TypeAlias = Callable[[ExchangeAuthCodeForAPIKeyRequest, ExchangeAuthCodeForAPIKeyResponse], Awaitable[object]]
"""Puts a key into its safe place. It is awaited before any caller gets the key, and also when no caller is left."""

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


class Caller(Protocol):
    """What the operations need of a client."""

    @property
    def clock(self) -> Clock:
        """Where time comes from."""
        ...

    @property
    def on_key(self) -> OnKey | None:
        """Where keys are put."""
        ...

    @property
    def in_flight(self) -> InFlight[ExchangeAuthCodeForAPIKeyResponse]:
        """The exchanges on their way."""
        ...

    @property
    def counters(self) -> Counters:
        """What is counted."""
        ...

    def check_usable(self) -> None:
        """Raise `ClientClosedError` when nothing can be sent."""
        ...

    @property
    def fixed_bearer(self) -> Bearer | None | Unset:
        """The bearer token for all calls; unset when there may be another one for each."""
        ...

    async def resolve_bearer(self) -> Bearer | None:
        """The bearer token for one call."""
        ...

    def prepare(
        self,
        operation: Operation,
        body: bytes,
        *,
        bearer: Bearer | None,
        options: RequestOptions | None,
        delivery: Delivery,
        secrets: tuple[str, ...],
    ) -> Request:
        """The request for one call."""
        ...

    def handle(self, request: Request) -> Awaitable[Response]:
        """Send a request through the chain."""
        ...


class Calls:
    """The calls of a client."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def join(
        self, model: ExchangeAuthCodeForAPIKeyRequest, options: RequestOptions | None
    ) -> Coroutine[Any, Any, ExchangeAuthCodeForAPIKeyResponse]:
        """Exchange a code, or wait for an exchange that is equal and under way.

        Args:
            model: The request.
            options: What this call does differently from its client.
        """
        bearer = self._caller.fixed_bearer
        # Each coroutine that waits for another costs something whenever it goes on.
        return self._resolve(model, options) if isinstance(bearer, Unset) else self._join(model, bearer, options)

    async def _resolve(
        self, model: ExchangeAuthCodeForAPIKeyRequest, options: RequestOptions | None
    ) -> ExchangeAuthCodeForAPIKeyResponse:
        return await self._join(model, await self._caller.resolve_bearer(), options)

    def _join(
        self, model: ExchangeAuthCodeForAPIKeyRequest, bearer: Bearer | None, options: RequestOptions | None
    ) -> Coroutine[Any, Any, ExchangeAuthCodeForAPIKeyResponse]:
        caller = self._caller
        # Only now, as the client may have been closed meanwhile, and nobody would wait for this exchange to end.
        caller.check_usable()
        return caller.in_flight.join(
            (caller, bearer, model, options), functools.partial(self._exchange, model, bearer, options)
        )

    async def _exchange(
        self,
        model: ExchangeAuthCodeForAPIKeyRequest,
        bearer: Bearer | None,
        options: RequestOptions | None,
        delivery: Delivery,
    ) -> ExchangeAuthCodeForAPIKeyResponse:
        secrets = (model.code,) if model.code_verifier is None else (model.code, model.code_verifier)
        call = self._caller.prepare(
            EXCHANGE, converter.dump(model), bearer=bearer, options=options, delivery=delivery, secrets=secrets
        )
        del secrets
        response = await self.send(call, ExchangeAuthCodeForAPIKeyResponse)
        on_key = self._caller.on_key
        if on_key is not None:
            try:
                await on_key(model, response)
            except (Exception, asyncio.CancelledError) as failure:
                # Also when it was cancelled, by itself or because the client was closed: the key must not go with it.
                raise KeyDeliveryError(
                    f"on_key raised {type(failure).__name__}; the key is in .response", response=response
                ) from failure
            delivery.kept = True
        return response

    async def send(self, request: Request, kind: type[_Result]) -> _Result:
        """Send a request through the chain, and read what the answer says.

        Args:
            request: The request.
            kind: The class of the result.
        """
        started = time.perf_counter()
        try:
            response = await self._caller.handle(request)
        except OpenRouterError as failure:
            self._settle(failure)
            raise
        error: OpenRouterError
        if 200 <= response.status < 300:
            http_meta = HttpMeta(
                status_code=response.status,
                headers=response.headers,
                attempts=len(response.history) + 1,
                elapsed=time.perf_counter() - started,
            )
            try:
                result = converter.load(kind, response.body, http_meta)
            except converter.MalformedBodyError as malformed:
                error = ResponseValidationError(
                    f"{response.status}: {malformed}", status_code=response.status, headers=response.headers
                )
            else:
                self._caller.counters.succeeded += 1
                return result
        else:
            error = error_from(request, response, self._caller.clock)
        error.history = response.history
        self._settle(error)
        raise error

    def _settle(self, error: OpenRouterError) -> None:
        settle(error)
        self._caller.counters.failed[error.outcome] += 1


def operation_urls(base_url: URL) -> dict[Operation, URL]:
    """Where each operation is, below the address of the API."""
    # Joining by "/" would lose the path of the base.
    base = str(base_url).rstrip("/")
    return {operation: URL(base + operation.path) for operation in OPERATIONS}
