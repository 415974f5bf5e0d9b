"""The journal of a batch: a file that outlives the process, with each request and its result."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import attrs

from openrouter_async._values.clock import SYSTEM_CLOCK, Clock
from openrouter_async._values.encryptor import EncryptionKeys, Encryptor
from openrouter_async._values.frames import hide_arguments
from openrouter_async._values.models import ExchangeAuthCodeForAPIKeyRequest, ExchangeAuthCodeForAPIKeyResponse
from openrouter_async.batch._journal_entry import JournalEntry, seal
from openrouter_async.batch._status import RequestStatus, mark_outcome_unknown, request_digest, status_after
from openrouter_async.errors import JournalError, KeyDeliveryError, OpenRouterError, RequestValidationError

if TYPE_CHECKING:
    # Imported when a journal is opened, because SQLite would slow the import of this package down.
    from openrouter_async.batch._journal_db import JournalDB
    from openrouter_async.batch._journal_writer import Worker, Writer


class Journal:
    """A SQLite file, readable by its owner only, of the requests that a batch was about to send and their results.

    ::

        async with Journal("journal.db", encryption_keys=key) as journal:
            async for result in client.oauth.exchange_many(requests, journal=journal):
                ...

    An intent is on the disk before its request is sent, and a result before the consumer gets it; concurrent rows share
    a transaction. A process that dies at any moment leaves a consistent file behind. Only one process at a time can
    have the file open. It contains neither codes nor verifiers: requests are identified by their `request_digest`. An
    open journal takes about 200 bytes of memory for each request in it.

    With ``encryption_keys``, API keys are stored encrypted together with their users' ids. Without them, API keys are
    not stored, and `exchange_many` requires an ``on_key`` on the client: otherwise a key would be lost if the process
    dies before the key is stored anywhere.

    Args:
        path: The file, which is created if there is none. It should be on a local disk: on a network file system
            SQLite's locks may not hold.
        encryption_keys: Fernet keys, by `openrouter_async.encryption.generate_encryption_key`: the first one encrypts,
            all of them decrypt. They need the extra ``journal``. Entries that are not encrypted are refused then.
        store_plaintext_keys: Whether API keys are stored unencrypted. Anyone who can read the file can use them.
        clock: The source of time.

    Raises:
        RequestValidationError: An argument is not valid.
    """

    @hide_arguments
    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        encryption_keys: EncryptionKeys | None = None,
        store_plaintext_keys: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if encryption_keys is not None and store_plaintext_keys:
            raise RequestValidationError("store_plaintext_keys", "must not come with encryption_keys")
        self._path = Path(path)
        self._encryptor = None if encryption_keys is None else Encryptor(encryption_keys, extra="journal")
        self._stores_plaintext = store_plaintext_keys
        self._clock = clock
        self._writer: Writer | None = None
        self._statuses: dict[str, RequestStatus] = {}
        self._pending: dict[str, _Pending] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._path} {'closed' if self._writer is None else 'open'}>"

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def open(self) -> None:
        """Lock the file and read the status of its requests.

        Raises:
            JournalError: Another process has the file open, the file is not a journal, or it cannot be used.
        """
        if self._writer is not None:
            raise JournalError(f"{self._path}: it is open already")
        from openrouter_async.batch._journal_db import JournalDB
        from openrouter_async.batch._journal_writer import Worker, Writer

        is_sealed = self._encryptor is not None
        worker = Worker()
        try:
            db, self._statuses = await worker.call(
                lambda: JournalDB.open(self._path, is_sealed=is_sealed), undo=lambda opened: opened[0].close()
            )
        except BaseException:
            worker.shutdown()
            raise
        self._writer = Writer(db, worker)
        if self._pending:
            self._idle.clear()

    async def aclose(self, *, timeout: float = 10.0) -> None:
        """Wait for the results of requests in flight, then close the file and release its lock.

        Args:
            timeout: Seconds to wait; requests that have no result by then stay uncertain.
        """
        writer = self._writer
        if writer is None:
            return
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            pass
        finally:
            if self._writer is writer:
                await writer.aclose()
            # Another call may have closed it meanwhile, and the journal may be open again.
            if self._writer is writer:
                self._writer = None
                self._release_waiters()

    def status(self, request: ExchangeAuthCodeForAPIKeyRequest | str) -> RequestStatus | None:
        """Return the status of a request, or None if it was never tried.

        Args:
            request: The request, or a bare code.
        """
        return self._statuses.get(request_digest(request))

    async def entry(self, request: ExchangeAuthCodeForAPIKeyRequest | str) -> JournalEntry | None:
        """Return the entry of a request, or None if it was never tried.

        Args:
            request: The request, or a bare code.

        Raises:
            JournalError: The journal is not open, cannot be read, or was sealed with other keys.
        """
        digest = request_digest(request)
        # The request may be a bare code, which a traceback with local variables would show.
        del request
        writer = self._opened()
        return await writer.worker.call(lambda: writer.db.read(digest, self._encryptor))

    async def entries(self) -> AsyncGenerator[JournalEntry, None]:
        """Iterate over the entries, one for each request, in the order in which the requests were first tried.

        A journal that is not open is opened for this, and must exist; another process must not have it open.

        Raises:
            JournalError: The file is not a journal, cannot be read, or was sealed with other keys.
        """
        if self._writer is not None:
            async for entry in self._read(self._writer.db, self._writer.worker):
                yield entry
            return
        from openrouter_async.batch._journal_db import JournalDB
        from openrouter_async.batch._journal_writer import Worker

        worker = Worker()
        try:
            db = await worker.call(lambda: JournalDB.open_for_reading(self._path), undo=JournalDB.close)
            try:
                async for entry in self._read(db, worker):
                    yield entry
            finally:
                await worker.call(db.close)
        finally:
            worker.shutdown()

    async def _read(self, db: JournalDB, worker: Worker) -> AsyncGenerator[JournalEntry, None]:
        position = 0
        while True:
            entries, position = await worker.call(partial(db.read_chunk, position, self._encryptor))
            for entry in entries:
                yield entry
            if not entries:
                return

    # The rest is the interface for a batch, which identifies requests by their digest.

    @property
    def is_open(self) -> bool:
        """Whether the file is open."""
        return self._writer is not None

    @property
    def holds_keys(self) -> bool:
        """Whether the file stores API keys."""
        return self._encryptor is not None or self._stores_plaintext

    def is_final(self, digest: str) -> bool:
        """Return whether a request has a result that another try cannot improve."""
        status = self._statuses.get(digest)
        return status is not None and status.is_final

    async def begin(self, digest: str) -> bool:
        """Record that a request is about to be sent, unless it has a result that another try cannot improve.

        If the request is in flight in another batch, wait for its result.

        Returns:
            Whether the request may be sent. If so, `record` or `abandon` has to follow.

        Raises:
            JournalError: The intent cannot be written; the request must not be sent.
        """
        while (other := self._pending.get(digest)) is not None:
            self._opened()
            await other.ended.wait()
        if self.is_final(digest):
            return False
        self._pending[digest] = _Pending(is_uncertain=self._statuses.get(digest) is RequestStatus.UNCERTAIN)
        self._idle.clear()
        try:
            await self._write(digest, RequestStatus.UNCERTAIN)
        except BaseException:
            self.abandon(digest)
            raise
        self._statuses[digest] = RequestStatus.UNCERTAIN
        return True

    async def record(self, digest: str, result: ExchangeAuthCodeForAPIKeyResponse | Exception) -> None:
        """Record the result of a request.

        The rejection of a code that an earlier run may have used gets the outcome ``UNKNOWN``.

        Args:
            digest: The `request_digest` of the request.
            result: The response, or the error.

        Raises:
            JournalError: The result cannot be written; the request stays uncertain.
        """
        pending = self._pending.get(digest)
        was_uncertain = pending is not None and pending.is_uncertain
        if was_uncertain and isinstance(result, Exception):
            mark_outcome_unknown(result)
        status = status_after(result)
        if was_uncertain and status is RequestStatus.RETRYABLE:
            status = RequestStatus.UNCERTAIN
        # Before writing, because the row is written even if the caller is cancelled meanwhile.
        self._statuses[digest] = status
        try:
            await self._write(digest, status, **self._describe(digest, result))
        except JournalError:
            self._statuses[digest] = RequestStatus.UNCERTAIN
            raise
        finally:
            self.abandon(digest)

    def abandon(self, digest: str) -> None:
        """Give a request up: without a result, it stays uncertain."""
        pending = self._pending.pop(digest, None)
        if pending is not None:
            pending.ended.set()
        if not self._pending:
            self._idle.set()

    def _release_waiters(self) -> None:
        """Let those that wait for a result see that the journal is closed.

        The requests in flight stay known: a result may come after the journal was opened again.
        """
        pending, self._pending = self._pending, {}
        for digest, request in pending.items():
            self._pending[digest] = _Pending(is_uncertain=request.is_uncertain)
            request.ended.set()
        self._idle.set()

    def _describe(self, digest: str, result: ExchangeAuthCodeForAPIKeyResponse | Exception) -> dict[str, Any]:
        """Return the columns that describe a result."""
        columns: dict[str, Any] = {}
        if isinstance(result, Exception):
            # Only the library's own errors are known to contain no secrets.
            columns["error"] = type(result).__name__ + (f": {result}" if isinstance(result, OpenRouterError) else "")
        response = result.response if isinstance(result, KeyDeliveryError) else result
        if isinstance(response, ExchangeAuthCodeForAPIKeyResponse):
            columns["key_hash"] = hashlib.sha256(response.key.encode()).hexdigest()
            if self._encryptor is not None:
                columns["sealed"] = seal(self._encryptor, digest, response.key, response.user_id)
            else:
                columns["user_id"] = response.user_id
                columns["key"] = response.key if self._stores_plaintext else None
        return columns

    async def _write(self, digest: str, status: RequestStatus, **columns: Any) -> None:
        row = dict.fromkeys(("key", "user_id", "sealed", "key_hash", "error"))
        await self._opened().write(
            {**row, "request": digest, "status": status.value, "at": self._clock.time(), **columns}
        )

    def _opened(self) -> Writer:
        if self._writer is None:
            raise JournalError(f"{self._path}: it is not open")
        return self._writer


@attrs.frozen(eq=False, repr=False)
class _Pending:
    """A request in flight.

    Attributes:
        is_uncertain: Whether an earlier attempt may have been carried out.
        ended: Set when the request is no longer in flight, or the journal is closed.
    """

    is_uncertain: bool
    ended: asyncio.Event = attrs.field(factory=asyncio.Event)
