"""The two operations of OpenRouter's OAuth API."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, Literal, Never, NoReturn, TypeAlias, TypeVar, overload
from uuid import UUID

from yarl import URL

from openrouter_async._client.operations import CREATE
from openrouter_async._client.pipeline import Pipeline
from openrouter_async._http.chain import SendState
from openrouter_async._http.options import RequestOptions
from openrouter_async._values.frames import hide_arguments
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
from openrouter_async.batch import Batch, ExchangeResult, Journal
from openrouter_async.batch._options import Options
from openrouter_async.batch._progress import OnProgress
from openrouter_async.batch._results import Requests, StopOn
from openrouter_async.batch._runner import Runner
from openrouter_async.errors import RequestValidationError

_Model = TypeVar("_Model", ExchangeAuthCodeForAPIKeyRequest, CreateAuthKeysCodeRequest)
_Method = TypeVar("_Method", bound=Callable[..., Any])

ChallengeMethod: TypeAlias = Literal["S256", "plain"] | CodeChallengeMethod
"""The method by which a code challenge is derived from its verifier."""
LimitType: TypeAlias = Literal["daily", "weekly", "monthly"] | UsageLimitType
"""The interval at which the credit limit of a key resets."""

DEDUP_CACHE_SIZE: Final = 1024
"""The number of results that a batch remembers, for equal requests that come later."""


def spelled(method: _Method) -> _Method:
    """Hide from `help` the ``**unknown`` arguments that a method accepts only to refuse them."""
    signature = inspect.signature(method)
    kept = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
    method.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    return method


class OAuth:
    """The operations of the OAuth API; every client has them as ``client.oauth``.

    Args:
        pipeline: Carries out the calls.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

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
        code_challenge_method: ChallengeMethod | None | Unset = UNSET,
        options: RequestOptions | None = None,
    ) -> ExchangeAuthCodeForAPIKeyResponse: ...

    @spelled
    async def exchange_auth_code_for_api_key(
        self,
        request: ExchangeAuthCodeForAPIKeyRequest | None = None,
        /,
        *,
        code: str | Unset = UNSET,
        code_verifier: str | None = None,
        code_challenge_method: ChallengeMethod | None | Unset = UNSET,
        options: RequestOptions | None = None,
        **unknown: Never,
    ) -> ExchangeAuthCodeForAPIKeyResponse:
        """Exchange an authorization code for a user-controlled API key.

        Concurrent calls that are equal in every field share one request. Cancelling the caller after its request was
        sent does not lose the key: the exchange continues, and ``on_key`` gets the result.

        Args:
            request: The whole request, instead of its fields.
            code: The authorization code, from the redirect or pasted by the user.
            code_verifier: The verifier whose challenge started the login (RFC 7636); None leaves it out.
            code_challenge_method: How the challenge was derived; `UNSET` leaves it out, None is sent as null.
            options: The options in which this call differs from its client.
            **unknown: Not accepted: any other name raises ``TypeError``.

        Returns:
            The key, and the id of its user.

        Raises:
            RequestValidationError: A field is not valid; nothing was sent.
            APIError: The server responded with a status of 400 or more.
            ResponseValidationError: The response is not what the API documents.
            TransportError: There was no HTTP response.
            KeyDeliveryError: ``on_key`` failed; the error holds the key.
            ClientClosedError: The client is closed.

        See Also:
            ``exchangeAuthCodeForAPIKey`` in https://openrouter.ai/docs/api-reference; RFC 6749, section 4.1.3;
            RFC 7636, section 4.5.
        """
        if unknown:
            del request, code, code_verifier
            refuse_unknown(self.exchange_auth_code_for_api_key, unknown)
        model = _to_model(
            ExchangeAuthCodeForAPIKeyRequest,
            request,
            {"code": code, "code_verifier": code_verifier, "code_challenge_method": code_challenge_method},
        )
        # Tracebacks that show local variables would show the code.
        del request, code, code_verifier
        if isinstance(model, RequestValidationError):
            raise model
        return await self._pipeline.exchange(model, options)

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
        code_challenge_method: ChallengeMethod | None | Unset = UNSET,
        limit: float | None = None,
        usage_limit_type: LimitType | None = None,
        expires_at: datetime | None | Unset = UNSET,
        key_label: str | None = None,
        workspace_id: UUID | str | None = None,
        options: RequestOptions | None = None,
    ) -> CreateAuthKeysCodeResponse: ...

    @spelled
    async def create_auth_code(
        self,
        request: CreateAuthKeysCodeRequest | None = None,
        /,
        *,
        callback_url: str | URL | Unset = UNSET,
        code_challenge: str | None = None,
        code_challenge_method: ChallengeMethod | None | Unset = UNSET,
        limit: float | None = None,
        usage_limit_type: LimitType | None = None,
        expires_at: datetime | None | Unset = UNSET,
        key_label: str | None = None,
        workspace_id: UUID | str | None = None,
        options: RequestOptions | None = None,
        **unknown: Never,
    ) -> CreateAuthKeysCodeResponse:
        """Create an authorization code. This needs an API key of the app.

        Args:
            request: The whole request, instead of its fields.
            callback_url: Where the user is sent after consent: https, or http on localhost or 127.0.0.1.
            code_challenge: The PKCE challenge; None leaves it out.
            code_challenge_method: How the challenge was derived; needs a challenge. None leaves it out.
            limit: The credit limit of the key in US dollars; None leaves it out: no limit.
            usage_limit_type: When the limit resets; None leaves it out: never.
            expires_at: When the key expires, a datetime with a time zone; `UNSET` leaves it out, None is sent as null.
            key_label: The name of the key, at most 100 characters; None leaves it out: the app's name.
            workspace_id: The UUID of the workspace that the key belongs to; None leaves it out.
            options: The options in which this call differs from its client.
            **unknown: Not accepted: any other name raises ``TypeError``.

        Returns:
            The code that was created.

        Raises:
            RequestValidationError: A field is not valid, or there is no API key; nothing was sent.
            APIError: The server responded with a status of 400 or more.
            ResponseValidationError: The response is not what the API documents.
            TransportError: There was no HTTP response.
            ClientClosedError: The client is closed.

        See Also:
            ``createAuthKeysCode`` in https://openrouter.ai/docs/api-reference.
        """
        if unknown:
            refuse_unknown(self.create_auth_code, unknown)
        model = _to_model(
            CreateAuthKeysCodeRequest,
            request,
            {
                "callback_url": callback_url,
                "code_challenge": code_challenge,
                "code_challenge_method": code_challenge_method,
                "limit": limit,
                "usage_limit_type": usage_limit_type,
                "expires_at": expires_at,
                "key_label": key_label,
                "workspace_id": workspace_id,
            },
        )
        if isinstance(model, RequestValidationError):
            raise model
        self._pipeline.shared.bind()
        bearer = await self._pipeline.resolve_bearer()
        return await self._pipeline.call(CREATE, model, bearer, options, None, SendState())

    @hide_arguments
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
        """Exchange many authorization codes, and yield each result as soon as it is there.

        ::

            async for result in client.oauth.exchange_many(requests, concurrency=64):
                if result.error is None:
                    await store(result.response)

        Each request that is taken gives exactly one result, and a failure does not affect the others. The input is read
        only as fast as results are taken, so it may be endless and memory stays constant. Equal requests are sent once,
        as long as the first is among the last 1,024, or always with a journal; the others get the same result, without
        its ``http_meta``. A pause that OpenRouter asks for holds for the whole batch. See `Batch` for leaving the loop
        early.

        Args:
            requests: An iterable or async iterable of requests, or of bare codes that need no verifier. A sync iterable
                is read in the event loop and must not block it.
            concurrency: The maximum number of concurrent exchanges. More than the client's ``pool_size`` have to wait
                for a connection.
            ordered: Whether the results come in the order of the input. At most twice ``concurrency`` requests are
                taken ahead of the next result.
            stop_on: The condition that ends the batch: error classes, or a callable that takes a result and returns
                whether to stop. After that nothing more is taken or sent; requests that were sent get their result, and
                those that were taken but not sent fail with the outcome ``NOT_SENT``.
            timeout: Seconds after which the batch ends in the same way, counted from when the first result is
                requested; None sets no limit.
            journal: An open journal. Requests whose result it holds are skipped, and give no result here. Requests that
                were about to be sent when an earlier process died are sent again; if the code is rejected then, the
                outcome is ``UNKNOWN``.
            on_progress: Called with a `BatchProgress` at most ten times a second, and at the end. It may be a coroutine
                function. Exceptions from it are logged.
            options: The options in which these calls differ from their client.

        Raises:
            RequestValidationError: An argument is not valid, or the journal stores no keys and the client has no
                ``on_key``. An invalid request does not raise: it gives a result with this error.

        After the last result, the loop raises any exception that the input raised, and:

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
            dedup_size=DEDUP_CACHE_SIZE,
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
        """Exchange many authorization codes, and return all results in the order of the input.

        This is for input that fits into memory. Equal requests are sent once, however far apart they are.

        Args:
            requests: As for `exchange_many`.
            concurrency: As for `exchange_many`.
            stop_on: As for `exchange_many`; requests that were not taken have no result.
            timeout: As for `exchange_many`; requests that were not taken have no result.
            journal: As for `exchange_many`; requests that are skipped have no result.
            on_progress: As for `exchange_many`.
            options: As for `exchange_many`.

        Raises:
            OpenRouterError: As for `exchange_many`. The results so far are then only in ``on_key`` and the journal.
        """
        try:
            batch = self._start_batch(
                requests,
                options,
                concurrency=concurrency,
                stop_on=stop_on,
                timeout=timeout,
                journal=journal,
                on_progress=on_progress,
            )
        finally:
            # A traceback that shows local variables would show bare codes.
            del requests
        return await batch.collect()

    @hide_arguments
    def _start_batch(self, requests: Requests, options: RequestOptions | None, **plan: Any) -> Batch:
        made = Options(has_on_key=self._pipeline.settings.on_key is not None, **plan)
        pipeline = self._pipeline
        return Batch(
            Runner(
                lambda request, group: pipeline.exchange(request, options, group),
                requests,
                made,
                pipeline.shared.clock,
            )
        )


def _to_model(kind: type[_Model], request: _Model | None, fields: dict[str, Any]) -> _Model | RequestValidationError:
    """Return the request, or the error to raise: this frame holds secrets and must not be in its traceback."""
    if request is not None:
        if any(value is not None and value is not UNSET for value in fields.values()):
            return RequestValidationError("request", "must not come with fields beside it")
        if not isinstance(request, kind):  # pyright: ignore[reportUnnecessaryIsInstance]
            return RequestValidationError("request", f"must be a {kind.__name__}")
        return request
    required = next(iter(fields))
    if fields[required] is UNSET:
        return RequestValidationError(required, "must be given")
    try:
        return kind(**fields)
    except RequestValidationError as invalid:
        return invalid.with_traceback(None)


def refuse_unknown(method: Callable[..., Any], unknown: dict[str, Any]) -> NoReturn:
    """Raise the error for a keyword argument that a method does not have."""
    import difflib

    name = next(iter(unknown))
    names = [known for known, given in inspect.signature(method).parameters.items() if given.kind is given.KEYWORD_ONLY]
    similar = difflib.get_close_matches(name, names, n=1)
    unknown.clear()
    raise TypeError(
        f"{method.__qualname__}() got an unexpected keyword argument {name!r}"
        + (f"; did you mean {similar[0]!r}?" if similar else "")
    )
