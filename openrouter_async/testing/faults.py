"""Faults of a server, or of the network on the way to it, as values.

A test in the same process queues them. A client in another process or language asks for one by the code that it
redeems: with ``fault.status-429.retry-1.x2~`` in front of a code, its first two exchanges get a 429. The words between
``fault.`` and ``~``, with a dot between them, are one of ``status-N``, ``html-N``, ``challenge-N``, ``text-N``,
``empty-N``, ``zod-N``, ``drop``, ``cut``, ``hang`` and ``delay-Nms``; then, optionally, ``after`` (the code is redeemed
first), ``retry-N`` (``Retry-After: N``) and ``xN`` (N times).
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final, Self

import attrs

from openrouter_async._values.validation import check_integer, is_count, is_interval
from openrouter_async.errors import RequestValidationError

__all__ = ["Fault", "FaultKind"]

_CHALLENGE: Final = """<!DOCTYPE html><html lang="en-US"><head><title>Just a moment...</title></head>
<body><div id="challenge-error-text">Enable JavaScript and cookies to continue</div></body></html>
"""
_ERROR_PAGE: Final = """<!DOCTYPE html><html lang="en-US"><head><title>openrouter.ai | {status}</title></head>
<body><h1>Error {status}</h1><p>Ray ID: 8f2d1c0b9a7e6543</p><p>cloudflare</p></body></html>
"""
_EDGE: Final = {"CF-RAY": "8f2d1c0b9a7e6543-FRA", "Server": "cloudflare"}
_ZOD: Final = [{"code": "invalid_type", "expected": "string", "path": ["code"], "message": "Required"}]
_MESSAGES: Final = {
    400: "Invalid code",
    401: "Missing Authentication header",
    403: "Invalid code or code_verifier",
    409: "Resource conflict. Please try again later.",
    429: "Rate limit exceeded",
}
_MAX_DELAY: Final = 600.0


class FaultKind(enum.StrEnum):
    """The kind of a fault."""

    STATUS = "status"
    """Another answer is sent."""
    DROP = "drop"
    """The connection is closed without an answer."""
    CUT = "cut"
    """The connection is closed in the middle of the answer."""
    DELAY = "delay"
    """The answer is delayed."""
    HANG = "hang"
    """No answer comes, and the connection stays open."""


def _to_headers(value: Mapping[str, str]) -> dict[str, str]:
    return dict(value)


def _is_status(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    # A 1xx status is interim: clients would wait for the final answer.
    check_integer(attribute.name, value, least=200, most=599)


@attrs.frozen(kw_only=True)
class Fault:
    """A fault that a request meets instead of the right answer.

    Create one by a class method::

        fake.queue_faults(Fault.status(429, headers={"Retry-After": "1"}), Fault.drop(after=True).times(2))

    Attributes:
        kind: The kind of the fault.
        after: Whether the request is carried out first, which uses its code up.
        status_code: The status of the other answer.
        headers: The headers of the other answer.
        body: The body of the other answer.
        seconds: The length of a delay.
        count: The number of requests that meet the fault.

    Raises:
        RequestValidationError: A field is not valid.
    """

    kind: FaultKind = attrs.field(converter=FaultKind)
    after: bool = False
    status_code: int = attrs.field(default=500, validator=_is_status)
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str], converter=_to_headers, hash=False)
    body: bytes = attrs.field(default=b"", repr=False)
    seconds: float = attrs.field(default=0.0, validator=is_interval)
    count: int = attrs.field(default=1, validator=is_count)

    @classmethod
    def status(
        cls,
        status_code: int,
        *,
        headers: Mapping[str, str] | None = None,
        message: str | None = None,
        body: bytes | str | None = None,
        after: bool = False,
    ) -> Self:
        """Answer with a status.

        Args:
            status_code: The status.
            headers: Headers, such as ``Retry-After``; a ``Content-Type`` replaces the usual one.
            message: The message of an error of the documented shape; by default that of the status.
            body: A body to send instead of such an error.
            after: Whether the request is carried out first.
        """
        if body is None:
            body = json.dumps({"error": {"code": status_code, "message": message or _message(status_code)}})
        return cls._answering(status_code, body, "application/json", headers=headers, after=after)

    @classmethod
    def html(cls, status_code: int = 502, *, challenge: bool = False, after: bool = False) -> Self:
        """Answer with a page, as Cloudflare does in front of OpenRouter.

        Args:
            status_code: The status.
            challenge: Whether it is the page that checks that the visitor is human.
            after: Whether the request is carried out first.
        """
        headers = _EDGE | ({"CF-Mitigated": "challenge"} if challenge else {})
        page = _CHALLENGE if challenge else _ERROR_PAGE.format(status=status_code)
        return cls._answering(status_code, page, "text/html; charset=UTF-8", headers=headers, after=after)

    @classmethod
    def text(cls, status_code: int = 500, text: str = "upstream connect error", *, after: bool = False) -> Self:
        """Answer with plain text.

        Args:
            status_code: The status.
            text: The text.
            after: Whether the request is carried out first.
        """
        return cls._answering(status_code, text, "text/plain; charset=utf-8", after=after)

    @classmethod
    def empty(cls, status_code: int = 500, *, after: bool = False) -> Self:
        """Answer with a status and an empty body.

        Args:
            status_code: The status.
            after: Whether the request is carried out first.
        """
        return cls(kind=FaultKind.STATUS, status_code=status_code, after=after)

    @classmethod
    def zod_error(cls, status_code: int = 400, *, after: bool = False) -> Self:
        """Answer with an error of Zod, OpenRouter's validation library.

        Args:
            status_code: The status.
            after: Whether the request is carried out first.
        """
        body = {"success": False, "error": {"name": "ZodError", "message": json.dumps(_ZOD, indent=2)}}
        return cls._answering(status_code, json.dumps(body), "application/json", after=after)

    @classmethod
    def drop(cls, *, after: bool = False) -> Self:
        """Close the connection without an answer."""
        return cls(kind=FaultKind.DROP, after=after)

    @classmethod
    def cut_body(cls) -> Self:
        """Carry the request out, but close the connection in the middle of the answer's body."""
        return cls(kind=FaultKind.CUT, after=True)

    @classmethod
    def delay(cls, seconds: float) -> Self:
        """Carry the request out, but answer only after a number of seconds on the fake's clock."""
        return cls(kind=FaultKind.DELAY, after=True, seconds=seconds)

    @classmethod
    def hang(cls, *, after: bool = False) -> Self:
        """Never answer."""
        return cls(kind=FaultKind.HANG, after=after)

    def times(self, count: int) -> Self:
        """Return this fault for a number of requests."""
        return attrs.evolve(self, count=count)

    @classmethod
    def from_spec(cls, spec: str) -> Fault:
        """Parse the fault that a code asks for, such as ``status-429.retry-1.x2``.

        Raises:
            RequestValidationError: The words or their order differ from those in this module's docstring.
        """
        word, *modifiers = spec.split(".")
        try:
            fault = _parse(word)
            for pattern, modify in _MODIFIERS.items():
                if modifiers and (match := re.fullmatch(pattern, modifiers[0])):
                    fault = modify(fault, match[1])
                    del modifiers[0]
            if modifiers:
                raise ValueError
        except ValueError:
            raise RequestValidationError(
                "fault", "must be like status-429.retry-1.x2: a fault, and then after, retry-N, xN in this order"
            ) from None
        return fault

    @classmethod
    def _answering(
        cls,
        status_code: int,
        body: bytes | str,
        content_type: str,
        *,
        headers: Mapping[str, str] | None = None,
        after: bool,
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


def _message(status_code: int) -> str:
    try:
        return _MESSAGES.get(status_code) or HTTPStatus(status_code).phrase
    except ValueError:
        return "Unknown Error"


_ANSWERS: Final[Mapping[str, Callable[[int], Fault]]] = {
    "status": Fault.status,
    "html": Fault.html,
    "challenge": lambda status: Fault.html(status, challenge=True),
    "text": Fault.text,
    "empty": Fault.empty,
    "zod": Fault.zod_error,
}
_OTHERS: Final[Mapping[str, Callable[[], Fault]]] = {"drop": Fault.drop, "cut": Fault.cut_body, "hang": Fault.hang}
_MODIFIERS: Final[Mapping[str, Callable[[Fault, str], Fault]]] = {
    "(after)": lambda fault, _: attrs.evolve(fault, after=True),
    r"retry-(\d{1,6})": lambda fault, seconds: attrs.evolve(fault, headers={**fault.headers, "Retry-After": seconds}),
    r"x(\d{1,6})": lambda fault, count: fault.times(int(count)),
}


def _parse(word: str) -> Fault:
    if match := re.fullmatch(r"([a-z]+)-(\d{3})", word):
        make = _ANSWERS.get(match[1])
        if make is not None:
            return make(int(match[2]))
    if match := re.fullmatch(r"delay-(\d{1,6})ms", word):
        return Fault.delay(min(int(match[1]) / 1000, _MAX_DELAY))
    if word in _OTHERS:
        return _OTHERS[word]()
    raise ValueError
