from __future__ import annotations

import math
import time
from email.utils import format_datetime, formatdate
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from openrouter_async import RetryPolicy, errors
from openrouter_async._http.retry_policy import backoff, parse_retry_after
from tests.kit.clocks import EPOCH

NOW = 1_800_000_000.0

seconds = st.floats(0, 1e6)
policies = st.builds(
    RetryPolicy,
    initial_interval=seconds,
    max_interval=seconds,
    exponent=st.one_of(st.floats(1, 1e6), st.integers(1, 10**6)),
    jitter=st.booleans(),
)


# --- the policy ----------------------------------------------------------------------------------------------------


def test_retry_policy_defaults_end_well_within_the_life_of_a_code() -> None:
    policy = RetryPolicy()
    assert policy == RetryPolicy(
        max_attempts=4,
        initial_interval=0.5,
        max_interval=8.0,
        exponent=2.0,
        max_elapsed_time=60.0,
        retry_connection_errors=True,
        statuses=[408, 429, 500, 502, 503, 504],
        jitter=True,
        retry_budget=500,
    )
    assert policy.max_elapsed_time < 600 / 2


def test_retry_policy_none_is_one_attempt_even_for_a_dead_connection() -> None:
    policy = RetryPolicy.none(max_elapsed_time=5)
    assert (policy.max_attempts, policy.retry_connection_errors, policy.max_elapsed_time) == (1, False, 5)
    assert RetryPolicy.none().max_elapsed_time == RetryPolicy().max_elapsed_time


@pytest.mark.parametrize(
    ("field", "values", "requirement"),
    [
        ("max_attempts", [0, -1, 1.5, "3", True, None], "must be an integer of at least 1"),
        ("initial_interval", [-0.1, math.inf, math.nan, "1", True, None], "must be a finite number of at least 0"),
        ("max_interval", [-1, math.inf, None], "must be a finite number of at least 0"),
        ("exponent", [0.9, 0, -2, math.inf], "must be a finite number of at least 1"),
        ("max_elapsed_time", [0, -1, math.inf, math.nan], "must be a finite number above 0"),
        ("retry_connection_errors", [1, None, "no"], "must be True or False"),
        ("jitter", [0, None, "full"], "must be True or False"),
        ("statuses", [[200], [399], [600], ["500"], 500, [None]], "must be HTTP statuses from 400 to 599"),
        ("retry_budget", [-1, math.inf, "500"], "must be a finite number of at least 0"),
    ],
)
def test_retry_policy_invalid_values_are_refused(field: str, values: list[Any], requirement: str) -> None:
    for value in values:
        with pytest.raises(errors.RequestValidationError) as caught:
            RetryPolicy(**{field: value})
        assert str(caught.value) == f"{field}: {requirement}"


def test_retry_policy_accepts_any_error_status() -> None:
    assert RetryPolicy(statuses=iter([400, 599])).statuses == {400, 599}


# --- backoff -------------------------------------------------------------------------------------------------------


def test_backoff_bound_doubles_up_to_max_interval() -> None:
    policy = RetryPolicy(jitter=False)
    assert [backoff(policy, failures, 0.5) for failures in range(1, 8)] == [0.5, 1, 2, 4, 8, 8, 8]


def test_backoff_jitter_is_between_zero_and_the_bound() -> None:
    policy = RetryPolicy()
    assert [backoff(policy, 3, chance) for chance in (0.0, 0.25, 0.5, 0.999)] == [0, 0.5, 1, 1.998]


@pytest.mark.parametrize("exponent", [1e300, 10**300])
def test_backoff_overflow_is_max_interval(exponent: float) -> None:
    assert backoff(RetryPolicy(jitter=False, exponent=exponent, max_interval=7), 5000, 0.5) == 7
    assert backoff(RetryPolicy(jitter=False, exponent=exponent, initial_interval=0.0), 5000, 0.5) == 0


@given(policy=policies, failures=st.integers(1, 10**5), chance=st.floats(0, 1, exclude_max=True))
@example(policy=RetryPolicy(initial_interval=0, exponent=3), failures=5000, chance=0.5)
def test_backoff_is_never_negative_or_beyond_max_interval(policy: RetryPolicy, failures: int, chance: float) -> None:
    wait = backoff(policy, failures, chance)
    assert 0 <= wait <= policy.max_interval
    if policy.initial_interval == 0:
        assert wait == 0
    if not policy.jitter:
        assert wait <= backoff(policy, failures + 1, chance)


# --- Retry-After ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wait"),
    [
        ("0", 0.0),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("0.25", 0.25),
        ("3.", 3.0),
        ("3600", 3600.0),
        (" \t7 ", 7.0),
        (formatdate(NOW + 90, usegmt=True), 90.0),
        (formatdate(NOW + 90, localtime=False), 90.0),
        (formatdate(NOW - 90, usegmt=True), 0.0),
        ("Fri, 15 Jan 2027 10:00:30 +0200", 30.0),
        ("Friday, 15-Jan-27 08:00:30 GMT", 30.0),
        ("Fri Jan 15 08:00:30 2027", 30.0),
    ],
)
def test_retry_after_seconds_and_dates_are_parsed(text: str, wait: float) -> None:
    assert parse_retry_after({"Retry-After": text}, NOW) == pytest.approx(wait)


def test_retry_after_date_without_zone_is_utc(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    try:
        with monkeypatch.context() as elsewhere:
            elsewhere.setenv("TZ", "America/New_York")
            time.tzset()
            assert parse_retry_after({"Retry-After": "Fri, 15 Jan 2027 08:00:30 -0000"}, NOW) == 30
    finally:
        time.tzset()


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "soon", "-7", "+7", "nan", "inf", "-inf", "Infinity", "1e3", "0x10", "1_000", "1,5", ".5", "٣", "²"),
        *("9" * 400, "Fri, 99 Foo 2027 08:00:30 GMT", "Fri, 15 Jan 99999 08:00:30 GMT", "\x00", "1\r\n2", ";", "7, 8"),
        # Python strips these in one place and not in another.
        *("1\x1c", "1\x1d", "\x1e1", "1\x1f", "1\x85", "1\xa0", "1\u2003"),
    ],
)
def test_retry_after_garbage_is_ignored(text: str) -> None:
    assert parse_retry_after({"Retry-After": text}, NOW) is None
    assert parse_retry_after({"Retry-After-Ms": text}, NOW) is None


def test_retry_after_ms_takes_precedence_unless_garbage() -> None:
    assert parse_retry_after({"Retry-After-Ms": "1500", "Retry-After": "9"}, NOW) == 1.5
    assert parse_retry_after({"Retry-After-Ms": "nan", "Retry-After": "9"}, NOW) == 9
    assert parse_retry_after({}, NOW) is None


texts = st.one_of(
    st.text(),
    st.from_regex(r"[+-]?[0-9a-fA-F_.eE]{0,12}"),
    st.from_regex(r"\s?[0-9]{1,3}(\.[0-9]*)?\s?", fullmatch=True),
    st.datetimes().map(format_datetime),
    st.from_regex(
        r"(Mon|Fri), [0-9]{1,3} (Jan|Feb|Foo) [0-9]{1,6} [0-9]{1,2}:[0-9]{1,2}:[0-9]{1,2} ([+-][0-9]{4}|GMT|Z)?"
    ),
)


@given(name=st.sampled_from(["Retry-After", "Retry-After-Ms"]), text=texts, now=st.floats(0, 1e11))
def test_retry_after_of_any_text_is_a_finite_wait_or_none(name: str, text: str, now: float) -> None:
    wait = parse_retry_after({name: text}, now)
    assert wait is None or 0 <= wait < math.inf


def test_retry_after_date_is_measured_against_the_answers_own_date() -> None:
    headers = {"Retry-After": "Fri, 15 Jan 2027 08:00:30 GMT", "Date": "Fri, 15 Jan 2027 08:00:00 GMT"}
    for now in (0.0, EPOCH, EPOCH + 3600):
        assert parse_retry_after(headers, now) == 30
    assert parse_retry_after({**headers, "Date": "yesterday"}, EPOCH) == 30
