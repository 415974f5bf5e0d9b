"""Looks for secrets where errors, logs and tracebacks would show them."""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path

import openrouter_async
from openrouter_async import errors
from tests.kit.wire import SECRET

PACKAGE = str(Path(openrouter_async.__file__).parent)


class Audit(logging.Handler):
    """Reads all log records as they are written, and all errors that it is shown."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(logging.Formatter("%(name)s %(message)s %(__dict__)s"))
        self.leaks: list[str] = []
        self.records = 0
        self.errors = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.records += 1
        record.__dict__["__dict__"] = {
            name: value for name, value in record.__dict__.items() if name not in ("args", "__dict__")
        }
        self._read(f"a log record of {record.name}", self.format(record))
        del record.__dict__["__dict__"]

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Be the only handler of the library's log records, because others would keep them and the objects in them."""
        log = logging.getLogger("openrouter_async")
        log.addHandler(self)
        log.propagate = False
        try:
            yield
        finally:
            log.propagate = True
            log.removeHandler(self)

    def read_error(self, error: BaseException) -> None:
        """Look at all that an error shows, with the values of local variables in the library's own frames."""
        self.errors += 1
        name = type(error).__name__
        self._read(f"str of {name}", str(error))
        self._read(f"repr of {name}", repr(error))
        if isinstance(error, errors.OpenRouterError):
            self._read(f"user_message of {name}", error.user_message)
            self._read(f"history of {name}", f"{[str(attempt) for attempt in error.history]} {error.history!r}")
            for attempt in error.history:
                shown = traceback.TracebackException.from_exception(attempt.error, capture_locals=True)
                self._read_locals(f"attempt {attempt.number} of {name}", shown)
        if isinstance(error, errors.APIError):
            self._read(f"body of {name}", f"{error.body} {error.message} {error.metadata!r}")
        self._read(f"traceback of {name}", "".join(traceback.format_exception(error)))
        self._read_locals(name, traceback.TracebackException.from_exception(error, capture_locals=True))

    def _read_locals(self, name: str, shown: traceback.TracebackException | None) -> None:
        if shown is None:
            return
        for frame in shown.stack:
            if frame.filename.startswith(PACKAGE):
                self._read(f"local variables of {frame.name} in the traceback of {name}", repr(frame.locals))
        self._read_locals(name, shown.__cause__)
        self._read_locals(name, shown.__context__)

    def _read(self, place: str, text: str) -> None:
        if SECRET in text:
            at = text.index(SECRET)
            self.leaks.append(f"{place}: …{text[max(0, at - 80) : at + 40]}…")
