"""The two operations of OpenRouter's OAuth API."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, Literal, Never, NoReturn, TypeAlias, TypeVar, overload
from uuid import UUID

from yarl import URL

from openrouter_async._client.pipeline import CREATE, Pipeline
from openrouter_async._http.chain import SendState
from openrouter_async._http.options import RequestOptions
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
"""How a code challenge is derived from its verifier."""
LimitType: TypeAlias = Literal["daily", "weekly", "monthly"] | UsageLimitType
"""When the credit limit of a key resets."""

DEDUP_CACHE_SIZE: Final = 1024
"""How many results a batch remembers for equal requests that come later."""


def spelled(method: _Method) -> _Method:
    """Hide from `help` the keyword arguments that a method takes only to refuse them."""
    signature = inspect.signature(method)
    kept = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
    method.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    return method


class OAuth:
    """The operations of the OAuth API; every client has them as ``client.oauth``.

    Args:
        pipeline: The road that every call takes.
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

        Calls that are equal in every field and under way at the same time share one request. A caller that is cancelled
        after its request was sent does not take the key with it: the exchange goes on, and ``on_key`` gets the result.

        Args:
            request: The whole request, instead of its fields.
            code: The authorization code, from the redirect or pasted by the user.
            code_verifier: The verifier whose challenge started the login (RFC 7636); None leaves it out.
            code_challenge_method: How the challenge was derived; `UNSET` leaves it out, None is sent as null.
            options: The options in which this call differs from its client.
            **unknown: Nothing: any other name is refused.

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
            refuse_unknown(self.exchange_auth_code_for_api_key, unknown)
        model = _to_model(
            ExchangeAuthCodeForAPIKeyRequest,
            request,
            {"code": code, "code_verifier": code_verifier, "code_challenge_method": code_challenge_method},
        )
        # A traceback that shows local variables would show the code.
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
        """Create an authorization code; the client needs an API key of its own for this.

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
            **unknown: Nothing: any other name is refused.

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
        return await self._pipeline.call(CREATE, model, bearer, options, SendState())

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
        """Exchange many authorization codes, and yield each result as it comes.

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
            options: The options in which these calls differ from their client.

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

        For input that fits into memory: equal requests are sent once, however far apart they are.

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
    """Return the request; or the error to raise, so that no frame of its traceback holds a secret."""
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
    name = next(iter(unknown))
    names = [known for known, given in inspect.signature(method).parameters.items() if given.kind is given.KEYWORD_ONLY]
    similar = difflib.get_close_matches(name, names, n=1)
    unknown.clear()
    raise TypeError(
        f"{method.__qualname__}() got an unexpected keyword argument {name!r}"
        + (f"; did you mean {similar[0]!r}?" if similar else "")
    )
