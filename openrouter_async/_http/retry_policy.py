"""When to try again, and after how long: the policy, and pure functions that a retry is made of."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Final, Self

import attrs

from openrouter_async.errors import RequestValidationError

RETRIED_STATUSES: Final = frozenset({408, 429, 500, 502, 503, 504})
"""The statuses that are retried unless a policy says otherwise."""

# Compiled when it is first needed.
_NUMBER: Final = r"[0-9]+(\.[0-9]*)?"


def check_number(field: str, value: object, *, least: float, exclusive: bool = False) -> None:
    """Refuse what is not a finite number from a bound on.

    Args:
        field: The name to use in the message.
        value: What was given.
        least: The bound.
        exclusive: Whether the bound itself is refused.

    Raises:
        RequestValidationError: It is not such a number.
    """
    accepted = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not accepted or value < least or (exclusive and value == least):  # type: ignore[operator]
        raise RequestValidationError(field, f"must be a finite number {'above' if exclusive else 'from'} {least:g}")


def _is_interval(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    check_number(attribute.name, value, least=0)


def _is_duration(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    check_number(attribute.name, value, least=0, exclusive=True)


def _is_exponent(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    check_number(attribute.name, value, least=1)


def _is_count(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RequestValidationError(attribute.name, "must be an integer from 1")


def _is_flag(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, bool):
        raise RequestValidationError(attribute.name, "must be True or False")


def _is_budget(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None:
        check_number(attribute.name, value, least=0)


def _to_statuses(value: Iterable[int]) -> frozenset[int]:
    try:
        statuses = frozenset(value)
    except TypeError:
        statuses = frozenset({0})
    if not all(isinstance(status, int) and 400 <= status <= 599 for status in statuses):
        raise RequestValidationError("statuses", "must be HTTP statuses from 400 to 599")
    return statuses


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """When a call is tried again.

    A code lives ten minutes and is single-use, so the defaults end well inside its life, and a repeated exchange can
    never make a second key.

    The wait between two attempts is the backoff, or what the server asks for by ``Retry-After`` when that is longer.
    When it does not fit into the time that is left, the failure is raised at once.

    Attributes:
        max_attempts: How often a request is sent at the most; a dead pooled connection does not count.
        initial_interval: Seconds that the first wait is at the most.
        max_interval: Seconds that any backoff is at the most.
        exponent: By what the bound grows from one wait to the next.
        max_elapsed_time: Seconds for the whole call, attempts and waits; an attempt's timeout is cut to what is left.
        retry_connection_errors: Whether the lack of an HTTP answer is retried, too.
        statuses: The HTTP statuses that are retried.
        jitter: Whether a wait is drawn evenly from 0 to its bound ("full jitter"), or is the bound itself.
        retry_budget: Tokens that a client's retries towards one host may be ahead of its successes. A retry costs 5,
            after a timeout 10; a success gives its retry's cost back, or 1. So the first 100 retries are free, and
            when a server is down the rest of the traffic is not multiplied. A 429 that asks for a wait costs nothing:
            the pause it asks for bounds the traffic. None: no such bound; 0: no other retry than after such a 429, and
            for dead pooled connections.

    Raises:
        RequestValidationError: A field is out of its range.
    """

    max_attempts: int = attrs.field(default=4, validator=_is_count)
    initial_interval: float = attrs.field(default=0.5, validator=_is_interval)
    max_interval: float = attrs.field(default=8.0, validator=_is_interval)
    exponent: float = attrs.field(default=2.0, validator=_is_exponent)
    max_elapsed_time: float = attrs.field(default=60.0, validator=_is_duration)
    retry_connection_errors: bool = attrs.field(default=True, validator=_is_flag)
    statuses: frozenset[int] = attrs.field(default=RETRIED_STATUSES, converter=_to_statuses)
    jitter: bool = attrs.field(default=True, validator=_is_flag)
    retry_budget: float | None = attrs.field(default=500, validator=_is_budget)

    @classmethod
    def none(cls, *, max_elapsed_time: float = 60.0) -> Self:
        """A policy that sends a request once and no more.

        Args:
            max_elapsed_time: Seconds for the whole call.
        """
        return cls(max_attempts=1, retry_connection_errors=False, max_elapsed_time=max_elapsed_time)


def backoff(policy: RetryPolicy, failures: int, chance: float) -> float:
    """Seconds to wait after so many failures: exponential, capped, with full jitter.

    Args:
        policy: The intervals.
        failures: How many attempts have failed, from 1.
        chance: A number from 0 to 1, drawn by the caller.

    See Also:
        https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    try:
        bound = min(policy.max_interval, policy.initial_interval * policy.exponent ** (failures - 1))
    except OverflowError:
        bound = policy.max_interval if policy.initial_interval else 0.0
    return bound * chance if policy.jitter else bound


def parse_retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds that a server asks to wait (RFC 9110, section 10.2.3).

    Args:
        headers: The headers of the answer. ``Retry-After-Ms``, in milliseconds, goes before ``Retry-After``.
        now: Seconds since the epoch, to count from when the header is a date and the answer has no ``Date``. The
            answer's own ``Date`` comes first, as the two clocks may differ.

    Returns:
        The seconds, or None when the server does not say or the value is invalid.
    """
    milliseconds = _parse_number(headers.get("Retry-After-Ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("Retry-After")
    seconds = _parse_number(text)
    if seconds is not None or text is None:
        return seconds
    moment = _parse_date(text)
    if moment is None:
        return None
    sent_at = _parse_date(headers.get("Date", ""))
    return max(0.0, moment - (now if sent_at is None else sent_at))


def _parse_number(text: str | None) -> float | None:
    # RFC 9110, section 5.5. What Python takes for a blank is more than that, and differs between its functions.
    text = None if text is None else text.strip(" \t")
    if text is None or re.fullmatch(_NUMBER, text) is None:
        return None
    number = float(text)
    return number if math.isfinite(number) else None


def _parse_date(text: str) -> float | None:
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
