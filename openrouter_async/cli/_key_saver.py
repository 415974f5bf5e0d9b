"""Storing the key of an exchange, even if a place fails or the user interrupts it."""

from __future__ import annotations

import contextlib
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from openrouter_async._values.clock import SYSTEM_CLOCK
from openrouter_async._values.models import ExchangeAuthCodeForAPIKeyRequest, ExchangeAuthCodeForAPIKeyResponse
from openrouter_async.cli._exit import ExitCode, OutputError, UsageError
from openrouter_async.cli._options import Output, Site, Storage, StoreKind
from openrouter_async.cli._storage import APP, KeyLocation, describe, fallback_location, file_location, locate
from openrouter_async.login._models import Grant
from openrouter_async.redaction._masks import mask_key
from openrouter_async.sinks._base import KeySinkError, StoredKey
from openrouter_async.sinks._private_file import PrivateFile


class KeySaver:
    """Stores the key of an exchange, as ``on_key``, even if the user interrupts the command meanwhile.

    Args:
        location: Where the key is stored; None prints it.
        storage: The location that the user asked for.
        site: The server that issues the key.
        output: How to report it.

    Attributes:
        status: The exit status of the command; a failure if the key is not stored where the user wants it.
    """

    def __init__(self, location: KeyLocation | None, storage: Storage, site: Site, output: Output) -> None:
        self._location = location
        self._is_explicit = storage.store is not None or storage.file is not None
        self._site = site
        self._output = output
        self._rescued_to: KeyLocation | None = None
        self.status = ExitCode.DONE

    async def __call__(
        self, request: ExchangeAuthCodeForAPIKeyRequest, response: ExchangeAuthCodeForAPIKeyResponse
    ) -> None:
        """Store the key of an exchange.

        Raises:
            KeySinkError: It could not be stored anywhere.
        """
        grant = Grant(key=response.key, user_id=response.user_id)
        if self._location is None:
            self._print(grant)
            return
        try:
            with self._rescuing_on_interrupt(grant):
                await self._location.vault.save(grant.key, user_id=grant.user_id)
        except KeySinkError as failure:
            location = self._rescue(grant)
            if self._is_explicit or location is None:
                self.status = ExitCode.FAILED
            self._output.tell(f"The key could not be kept where you wanted it: {failure}.")
        except BaseException:
            # A second interrupt cancels even this call, but not the synchronous write of a file.
            location = self._rescue(grant)
            self._report(grant, location)
            raise
        else:
            location = self._location
        self._report(grant, location)

    @contextlib.contextmanager
    def _rescuing_on_interrupt(self, grant: Grant) -> Iterator[None]:
        """Write the key to a file as soon as the user presses Ctrl-C, since further ones end the event loop."""
        before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or not callable(before):
            yield
            return

        def rescue(number: int, frame: FrameType | None) -> None:
            with contextlib.suppress(KeySinkError):
                location = self._rescue(grant)
                if location is not None:
                    self._output.tell(f"The key {mask_key(grant.key)} is in {location.where}.")
            before(number, frame)

        signal.signal(signal.SIGINT, rescue)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _rescue(self, grant: Grant) -> KeyLocation | None:
        """Write the key to the first file that can be written, once.

        Returns:
            Where it is; None if it was shown on the terminal.
        """
        if self._rescued_to is not None:
            return self._rescued_to
        data = StoredKey.make(grant.key, grant.user_id, SYSTEM_CLOCK).to_json().encode() + b"\n"
        for find in self._rescue_locations(grant.key_hash):
            try:
                location = find()
                PrivateFile(Path(location.where)).write(data)
            except (KeySinkError, UsageError, OSError):
                continue
            self._rescued_to = location
            return location
        if not self._output.is_terminal:
            raise KeySinkError("no file could be written")
        self._output.tell(f"No file could be written. This is the key, which is kept nowhere:\n\n{grant.key}\n")
        return None

    def _rescue_locations(self, key_hash: str) -> list[Callable[[], KeyLocation]]:
        name = self._site.name
        file_name = f"{APP}-rescued-{key_hash[:16]}.json"
        usual = lambda: locate(StoreKind.FILE, None, name, timeout=0)  # noqa: E731
        return [
            # If the user named a location, do not replace a key in the default file.
            *([] if self._is_explicit else [usual]),
            lambda: fallback_location(key_hash, name),
            lambda: file_location(Path(file_name)),
            lambda: file_location(Path(tempfile.mkdtemp(prefix=f"{APP}-")) / file_name),
        ]

    def _report(self, grant: Grant, location: KeyLocation | None) -> None:
        stored = "print" if location is None else location.kind.value
        where = "nowhere" if location is None else location.where
        document = describe(grant) | {"stored_in": stored, "stored_at": None if location is None else where}
        who = "Signed in" if grant.user_id is None else f"Signed in as {grant.user_id}"
        lines = (
            f"{who}. The key {mask_key(grant.key)} is in {where}.",
            f"Its limits, and how to delete it: {grant.settings_url}",
        )
        try:
            self._output.result(document, lines, is_success=True)
        except OutputError as failure:
            self.status = ExitCode.FAILED
            self._output.tell(f"{failure}\n{lines[0]}")

    def _print(self, grant: Grant) -> None:
        document = describe(grant) | {"key": grant.key, "stored_in": "print", "stored_at": None}
        try:
            self._output.result(document, (grant.key,))
        except OutputError as failure:
            self.status = ExitCode.FAILED
            location = self._rescue(grant)
            self._output.tell(str(failure))
            if location is not None:
                self._output.tell(f"The key {mask_key(grant.key)} is in {location.where}.")
        else:
            self._output.note(f"This key is kept nowhere. Its limits, and how to delete it: {grant.settings_url}")
