"""The retry policy, and pure functions for the backoff and ``Retry-After``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Final, Self

import attrs

from openrouter_async._values.validation import check_number, is_count, is_duration, is_flag, is_interval
from openrouter_async.errors import RequestValidationError

RETRIED_STATUSES: Final = frozenset({408, 429, 500, 502, 503, 504})
"""The statuses that are retried unless a policy says otherwise."""

# A string, which `re` compiles and caches on first use, because compiling would slow the import down.
_NUMBER: Final = r"[0-9]+(\.[0-9]*)?"


def _is_exponent(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    check_number(attribute.name, value, least=1)


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
    """The conditions and intervals for retries of a call.

    A code is valid for ten minutes, and the defaults stop retrying well before that. A code is also single-use, so a
    repeated exchange cannot issue a second key.

    The wait between two attempts is the backoff, or the server's ``Retry-After`` if that is longer. If the wait does
    not fit into the remaining time, the failure is raised at once.

    Attributes:
        max_attempts: The maximum number of attempts; one on a dead pooled connection does not count.
        initial_interval: The maximum length of the first wait, in seconds.
        max_interval: The maximum length of any backoff, in seconds.
        exponent: The factor by which the bound grows from one wait to the next.
        max_elapsed_time: Seconds for the whole call, attempts and waits; no attempt's timeout exceeds the rest.
        retry_connection_errors: Whether an attempt without an HTTP answer is retried, too.
        statuses: The HTTP statuses that are retried.
        jitter: Whether a wait is drawn uniformly from 0 to its bound ("full jitter"); otherwise it is the bound.
        retry_budget: The size of a client's token bucket for retries to one host, which all its calls share. A retry
            takes 5 tokens, or 10 after a timeout; a success returns the tokens of its retry, or else 1. By default, 100
            retries are possible at first, and if a server is down, retries do not multiply the traffic. A retry after a
            429 that asks for a wait takes none, because the wait itself bounds the traffic. None means no bound. 0
            allows only retries after such a 429 and for dead pooled connections.

    Raises:
        RequestValidationError: A field is out of its range.
    """

    max_attempts: int = attrs.field(default=4, validator=is_count)
    initial_interval: float = attrs.field(default=0.5, validator=is_interval)
    max_interval: float = attrs.field(default=8.0, validator=is_interval)
    exponent: float = attrs.field(default=2.0, validator=_is_exponent)
    max_elapsed_time: float = attrs.field(default=60.0, validator=is_duration)
    retry_connection_errors: bool = attrs.field(default=True, validator=is_flag)
    statuses: frozenset[int] = attrs.field(default=RETRIED_STATUSES, converter=_to_statuses)
    jitter: bool = attrs.field(default=True, validator=is_flag)
    retry_budget: float | None = attrs.field(default=500, validator=_is_budget)

    @classmethod
    def none(cls, *, max_elapsed_time: float = 60.0) -> Self:
        """Return a policy that sends a request only once.

        Args:
            max_elapsed_time: Seconds for the whole call.
        """
        return cls(max_attempts=1, retry_connection_errors=False, max_elapsed_time=max_elapsed_time)


def backoff(policy: RetryPolicy, failures: int, chance: float) -> float:
    """Return the seconds to wait after a number of failures: exponential, capped, with full jitter.

    Args:
        policy: The intervals.
        failures: The number of failed attempts, at least 1.
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
        headers: The headers of the answer. ``Retry-After-Ms``, in milliseconds, takes precedence over ``Retry-After``.
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
    # White space as in RFC 9110, section 5.5. str.strip() and float() accept more, and not the same characters.
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
