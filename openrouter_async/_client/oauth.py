"""The two operations of OpenRouter's OAuth API."""

from __future__ import annotations

import functools
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload
from uuid import UUID

from yarl import URL

from openrouter_async._client.pipeline import CREATE, Pipeline
from openrouter_async._http.chain import SendState
from openrouter_async._http.options import RequestOptions
from openrouter_async._values import converter
from openrouter_async._values.models import (
    UNSET,
    CodeChallengeMethod,
    CreateAuthKeysCodeRequest,
    CreateAuthKeysCodeResponse,
    ExchangeAuthCodeForAPIKeyRequest,
    ExchangeAuthCodeForAPIKeyResponse,
    Unset,
    UsageLimitType,
)
from openrouter_async.errors import RequestValidationError

if TYPE_CHECKING:
    from openrouter_async.batch import Batch, ExchangeResult, Journal
    from openrouter_async.batch._progress import OnProgress
    from openrouter_async.batch._results import Requests, StopOn

_Model = TypeVar("_Model", ExchangeAuthCodeForAPIKeyRequest, CreateAuthKeysCodeRequest)

DEDUP_CACHE_SIZE: Final = 1024
"""How many results a stream remembers for equal requests that come later."""


class OAuth:
    """The operations of the OAuth API; every client has them as ``client.oauth``.

    Args:
        calls: The road that every call takes.
    """

    def __init__(self, calls: Pipeline) -> None:
        self._calls = calls

    @overload
    async def exchange_auth_code_for_api_key(
        self, request: ExchangeAuthCodeForAPIKeyRequest, /, *, options: RequestOptions | None = None
    ) -> ExchangeAuthCodeForAPIKeyResponse: ...

    @overload
    async def exchange_auth_code_for_api_key(
        self,
        /,
        *,
        code: str,
        code_verifier: str | None = None,
        code_challenge_method: CodeChallengeMethod | str | None | Unset = UNSET,
        options: RequestOptions | None = None,
    ) -> ExchangeAuthCodeForAPIKeyResponse: ...

    async def exchange_auth_code_for_api_key(
        self,
        request: ExchangeAuthCodeForAPIKeyRequest | None = None,
        /,
        *,
        options: RequestOptions | None = None,
        **fields: Any,
    ) -> ExchangeAuthCodeForAPIKeyResponse:
        """Exchange an authorization code for a user-controlled API key.

        Calls that are equal in every field and under way at the same time share one request. A caller that is cancelled
        after its request left does not take the key with it: the exchange runs on, and ``on_key`` gets the result.

        Args:
            request: The whole request, instead of its fields.
            options: What this call does differently from its client.
            **fields: ``code``, ``code_verifier`` and ``code_challenge_method``, as in
                `ExchangeAuthCodeForAPIKeyRequest`.

        Raises:
            RequestValidationError: A field is not valid; nothing was sent.
            APIError: The server answered with a status of 400 or more.
            ResponseValidationError: The answer is not what the API documents.
            TransportError: There was no HTTP answer.
            KeyDeliveryError: ``on_key`` raised; the error holds the key.
            ClientClosedError: The client is closed.

        See Also:
            ``exchangeAuthCodeForAPIKey`` in https://openrouter.ai/docs/api-reference; RFC 6749, section 4.1.3;
            RFC 7636, section 4.5.
        """
        model = _to_model(ExchangeAuthCodeForAPIKeyRequest, request, fields)
        # A traceback that shows local variables would show the code.
        del request, fields
        return await self._calls.join(model, options)

    @overload
    async def create_auth_code(
        self, request: CreateAuthKeysCodeRequest, /, *, options: RequestOptions | None = None
    ) -> CreateAuthKeysCodeResponse: ...

    @overload
    async def create_auth_code(
        self,
        /,
        *,
        callback_url: str | URL,
        code_challenge: str | None = None,
        code_challenge_method: CodeChallengeMethod | str | None | Unset = UNSET,
        limit: float | None = None,
        usage_limit_type: UsageLimitType | str | None = None,
        expires_at: datetime | None | Unset = UNSET,
        key_label: str | None = None,
        workspace_id: UUID | str | None = None,
        options: RequestOptions | None = None,
    ) -> CreateAuthKeysCodeResponse: ...

    async def create_auth_code(
        self,
        request: CreateAuthKeysCodeRequest | None = None,
        /,
        *,
        options: RequestOptions | None = None,
        **fields: Any,
    ) -> CreateAuthKeysCodeResponse:
        """Create an authorization code; the client needs an API key of its own for this.

        Args:
            request: The whole request, instead of its fields.
            options: What this call does differently from its client.
            **fields: ``callback_url``, ``code_challenge``, ``code_challenge_method``, ``limit``, ``usage_limit_type``,
                ``expires_at``, ``key_label`` and ``workspace_id``, as in `CreateAuthKeysCodeRequest`.

        Raises:
            RequestValidationError: A field is not valid, or there is no API key; nothing was sent.
            APIError: The server answered with a status of 400 or more.
            ResponseValidationError: The answer is not what the API documents.
            TransportError: There was no HTTP answer.
            ClientClosedError: The client is closed.

        See Also:
            ``createAuthKeysCode`` in https://openrouter.ai/docs/api-reference.
        """
        model = _to_model(CreateAuthKeysCodeRequest, request, fields)
        calls = self._calls
        calls.shared.bind()
        call = calls.prepare(
            CREATE,
            converter.dump(model),
            bearer=await calls.resolve_bearer(),
            options=options,
            send_state=SendState(),
            secrets=(),
        )
        if not any(name.lower() == "authorization" for name in call.headers):
            raise RequestValidationError("api_key", "must be given: creating a code needs a bearer token")
        return await calls.send(call, CreateAuthKeysCodeResponse)

    def exchange_many(
        self,
        requests: Requests,
        /,
        *,
        concurrency: int = 16,
        ordered: bool = False,
        stop_on: StopOn | None = None,
        timeout: float | None = None,
        journal: Journal | None = None,
        on_progress: OnProgress | None = None,
        options: RequestOptions | None = None,
    ) -> Batch:
        """Exchange many authorization codes, and give each result as it comes.

        ::

            async for result in client.oauth.exchange_many(requests, concurrency=64):
                if result.error is None:
                    await store(result.response)

        The results are as many as the requests, whatever becomes of each; one failure does not disturb the others. The
        input is read no faster than results are taken, so it may be endless, and takes no more memory then. Requests
        that are equal are sent once while the first is among the last 1,024, with a journal for ever; the others get
        its result, without the ``http_meta``. What OpenRouter asks to wait holds for the whole batch. See `Batch` for
        leaving it before its end.

        Args:
            requests: An iterable or async iterable of requests, or of bare codes that need no verifier. One that is not
                async is read in the loop, and must not block it.
            concurrency: Exchanges on their way at the same time; more than the client's ``pool_size`` only wait.
            ordered: Whether the results come in the order of the input. At most twice ``concurrency`` requests are
                taken before the result that comes next.
            stop_on: Classes of errors, or a callable of a result, that end the batch: nothing more is taken or sent,
                what was sent is answered, and what was taken and not sent fails with the outcome ``NOT_SENT``.
            timeout: Seconds from the first result that is asked for until the batch ends so; None for no bound.
            journal: An open journal. What it has a result for is skipped, and gives none here. What was about to be
                sent when a process died is tried again, and if its code is rejected then, the outcome is ``UNKNOWN``.
            on_progress: Called with a `BatchProgress` at most ten times a second, and at the end. It may be a coroutine
                function. What it raises is logged.
            options: What these calls do differently from their client.

        Raises:
            RequestValidationError: An argument is not valid; of the requests, each invalid one gives a result that says
                so. A journal without keys needs a client with an ``on_key``.

        The loop raises what the input raised, and for what ends a batch, after its last result:

            JournalError: The journal cannot be written.
            ClientClosedError: The client is closed.
        """
        return self._start_batch(
            requests,
            options,
            concurrency=concurrency,
            ordered=ordered,
            stop_on=stop_on,
            timeout=timeout,
            journal=journal,
            on_progress=on_progress,
            remembered=DEDUP_CACHE_SIZE,
        )

    async def exchange_all(
        self,
        requests: Requests,
        /,
        *,
        concurrency: int = 16,
        stop_on: StopOn | None = None,
        timeout: float | None = None,
        journal: Journal | None = None,
        on_progress: OnProgress | None = None,
        options: RequestOptions | None = None,
    ) -> list[ExchangeResult]:
        """Exchange many authorization codes, and give all results in the order of the input.

        It is for what fits into memory: equal requests are sent once, however far apart they are.

        Args:
            requests: As for `exchange_many`.
            concurrency: As for `exchange_many`.
            stop_on: As for `exchange_many`; requests that were not taken have no result.
            timeout: As for `exchange_many`; requests that were not taken have no result.
            journal: As for `exchange_many`; requests that are skipped have no result.
            on_progress: As for `exchange_many`.
            options: As for `exchange_many`.

        Raises:
            OpenRouterError: As for `exchange_many`. Results that there are then go only to ``on_key`` and the journal.
        """
        batch = self._start_batch(
            requests,
            options,
            concurrency=concurrency,
            stop_on=stop_on,
            timeout=timeout,
            journal=journal,
            on_progress=on_progress,
        )
        return await batch.collect()

    def _start_batch(self, requests: Requests, options: RequestOptions | None, **plan: Any) -> Batch:
        # Not everybody exchanges many.
        from openrouter_async.batch._batch import Batch
        from openrouter_async.batch._options import Plan
        from openrouter_async.batch._runner import Run
        from openrouter_async.batch._source import Source

        made = Plan(has_on_key=self._calls.settings.on_key is not None, **plan)
        exchange = functools.partial(self._calls.join, options=options)
        return Batch(Run(exchange, Source(requests), made, self._calls.shared.clock))


def _to_model(kind: type[_Model], request: _Model | None, fields: dict[str, Any]) -> _Model:
    if request is None:
        return kind(**fields)
    if fields:
        raise RequestValidationError("request", "must not come with fields beside it")
    if not isinstance(request, kind):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise RequestValidationError("request", f"must be a {kind.__name__}")
    return request
