"""The journal of a batch: what was about to be sent, and what came of it, in a file that outlives the process."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from openrouter_async._values.clock import SYSTEM_CLOCK, Clock
from openrouter_async._values.models import ExchangeAuthCodeForAPIKeyRequest, ExchangeAuthCodeForAPIKeyResponse
from openrouter_async.batch._journal_file import (
    JournalEntry,
    Lines,
    context_of,
    give_up,
    open_journal,
    read_lines,
    reason_of,
    to_encryptor,
    to_entry,
)
from openrouter_async.batch._status import RequestStatus, mark_outcome_unknown, request_digest, status_after
from openrouter_async.errors import JournalError, KeyDeliveryError, OpenRouterError, RequestValidationError

if TYPE_CHECKING:
    from openrouter_async.encryption import Keys


class Journal:
    """An append-only file, readable by its owner alone, of what a batch was about to send and of what came of it.

    ::

        async with Journal("keys.jsonl", encryption_keys=key) as journal:
            async for result in client.oauth.exchange_many(requests, journal=journal):
                ...

    It holds a line of JSON an event. An intent is on the disk before its request leaves, a result before anybody gets
    it; what comes at the same time shares one ``fsync``. A process that dies can leave a torn last line behind, which
    the next one cuts off. One process at a time can have it open. There are neither codes nor verifiers in it: requests
    go by their `request_digest`. It takes about 200 bytes of memory for each request it knows.

    API keys are sealed when there are ``encryption_keys``. Without, they are not in it, and `exchange_many`
    wants an ``on_key`` on the client: else a key would be lost with a process that dies before it is put anywhere.

    Args:
        path: Where the file is; it is made when there is none. It should be on a local disk.
        encryption_keys: Fernet keys, by `openrouter_async.encryption.generate_encryption_key`: the first one seals, all
            of them open.
            They need
            the extra ``journal``.
        store_plaintext_keys: Whether API keys are written as they are. Whoever can read the file has them.
        clock: Where time comes from.

    Raises:
        RequestValidationError: An argument is not valid.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        encryption_keys: Keys | None = None,
        store_plaintext_keys: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if encryption_keys is not None and store_plaintext_keys:
            raise RequestValidationError("store_plaintext_keys", "must not come with encryption_keys")
        self._path = Path(path)
        self._encryptor = to_encryptor(encryption_keys)
        self._clear_keys = store_plaintext_keys
        self._clock = clock
        self._lines: Lines | None = None
        self._statuses: dict[str, RequestStatus] = {}
        # Those under way: whether an earlier try of theirs is in doubt.
        self._open: dict[str, bool] = {}
        # A future where somebody waits for the end of one.
        self._ends: dict[str, asyncio.Future[None]] = {}
        self._settled = asyncio.Event()
        self._settled.set()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._path} {'closed' if self._lines is None else 'open'}>"

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def open(self) -> None:
        """Lock the file and read what it says.

        Raises:
            JournalError: Another process has it open, it is no journal, or it cannot be used.
        """
        if self._lines is not None:
            raise JournalError(f"{self._path}: it is open already")
        opening = asyncio.get_running_loop().run_in_executor(None, open_journal, self._path)
        try:
            file, self._statuses = await asyncio.shield(opening)
        except asyncio.CancelledError:
            # The thread goes on, and nobody else would give up the lock.
            opening.add_done_callback(give_up)
            raise
        self._lines = Lines(file, self._path)

    async def aclose(self, *, timeout: float = 10.0) -> None:
        """Wait for the results of what is under way, then close the file and give up the lock.

        Args:
            timeout: Seconds to wait; what has no result by then stays in doubt.
        """
        lines = self._lines
        if lines is None:
            return
        try:
            async with asyncio.timeout(timeout):
                await self._settled.wait()
        except TimeoutError:
            pass
        finally:
            await lines.aclose()
            self._lines = None
            for digest in tuple(self._open):
                self.abandon(digest)

    def status(self, request: ExchangeAuthCodeForAPIKeyRequest | str) -> RequestStatus | None:
        """What is known of a request; None when it was never tried.

        Args:
            request: The request, or a bare code.
        """
        return self._statuses.get(request_digest(request))

    # What follows is the side that a batch sees. It names requests by their digest.

    @property
    def is_open(self) -> bool:
        """Whether the file is open."""
        return self._lines is not None

    @property
    def holds_keys(self) -> bool:
        """Whether API keys can be had from the file."""
        return self._encryptor is not None or self._clear_keys

    def is_final(self, digest: str) -> bool:
        """Whether a request has a result that trying again cannot better."""
        status = self._statuses.get(digest)
        return status is not None and status.is_final

    async def begin(self, digest: str) -> bool:
        """Note for good that a request is about to be sent, unless it has a result that trying again cannot better.

        While another batch has it under way, this waits for what comes of it.

        Returns:
            Whether it may be sent. Then, `record` or `abandon` has to follow.

        Raises:
            JournalError: It cannot be written; nothing may be sent.
        """
        while digest in self._open:
            await self._end_of(digest)
        if self.is_final(digest):
            return False
        self._open[digest] = self._statuses.get(digest) is RequestStatus.UNCERTAIN
        self._settled.clear()
        try:
            await self._write({"event": "intent", "request": digest})
        except BaseException:
            self.abandon(digest)
            raise
        self._statuses[digest] = RequestStatus.UNCERTAIN
        return True

    async def _end_of(self, digest: str) -> None:
        end = self._ends.get(digest)
        if end is None:
            end = self._ends[digest] = asyncio.get_running_loop().create_future()
        # Not the future itself: if this caller were cancelled, so would be all that wait for it.
        await asyncio.wait((end,))

    async def record(self, digest: str, result: ExchangeAuthCodeForAPIKeyResponse | Exception) -> None:
        """Note for good how it went.

        A rejection of a code that an earlier run may have used is made to say so.

        Args:
            digest: The `request_digest` of the request.
            result: What the exchange gave, or how it failed.

        Raises:
            JournalError: It cannot be written.
        """
        doubted = self._open.get(digest, False)
        if doubted and isinstance(result, Exception):
            mark_outcome_unknown(result)
        status = status_after(result)
        if doubted and status is RequestStatus.RETRYABLE:
            status = RequestStatus.UNCERTAIN
        # Also when this is cancelled meanwhile, the line is written.
        self._statuses[digest] = status
        try:
            await self._write({"event": "result", "request": digest, "status": status, **self._tell(digest, result)})
        finally:
            self.abandon(digest)

    def abandon(self, digest: str) -> None:
        """Expect no result any more: without one, the request stays in doubt."""
        self._open.pop(digest, None)
        end = self._ends.pop(digest, None)
        if end is not None:
            end.set_result(None)
        if not self._open:
            self._settled.set()

    def _tell(self, digest: str, result: ExchangeAuthCodeForAPIKeyResponse | Exception) -> dict[str, str | None]:
        """What a line says of a result."""
        said: dict[str, str | None] = {}
        if isinstance(result, Exception):
            # Only our own errors are known to show no secrets.
            said["error"] = type(result).__name__ + (f": {result}" if isinstance(result, OpenRouterError) else "")
        response = result.response if isinstance(result, KeyDeliveryError) else result
        if isinstance(response, ExchangeAuthCodeForAPIKeyResponse):
            said["user_id"] = response.user_id
            said["key_hash"] = hashlib.sha256(response.key.encode()).hexdigest()
            if self._encryptor is not None:
                said["sealed_key"] = self._encryptor.encrypt(context_of(digest), response.key.encode()).decode()
            elif self._clear_keys:
                said["key"] = response.key
        return said

    async def _write(self, fields: dict[str, str | None]) -> None:
        if self._lines is None:
            raise JournalError(f"{self._path}: it is not open")
        await self._lines.append(json.dumps(fields | {"at": self._now()}).encode() + b"\n")

    def _now(self) -> str:
        return datetime.fromtimestamp(self._clock.time(), UTC).isoformat(timespec="milliseconds")

    @staticmethod
    def read(path: str | os.PathLike[str], *, encryption_keys: Keys | None = None) -> list[JournalEntry]:
        """What a journal says, an entry a request, in the order of their first lines.

        It may be in use meanwhile. This waits for the disk: in an event loop, call it by ``asyncio.to_thread``.

        Args:
            path: Where the file is.
            encryption_keys: The Fernet keys that it is sealed with; without, sealed keys are left out.

        Raises:
            JournalError: It is no journal, cannot be read, or was sealed with other keys.
            RequestValidationError: ``encryption_keys`` are not valid.
        """
        encryptor = to_encryptor(encryption_keys)
        entries: dict[str, JournalEntry] = {}
        try:
            with Path(path).open("rb") as file:
                for _, fields in read_lines(file, Path(path)):
                    entry = to_entry(fields, encryptor, Path(path))
                    entries[entry.request] = entry
        except OSError as failure:
            raise JournalError(f"{path}: it cannot be read: {reason_of(failure)}") from None
        return list(entries.values())
