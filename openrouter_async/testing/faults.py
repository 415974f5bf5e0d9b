"""Faults: what a server and the way to it can do wrong, as values."""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Mapping
from typing import Any, Final, Self

import attrs

_CHALLENGE: Final = """<!DOCTYPE html><html lang="en-US"><head><title>Just a moment...</title></head>
<body><div id="challenge-error-text">Enable JavaScript and cookies to continue</div></body></html>
"""
_BAD_GATEWAY: Final = """<!DOCTYPE html><html lang="en-US"><head><title>openrouter.ai | {status}</title></head>
<body><h1>Error {status}</h1><p>Ray ID: 8f2d1c0b9a7e6543</p><p>cloudflare</p></body></html>
"""
_RAY: Final = {"CF-RAY": "8f2d1c0b9a7e6543-FRA", "Server": "cloudflare"}
_ZOD: Final = [{"code": "invalid_type", "expected": "string", "path": ["code"], "message": "Required"}]


class FaultKind(enum.StrEnum):
    """What goes wrong."""

    STATUS = "status"
    """Another answer is given."""
    DROP = "drop"
    """The connection is closed without an answer."""
    CUT = "cut"
    """The connection is closed in the middle of the answer."""
    DELAY = "delay"
    """The answer comes later."""
    HANG = "hang"
    """No answer comes, and the connection stays open."""


def _to_headers(value: Mapping[str, str]) -> dict[str, str]:
    return dict(value)


def _is_status(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 200 <= value <= 599:
        raise ValueError(f"{attribute.name}: must be an integer from 200 to 599")


def _is_duration(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{attribute.name}: must be a finite number of seconds, 0 or more")


def _is_count(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{attribute.name}: must be an integer from 1")


@attrs.frozen(kw_only=True)
class Fault:
    """What happens to a request instead of the right answer.

    Make it by one of the class methods::

        fake.script(Fault.status(429, headers={"Retry-After": "1"}), Fault.drop(after=True).times(2))

    Attributes:
        kind: What goes wrong.
        after: Whether the request is carried out before; a code is used up then.
        status_code: The status of another answer.
        headers: Its headers.
        body: Its body.
        seconds: How long a delay is.
        count: How many requests meet the fault.
    """

    kind: FaultKind
    after: bool = False
    status_code: int = attrs.field(default=500, validator=_is_status)
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str], converter=_to_headers, hash=False)
    body: bytes = b""
    seconds: float = attrs.field(default=0.0, validator=_is_duration)
    count: int = attrs.field(default=1, validator=_is_count)

    @classmethod
    def status(
        cls,
        status_code: int,
        *,
        headers: Mapping[str, str] | None = None,
        message: str = "Something went wrong",
        body: bytes | str | None = None,
        after: bool = False,
    ) -> Self:
        """Answer with a status.

        Args:
            status_code: It.
            headers: Headers, such as ``Retry-After``; a ``Content-Type`` goes before the usual one.
            message: The message of an error of the documented shape.
            body: Another body than that.
            after: Whether the request is carried out before.
        """
        if body is None:
            body = json.dumps({"error": {"code": status_code, "message": message}})
        return cls._answering(status_code, body, "application/json", headers, after)

    @classmethod
    def html(cls, status_code: int = 502, *, challenge: bool = False, after: bool = False) -> Self:
        """Answer with a page, as Cloudflare does in front of OpenRouter.

        Args:
            status_code: The status.
            challenge: Whether it is the page that wants to know whether a human is there.
            after: Whether the request is carried out before.
        """
        headers = _RAY | ({"CF-Mitigated": "challenge"} if challenge else {})
        page = _CHALLENGE if challenge else _BAD_GATEWAY.format(status=status_code)
        return cls._answering(status_code, page, "text/html; charset=UTF-8", headers, after)

    @classmethod
    def text(cls, status_code: int, text: str = "upstream connect error", *, after: bool = False) -> Self:
        """Answer with plain text; an empty one is an empty body."""
        return cls._answering(status_code, text, "text/plain; charset=utf-8", None, after)

    @classmethod
    def zod_error(cls, status_code: int = 400) -> Self:
        """Answer with what OpenRouter's validation library says."""
        body = {"success": False, "error": {"name": "ZodError", "message": json.dumps(_ZOD, indent=2)}}
        return cls._answering(status_code, json.dumps(body), "application/json", None, after=False)

    @classmethod
    def drop(cls, *, after: bool = False) -> Self:
        """Close the connection without an answer."""
        return cls(kind=FaultKind.DROP, after=after)

    @classmethod
    def cut_body(cls) -> Self:
        """Carry the request out, and close the connection in the middle of the answer's body."""
        return cls(kind=FaultKind.CUT, after=True)

    @classmethod
    def delay(cls, seconds: float) -> Self:
        """Carry the request out, and answer later: after so many seconds on the fake's clock."""
        return cls(kind=FaultKind.DELAY, after=True, seconds=seconds)

    @classmethod
    def hang(cls, *, after: bool = False) -> Self:
        """Never answer."""
        return cls(kind=FaultKind.HANG, after=after)

    def times(self, count: int) -> Self:
        """The same for so many requests."""
        return attrs.evolve(self, count=count)

    @classmethod
    def _answering(
        cls, status_code: int, body: bytes | str, content_type: str, headers: Mapping[str, str] | None, after: bool
    ) -> Self:
        given = dict(headers or {})
        if "content-type" not in {name.lower() for name in given}:
            given["Content-Type"] = content_type
        return cls(
            kind=FaultKind.STATUS,
            after=after,
            status_code=status_code,
            headers=given,
            body=body.encode() if isinstance(body, str) else body,
        )
