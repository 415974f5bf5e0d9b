"""Exchanges on a task queue with workers on several machines; needs the extra ``taskiq``.

::

    from openrouter_async.integrations.taskiq import ExchangeQueue
    from taskiq.serializers import JSONSerializer

    backend = RedisAsyncResultBackend(url, serializer=JSONSerializer())
    broker = RedisStreamBroker(url).with_result_backend(backend)
    # The same in producers, workers and collectors:
    exchanges = ExchangeQueue(
        broker, encryption_keys=key, claims=lambda: RedisStore.from_url(url, encryption_keys=key)
    )

    task_id = await exchanges.send(code)          # a producer
    exchanged = await exchanges.result(task_id)   # a collector

The default serializer of several result backends is pickle, by which anyone who can write to the database runs code in
the collectors. `ExchangeQueue` refuses such a backend: give it ``JSONSerializer()``.

Start the workers by ``taskiq worker module:broker``. Every broker works. No task is lost if the broker redelivers the
messages of a dead worker, as `RedisStreamBroker` and the brokers for RabbitMQ and NATS do. With a `RedisStreamBroker`,
set ``idle_timeout``, the time until redelivery, and ``unacknowledged_lock_timeout``, because a killed worker may leave
its lock behind.
"""

from __future__ import annotations

import asyncio
import json
import math
import pickle
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, Final

import attrs

from openrouter_async._client.client import OpenRouter
from openrouter_async._values.encryptor import DecryptionError, EncryptionKeys, Encryptor
from openrouter_async._values.models import ExchangeAuthCodeForAPIKeyRequest, Unset
from openrouter_async._values.validation import check_number
from openrouter_async.errors import (
    OpenRouterError,
    Outcome,
    RequestTimeoutError,
    RequestValidationError,
    TransportError,
)
from openrouter_async.integrations._parts import open_client, open_store
from openrouter_async.integrations._queued import QueuedExchanges, ResultPayload, error_to_payload, payload_to_error
from openrouter_async.login._models import LOGS_URL, SETTINGS_URL
from openrouter_async.login._store import LoginStore
from openrouter_async.redaction._masks import mask_key

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

__all__ = ["ExchangeQueue", "ExchangedKey"]


_PICKLED_PROBE: Final = pickle.dumps(("openrouter_async", "probe"))


@attrs.frozen(kw_only=True)
class ExchangedKey:
    """The result of an exchange by a worker.

    Attributes:
        key: The user's API key; None if the worker's client has an ``on_key``, which received it.
        user_id: The user's id; None if OpenRouter does not send one.
        key_hash: The SHA-256 of the key in lowercase hex, by which OpenRouter's pages name it.
    """

    key: str | None = attrs.field(default=None, repr=mask_key)
    user_id: str | None = None
    key_hash: str

    @property
    def logs_url(self) -> str:
        """Return the URL of the page with the requests that this key made."""
        return LOGS_URL + self.key_hash

    @property
    def settings_url(self) -> str:
        """Return the URL of the page where the user limits or deletes this key."""
        return SETTINGS_URL + self.key_hash


class ExchangeQueue:
    """Exchanges authorization codes in the workers of a taskiq broker.

    The constructor registers the task. Each worker opens a client when it starts, and closes it when it stops, after
    the exchanges under way have ended. Requests and results are encrypted on their way through the broker and the
    result backend, each for its own task, so that one cannot replace another. If the worker's client has an ``on_key``,
    the results hold no key at all.

    A broker redelivers a message if its worker died. A code is claimed before it is sent, as logins are: a second
    delivery waits for the first one and returns the same result. If the first one was lost with its worker, the code is
    sent again; if it is rejected then, the outcome is ``UNKNOWN``.

    Args:
        broker: The broker; it needs a result backend for `result`. Neither may have a serializer that unpickles.
        encryption_keys: Fernet keys, by `openrouter_async.encryption.generate_encryption_key`: the first one encrypts,
            all of them decrypt.
        claims: The store in which codes are claimed, shared by all workers. A store is borrowed; one that a callable
            makes is closed when the worker stops.
        client: The client. A client is borrowed; one that a callable makes is closed when the worker stops.
        task_name: The name of the task.
        claim_ttl: Seconds until a code whose worker died is tried again; renewed while the worker lives.
        result_ttl: Seconds for which a redelivered message gets the same result.

    Raises:
        RequestValidationError: An argument is not valid, or the broker or its result backend unpickles.
    """

    def __init__(
        self,
        broker: AsyncBroker,
        *,
        encryption_keys: EncryptionKeys,
        claims: LoginStore | Callable[[], LoginStore],
        client: OpenRouter | Callable[[], OpenRouter] = OpenRouter,
        task_name: str = "openrouter_async:exchange",
        claim_ttl: float = 15.0,
        result_ttl: float = 3600.0,
    ) -> None:
        check_number("claim_ttl", claim_ttl, least=0, exclusive=True)
        check_number("result_ttl", result_ttl, least=0, exclusive=True)
        _check_serializers(broker)
        self._broker = broker
        self._encryptor = Encryptor(encryption_keys, extra="taskiq")
        self._claims = claims
        self._client = client
        self._claim_ttl = claim_ttl
        self._result_ttl = result_ttl
        self._worker: QueuedExchanges | None = None
        self._cleanup = AsyncExitStack()

        async def exchange(sealed: str, context: Context = TaskiqDepends()) -> str:  # noqa: B008 - taskiq's way
            return await self._exchange_claimed(context.message.task_id, sealed)

        async def wake_up() -> None:
            """Do nothing; the message itself makes the broker look for unacknowledged ones."""

        self._task = broker.register_task(exchange, task_name=task_name)
        self._wake_up = broker.register_task(wake_up, task_name=f"{task_name}:wake-up")
        self._woken = -math.inf
        broker.add_event_handler(TaskiqEvents.WORKER_STARTUP, self._start)
        broker.add_event_handler(TaskiqEvents.WORKER_SHUTDOWN, self._stop)

    async def send(self, request: ExchangeAuthCodeForAPIKeyRequest | str, /) -> str:
        """Queue the exchange of a code.

        Args:
            request: The request, or a bare code that needs no verifier.

        Returns:
            The id of the task, for `result`.

        Raises:
            RequestValidationError: The code is not valid, or the broker unpickles; nothing was sent.
            TransportError: The broker may not have accepted the task.
        """
        _check_serializers(self._broker)
        if isinstance(request, str):
            request = ExchangeAuthCodeForAPIKeyRequest(code=request)
        task_id = self._broker.id_generator()
        sealed = self._encryptor.encrypt(_context("request", task_id), _dump_request(request)).decode()
        del request
        try:
            await self._task.kicker().with_task_id(task_id).kiq(sealed)
        except SendTaskError as failure:
            reason = type(failure.__cause__ or failure).__name__
            raise TransportError(f"the broker did not take the task: {reason}", outcome=Outcome.UNKNOWN) from None
        return task_id

    async def result(self, task_id: str, *, timeout: float = 60.0, interval: float = 0.1) -> ExchangedKey:
        """Wait for the result of a task.

        Args:
            task_id: The result of `send`.
            timeout: Seconds to wait.
            interval: Seconds between two requests to the result backend.

        Raises:
            RequestValidationError: An argument is not valid, or the result backend unpickles.
            RequestTimeoutError: There was no result in time; it may still come.
            OpenRouterError: The exchange failed.
            TransportError: The result backend cannot be used, or the value in it is not a result of these keys.
        """
        check_number("timeout", timeout, least=0)
        check_number("interval", interval, least=0, exclusive=True)
        _check_serializers(self._broker)
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
            reason = type(result.error).__name__
            del result
            raise TransportError(f"the task failed: {reason}", outcome=Outcome.UNKNOWN)
        try:
            payload: ResultPayload = json.loads(self._decrypt("result", task_id, result.return_value))
        except DecryptionError:
            raise TransportError("the result was not encrypted with these keys", outcome=Outcome.UNKNOWN) from None
        finally:
            # A foreign value may be anything, and a traceback that shows local variables would store it.
            del result
        if "error" in payload:
            raise payload_to_error(payload)
        return ExchangedKey(**payload)

    async def _wait(self, task_id: str, timeout: float, interval: float) -> TaskiqResult[str]:
        backend: AsyncResultBackend[Any] = self._broker.result_backend
        task: AsyncTaskiqTask[str] = AsyncTaskiqTask(task_id=task_id, result_backend=backend)
        now = asyncio.get_running_loop().time
        give_up_at = now() + timeout
        while True:
            # taskiq treats a timeout of 0 as no timeout.
            left = max(give_up_at - now(), interval)
            try:
                return await task.wait_result(check_interval=interval, timeout=min(self._claim_ttl, left))
            except TaskiqResultTimeoutError:
                if now() >= give_up_at:
                    raise
            if now() >= self._woken + self._claim_ttl:
                # `RedisStreamBroker` reclaims the messages of a dead worker only when a new message arrives.
                self._woken = now()
                await self._wake_up.kicker().with_task_id(self._wake_up.task_name).kiq()

    def _decrypt(self, kind: str, task_id: str, sealed: object) -> bytes:
        # Anyone who can write to the database can put a value of another type there.
        if not isinstance(sealed, str) or not sealed.isascii():
            raise DecryptionError
        return self._encryptor.decrypt(_context(kind, task_id), sealed.encode())

    async def _start(self, _state: TaskiqState) -> None:
        _check_serializers(self._broker)
        async with AsyncExitStack() as cleanup:
            claims = open_store(cleanup, self._claims)
            client = await open_client(cleanup, self._client)
            self._worker = QueuedExchanges(client, claims, claim_ttl=self._claim_ttl, result_ttl=self._result_ttl)
            cleanup.push_async_callback(self._worker.drain)
            self._cleanup = cleanup.pop_all()

    async def _stop(self, _state: TaskiqState) -> None:
        await self._cleanup.aclose()
        self._worker = None

    async def _exchange_claimed(self, task_id: str, sealed: str) -> str:
        if self._worker is None:
            raise RuntimeError("the worker of taskiq has not been started: its startup event opens the client")
        try:
            request = _load_request(self._decrypt("request", task_id, sealed))
        except DecryptionError:
            payload = error_to_payload(OpenRouterError("the request was not encrypted with the keys of the worker"))
        else:
            payload = await self._worker.exchange(request)
        return self._encryptor.encrypt(_context("result", task_id), json.dumps(payload).encode()).decode()


def _check_serializers(broker: AsyncBroker) -> None:
    for part in (broker.result_backend, broker):
        serializer = getattr(part, "serializer", None)
        if serializer is None:
            continue
        try:
            unpickled = serializer.loadb(_PICKLED_PROBE)
        except Exception:  # noqa: BLE001, S112 - a serializer of another format may raise anything
            continue
        # JSON, CBOR and MessagePack have no tuples, so only a serializer that unpickles returns an equal value.
        if unpickled == ("openrouter_async", "probe"):
            raise RequestValidationError(
                "broker",
                f"must not unpickle: {type(part).__name__} with {type(serializer).__name__} runs the code of anyone "
                "who can write to the database; give it taskiq.serializers.JSONSerializer()",
            )


def _context(kind: str, task_id: str) -> str:
    return f"exchange {kind} {task_id}"


def _dump_request(request: ExchangeAuthCodeForAPIKeyRequest) -> bytes:
    fields = {"code": request.code, "code_verifier": request.code_verifier}
    if not isinstance(request.code_challenge_method, Unset):
        fields["code_challenge_method"] = request.code_challenge_method
    return json.dumps(fields).encode()


def _load_request(data: bytes) -> ExchangeAuthCodeForAPIKeyRequest:
    return ExchangeAuthCodeForAPIKeyRequest(**json.loads(data))
