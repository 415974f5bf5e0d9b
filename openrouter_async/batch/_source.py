"""The input of a batch, whichever kind of iterable it is."""

from __future__ import annotations

import operator
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from typing import Any, Final

from openrouter_async.batch._results import Requests
from openrouter_async.errors import RequestValidationError

END: Final = object()
"""What an input gives when it has no more."""


class Source:
    """The input, to be asked by one worker at a time.

    Attributes:
        is_async: Whether it has to be waited for.
        total: How many requests there are; None when the input does not say.

    Raises:
        RequestValidationError: It cannot be iterated over, or is a single code.
    """

    def __init__(self, requests: Requests) -> None:
        if isinstance(requests, (str, bytes)) or not isinstance(requests, (Iterable, AsyncIterable)):
            raise RequestValidationError("requests", "must be an iterable, or an async one, of requests or codes")
        self._requests: Any = requests
        self._iterator: Any = None
        self.is_async = isinstance(requests, AsyncIterable)
        hint = operator.length_hint(requests, -1)
        self.total = None if hint < 0 else hint

    def next_at_once(self) -> object:
        """The next item, or `END`, of an input that is not async."""
        if self._iterator is None:
            self._iterator = iter(self._requests)
        return next(self._iterator, END)

    async def next(self) -> object:
        """The next item, or `END`."""
        if not self.is_async:
            return self.next_at_once()
        if self._iterator is None:
            self._iterator = aiter(self._requests)
        return await anext(self._iterator, END)

    async def aclose(self) -> None:
        """Close an async generator that was made here; one that was passed in may be wanted afterwards."""
        if isinstance(self._iterator, AsyncGenerator) and self._iterator is not self._requests:
            await self._iterator.aclose()
