"""Records of the requests to the fake."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar, overload

import attrs

from openrouter_async.redaction._masks import MASK, redact_headers

T = TypeVar("T")

# The repr shows the values of these fields only, so that an unforeseen field cannot leak a secret.
_SHOWN_FIELDS: Final = frozenset(
    {"code_challenge_method", "expires_at", "key_label", "limit", "usage_limit_type", "workspace_id"}
)


def _redact_body(body: object) -> str:
    if not isinstance(body, Mapping):
        return repr(None) if body is None else MASK
    return repr({name: value if name in _SHOWN_FIELDS else MASK for name, value in body.items()})


@attrs.define(kw_only=True)
class RecordedRequest:
    """A request to the API.

    Attributes:
        method: The HTTP method.
        path: The path.
        headers: The headers; their names are case-insensitive.
        body: The parsed body; None if it is empty or not JSON.
        content: The raw body.
        status: The status of the answer; None before the answer, or if the connection was dropped.
    """

    method: str
    path: str
    headers: Mapping[str, str] = attrs.field(repr=redact_headers)
    body: Any = attrs.field(default=None, repr=_redact_body)
    content: bytes = attrs.field(default=b"", repr=False)
    status: int | None = None


class BoundedHistory(Sequence[T]):
    """The most recent items, up to a maximum number.

    Args:
        capacity: The maximum number of items; older ones are dropped.
    """

    def __init__(self, capacity: int) -> None:
        self._kept: deque[T] = deque(maxlen=capacity)

    def add(self, item: T) -> None:
        """Add an item."""
        self._kept.append(item)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        return list(self._kept)[index] if isinstance(index, slice) else self._kept[index]

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[T]:
        # A copy, because a server in another thread may add items during the iteration.
        return iter(list(self._kept))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (list, tuple, BoundedHistory)) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self._kept))
