"""Exchanges on a task queue, for more than one machine; needs the extra ``taskiq``.

::

    from openrouter_async.integrations.taskiq import Exchanges

    broker = RedisStreamBroker(url).with_result_backend(RedisAsyncResultBackend(url))
    # The same in producers, workers and collectors:
    exchanges = Exchanges(broker, keys=key, claims=lambda: RedisStore.from_url(url, keys=key))

    task_id = await exchanges.send(code)          # a producer
    exchanged = await exchanges.result(task_id)   # a collector

Workers are those of taskiq: ``taskiq worker module:broker``. Any of its brokers will do; one that delivers again what a
worker that died had taken, such as `RedisStreamBroker` and those of RabbitMQ and NATS, loses nothing. With a
`RedisStreamBroker`, set ``idle_timeout``, after which it does so, and ``unacknowledged_lock_timeout``: a worker that
dies at the wrong moment leaves its lock behind.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import secrets
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, Final, TypeAlias

import attrs

from openrouter_async.backoff import check_number
from openrouter_async.batch import cast_doubt, request_digest
from openrouter_async.client import OpenRouter
from openrouter_async.errors import (
    APIError,
    KeyDeliveryError,
    OpenRouterError,
    Outcome,
    RequestTimeoutError,
    TransportError,
)
from openrouter_async.login.records import Claim, Claimant, ClaimStatus, KeyRecord, LoginRecord, Store
from openrouter_async.models import ExchangeAuthCodeForAPIKeyRequest, ExchangeAuthCodeForAPIKeyResponse, Unset
from openrouter_async.pkce import PKCEPair
from openrouter_async.redaction import mask_key, mask_optional
from openrouter_async.sealing import Keys, Sealer, SealError

try:
    from taskiq import (
        AsyncBroker,
        AsyncResultBackend,
        AsyncTaskiqTask,
        Context,
        TaskiqDepends,
        TaskiqEvents,
        TaskiqResult,
        TaskiqState,
    )
    from taskiq.exceptions import SendTaskError, TaskiqResultTimeoutError
except ImportError as missing:
    raise ImportError("the integration needs taskiq: pip install 'openrouter-async[taskiq]'") from missing

logger = logging.getLogger(__name__)

_Said: TypeAlias = dict[str, Any]
"""What a worker says of an exchange, as it is sealed."""

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0


def _show_key(key: str | None) -> str:
    return mask_optional(None) if key is None else mask_key(key)


@attrs.frozen(kw_only=True)
class Exchanged:
    """What the exchange of a worker gave.

    Attributes:
        key: The user's API key; None when the worker's ``on_key`` took it.
        user_id: The user's id; None when OpenRouter does not tell it.
        key_hash: The SHA-256 of the key in lowercase hex, by which OpenRouter's pages name it.
    """

    key: str | None = attrs.field(default=None, repr=_show_key)
    user_id: str | None = None
    key_hash: str


class Exchanges:
    """Exchanges authorization codes by the workers of a taskiq broker.

    Making one registers its task and opens and closes a client with each worker; a worker that stops lets the exchanges
    on their way end. Requests and results are sealed on their way through the broker and the result backend, each for
    its own task, so that one cannot be put in the place of another. When the worker's client has an ``on_key``, the
    results hold no key at all.

    Brokers deliver a message again when a worker died with it. A code is claimed before it is sent, as logins are: a
    second delivery waits for the first one and gives the same result, and when the first one was lost with its worker,
    the code is tried again; if it is rejected then, the outcome is ``UNKNOWN``.

    Args:
        broker: The broker; it needs a result backend for `result`.
        keys: Fernet keys, by `openrouter_async.sealing.generate_key`: the first one seals, all of them open.
        claims: Where codes are claimed: a store of logins that all workers share, which is borrowed; or what makes one,
            which is closed when the worker ends.
        client: The client, which is borrowed; or what makes one, which is closed when the worker ends.
        task_name: The name of the task.
        lease: Seconds until a code whose worker died is tried again; renewed while the worker lives.
        remember: Seconds for which a result is given again to a message that is delivered again.

    Raises:
        RequestValidationError: An argument is not valid.
    """

    def __init__(
        self,
        broker: AsyncBroker,
        *,
        keys: Keys,
        claims: Store | Callable[[], Store],
        client: OpenRouter | Callable[[], OpenRouter] = OpenRouter,
        task_name: str = "openrouter_async:exchange",
        lease: float = 15.0,
        remember: float = 3600.0,
    ) -> None:
        check_number("lease", lease, least=0, exclusive=True)
        check_number("remember", remember, least=0, exclusive=True)
        self._broker = broker
        self._sealer = Sealer(keys)
        self._claims = claims
        self._client = client
        self._lease = lease
        self._remember = remember
        self._worker: _Worker | None = None
        self._cleanup = AsyncExitStack()

        async def exchange(sealed: str, context: Context = TaskiqDepends()) -> str:  # noqa: B008 - taskiq's way
            return await self._carry_out(context.message.task_id, sealed)

        async def wake_up() -> None:
            """Does nothing."""

        self._task = broker.register_task(exchange, task_name=task_name)
        self._wake_up = broker.register_task(wake_up, task_name=f"{task_name}:wake-up")
        self._woken = -math.inf
        broker.add_event_handler(TaskiqEvents.WORKER_STARTUP, self._start)
        broker.add_event_handler(TaskiqEvents.WORKER_SHUTDOWN, self._stop)

    async def send(self, request: ExchangeAuthCodeForAPIKeyRequest | str, /) -> str:
        """Have a code exchanged.

        Args:
            request: The request, or a bare code that needs no verifier.

        Returns:
            The id of the task, for `result`.

        Raises:
            RequestValidationError: The code is not valid; nothing was sent.
            TransportError: The broker did not take it for sure.
        """
        if isinstance(request, str):
            request = ExchangeAuthCodeForAPIKeyRequest(code=request)
        task_id = self._broker.id_generator()
        sealed = self._sealer.seal(_purpose("request", task_id), _dump_request(request)).decode()
        del request
        try:
            await self._task.kicker().with_task_id(task_id).kiq(sealed)
        except SendTaskError as failure:
            reason = type(failure.__cause__ or failure).__name__
            raise TransportError(f"the broker did not take the task: {reason}", outcome=Outcome.UNKNOWN) from None
        return task_id

    async def result(self, task_id: str, *, timeout: float = 60.0, interval: float = 0.1) -> Exchanged:
        """Wait for the result of a task.

        Args:
            task_id: What `send` gave.
            timeout: Seconds to wait.
            interval: Seconds between two looks at the result backend.

        Raises:
            RequestValidationError: An argument is not valid.
            RequestTimeoutError: There was no result in time; it may still come.
            OpenRouterError: The exchange failed, as the error's outcome and message tell.
            TransportError: The result backend cannot be used, or holds something else.
        """
        check_number("timeout", timeout, least=0)
        check_number("interval", interval, least=0, exclusive=True)
        try:
            result = await self._wait(task_id, timeout, interval)
        except TaskiqResultTimeoutError:
            raise RequestTimeoutError(
                f"waited more than {timeout:g} s for the result of a task", outcome=Outcome.UNKNOWN
            ) from None
        except Exception as failure:  # noqa: BLE001 - backends and brokers raise what they like
            reason = type(failure).__name__
            raise TransportError(f"the result cannot be fetched: {reason}", outcome=Outcome.UNKNOWN) from None
        if result.is_err:
            raise TransportError(f"the task failed: {type(result.error).__name__}", outcome=Outcome.UNKNOWN)
        try:
            said: _Said = json.loads(self._sealer.open(_purpose("result", task_id), result.return_value.encode()))
        except SealError:
            raise TransportError("the result was not sealed with these keys", outcome=Outcome.UNKNOWN) from None
        if "error" in said:
            raise _rebuild(said)
        return Exchanged(**said)

    async def _wait(self, task_id: str, timeout: float, interval: float) -> TaskiqResult[str]:
        backend: AsyncResultBackend[Any] = self._broker.result_backend
        task: AsyncTaskiqTask[str] = AsyncTaskiqTask(task_id=task_id, result_backend=backend)
        now = asyncio.get_running_loop().time
        give_up_at = now() + timeout
        while True:
            # It takes a timeout of 0 for none.
            left = max(give_up_at - now(), interval)
            try:
                return await task.wait_result(check_interval=interval, timeout=min(self._lease, left))
            except TaskiqResultTimeoutError:
                if now() >= give_up_at:
                    raise
            if now() >= self._woken + self._lease:
                # `RedisStreamBroker` looks for what a dead worker left only when something new has come.
                self._woken = now()
                await self._wake_up.kicker().with_task_id(self._wake_up.task_name).kiq()

    async def _start(self, _state: TaskiqState) -> None:
        async with AsyncExitStack() as cleanup:
            claims, client = self._claims, self._client
            if callable(claims):
                claims = claims()
                if (close := getattr(claims, "aclose", None)) is not None:
                    cleanup.push_async_callback(close)
            if not isinstance(client, OpenRouter):
                client = await cleanup.enter_async_context(client())
            client.check_usable()
            self._worker = _Worker(client, claims, lease=self._lease, remember=self._remember)
            cleanup.push_async_callback(self._worker.drain)
            self._cleanup = cleanup.pop_all()

    async def _stop(self, _state: TaskiqState) -> None:
        await self._cleanup.aclose()
        self._worker = None

    async def _carry_out(self, task_id: str, sealed: str) -> str:
        if self._worker is None:
            raise RuntimeError("the worker of taskiq has not been started: its startup event opens the client")
        try:
            request = _load_request(self._sealer.open(_purpose("request", task_id), sealed.encode()))
        except SealError:
            said = _say(OpenRouterError("the request was not sealed with the keys of the worker"))
        else:
            said = await self._worker.carry_out(request)
        return self._sealer.seal(_purpose("result", task_id), json.dumps(said).encode()).decode()


class _Worker:
    """What a worker has for as long as it runs."""

    def __init__(self, client: OpenRouter, store: Store, *, lease: float, remember: float) -> None:
        self._client = client
        self._store = store
        self._lease = lease
        self._remember = remember
        self._tasks: set[asyncio.Task[_Said]] = set()

    async def drain(self) -> None:
        """Let what is under way end."""
        if self._tasks:
            await asyncio.wait(tuple(self._tasks))

    async def carry_out(self, request: ExchangeAuthCodeForAPIKeyRequest) -> _Said:
        """Exchange a code, also when the caller is cancelled: what was sent cannot be sent again."""
        task = asyncio.get_running_loop().create_task(self._settle(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _settle(self, request: ExchangeAuthCodeForAPIKeyRequest) -> _Said:
        claimant = Claimant(
            login_id=request_digest(request), binding="", is_bound=True, token=secrets.token_urlsafe(16)
        )
        try:
            claim = await self._claim_in_turn(claimant)
        except OpenRouterError as failure:
            return _say(failure)
        if claim.status is not ClaimStatus.CLAIMED:
            return _said_before(claim)
        try:
            response = await self._exchange(request, claimant)
        except KeyDeliveryError as failure:
            logger.error("on_key failed in a worker: %s", failure)  # noqa: TRY400 - the error is in the result
            return await self._finish(claimant, _say_key(failure.response))
        except APIError as failure:
            if failure.is_code_rejected:
                return await self._explain_rejection(claimant, claim, failure)
            return await self._give_back(claimant, claim, failure)
        except Exception as failure:  # noqa: BLE001 - it is the result
            return await self._give_back(claimant, claim, failure)
        return await self._finish(claimant, _say_key(response, delivered=self._client.on_key is not None))

    async def _exchange(
        self, request: ExchangeAuthCodeForAPIKeyRequest, claimant: Claimant
    ) -> ExchangeAuthCodeForAPIKeyResponse:
        """Exchange the code, and keep the claim as long as this takes."""
        exchange = asyncio.ensure_future(self._client.oauth.exchange_auth_code_for_api_key(request))
        del request
        while not (await asyncio.wait((exchange,), timeout=self._lease / 3))[0]:
            try:
                await self._claim(claimant)
            except OpenRouterError as failure:
                logger.warning("a claim could not be renewed: %s", failure)
        return exchange.result()

    async def _explain_rejection(self, claimant: Claimant, claim: Claim, failure: APIError) -> _Said:
        # A worker that stalls is overtaken: then one of the two gets the key, and the other one this rejection.
        try:
            again = await self._claim_in_turn(claimant)
        except OpenRouterError:
            again = claim
        if again.status is ClaimStatus.FINISHED:
            return _said_before(again)
        if claim.lost or again.lost:
            cast_doubt(failure)
        return await self._give_back(claimant, claim, failure)

    async def _claim_in_turn(self, claimant: Claimant) -> Claim:
        """Claim the code, and wait for another delivery that has it."""
        now = self._client.clock.time()
        # A store of logins holds a verifier, too. The right one comes with each message.
        record = LoginRecord(
            id=claimant.login_id, pkce=PKCEPair.generate(), expires_at=now + self._remember, binding=claimant.binding
        )
        await self._store.put(record, now=now)
        pause = _FIRST_PAUSE
        while (claim := await self._claim(claimant)).status is ClaimStatus.BUSY:
            await self._client.clock.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)
        return claim

    async def _claim(self, claimant: Claimant) -> Claim:
        return await self._store.claim(claimant, now=self._client.clock.time(), lease=self._lease)

    async def _finish(self, claimant: Claimant, said: _Said) -> _Said:
        record = KeyRecord(key="", user_id=None, code="", context=said)
        try:
            await self._store.finish(claimant, record, now=self._client.clock.time(), keep=self._remember)
        except OpenRouterError as failure:
            logger.warning("an exchange that is over could not be marked so: %s", failure)
        return said

    async def _give_back(self, claimant: Claimant, claim: Claim, failure: Exception) -> _Said:
        said = _say(failure)
        # What may have been carried out stays claimed until the lease is over. Then its next claimant knows of that.
        if said["outcome"] != Outcome.UNKNOWN:
            try:
                await self._store.restore(claimant, now=self._client.clock.time())
            except OpenRouterError as trouble:
                logger.warning("a code could not be given back, and waits for the end of its lease: %s", trouble)
        return said


def _purpose(what: str, task_id: str) -> str:
    return f"exchange {what} {task_id}"


def _dump_request(request: ExchangeAuthCodeForAPIKeyRequest) -> bytes:
    fields = {"code": request.code, "code_verifier": request.code_verifier}
    if not isinstance(request.code_challenge_method, Unset):
        fields["code_challenge_method"] = request.code_challenge_method
    return json.dumps(fields).encode()


def _load_request(data: bytes) -> ExchangeAuthCodeForAPIKeyRequest:
    return ExchangeAuthCodeForAPIKeyRequest(**json.loads(data))


def _say_key(response: ExchangeAuthCodeForAPIKeyResponse, *, delivered: bool = False) -> _Said:
    return {
        "key": None if delivered else response.key,
        "user_id": response.user_id,
        "key_hash": hashlib.sha256(response.key.encode()).hexdigest(),
    }


def _say(failure: Exception) -> _Said:
    if not isinstance(failure, OpenRouterError):
        # A middleware of the app does not say whether it sent the request, nor what its message shows.
        return {"error": f"{type(failure).__name__} in the worker", "outcome": Outcome.UNKNOWN}
    said: _Said = {"error": str(failure), "outcome": failure.outcome, "retry_after": failure.retry_after}
    if isinstance(failure, APIError):
        said |= {"status": failure.status_code, "message": failure.message}
    return said


def _said_before(claim: Claim) -> _Said:
    if claim.result is None:
        return _say(
            OpenRouterError(
                f"the code was exchanged before, and its result is not kept: {claim.status}", outcome=Outcome.COMPLETED
            )
        )
    said: _Said = claim.result.context
    return said


def _rebuild(said: _Said) -> OpenRouterError:
    outcome, retry_after = Outcome(said["outcome"]), said.get("retry_after")
    if "status" not in said:
        return OpenRouterError(said["error"], outcome=outcome, retry_after=retry_after)
    status = said["status"]
    error = APIError.for_status(status)(said["message"], status_code=status, outcome=outcome, retry_after=retry_after)
    error.args = (said["error"],)
    return error
