from __future__ import annotations

import json
from typing import Any

import aiohttp
import attrs
import pytest

from openrouter_async import OpenRouter, Outcome, RetryPolicy, errors
from tests.kit.clocks import EPOCH, FakeClock, passes
from tests.kit.servers import http_answer
from tests.kit.wire import (
    BEARER,
    BYTEWISE,
    CHUNKED,
    CLOSE,
    CONTINUE,
    CUT_BODY,
    CUT_CHUNKED_BODY,
    CUT_ENDLESS_BODY,
    DRIP,
    EARLY_HINTS,
    HTTP_1_0,
    OK,
    RESET_IN_BODY,
    SECRET,
    TWICE,
    UNTIL_END,
    Act,
    Wire,
    WireServer,
    code_of,
    cut_headers,
    drop,
    garbage,
    hang,
    http_date,
    reset,
    saying,
    status,
    verifier_of,
)
from tests.wire.audit import Audit

KEY = "key"
"""Stands for success in a row."""

SHORT = 0.2
"""Seconds for attempts that all fail."""
ENOUGH = 2.0
"""Seconds for an answer, also on a busy machine, after an attempt that fails for want of one."""


@attrs.frozen
class Row:
    """The result that a script of the server leads to."""

    script: list[Act]
    requests: int
    result: str | type[errors.OpenRouterError] = KEY
    outcome: Outcome | None = None
    waits: list[float] = attrs.field(factory=list)
    timeout: float = attrs.field(default=30.0, kw_only=True)
    cause: type[errors.OpenRouterError] | None = attrs.field(default=None, kw_only=True)
    retry_after: float | None = attrs.field(default=None, kw_only=True)
    retry: RetryPolicy = attrs.field(factory=RetryPolicy, kw_only=True)


UNKNOWN, REFUSED = Outcome.UNKNOWN, Outcome.REFUSED
Rejected, Forbidden = errors.BadRequestResponseError, errors.ForbiddenResponseError
Broken, Late, Odd = errors.TransportError, errors.RequestTimeoutError, errors.ResponseValidationError
Busy, Failed = errors.TooManyRequestsResponseError, errors.InternalServerResponseError

# Chance always says one half, so the backoff is 0.25, 0.5 and 1 s.
FIRST, TWO, ALL = [0.25], [0.25, 0.5], [0.25, 0.5, 1.0]

ROWS: dict[str, Row] = {
    # Every way to say yes.
    "answered": Row([OK], 1),
    "answered in chunks": Row([CHUNKED], 1),
    "answered and closed": Row([CLOSE], 1),
    "answered until the end of the connection": Row([UNTIL_END], 1),
    "answered by HTTP/1.0": Row([HTTP_1_0], 1),
    "answered byte by byte": Row([BYTEWISE], 1),
    "answered twice": Row([TWICE], 1),
    "answered after 100 Continue": Row([CONTINUE], 1),
    "answered after 103 Early Hints": Row([EARLY_HINTS], 1),
    # The connection ends before the server did anything.
    "dropped before the key": Row([drop(after=False)], 2, KEY, None, FIRST),
    "dropped before the key, twice": Row([drop(after=False)] * 2, 3, KEY, None, TWO),
    "dropped before the key, always": Row([drop(after=False)] * 9, 4, Broken, UNKNOWN, ALL),
    "reset before the key": Row([reset(after=False)], 2, KEY, None, FIRST),
    "reset before the key, always": Row([reset(after=False)] * 9, 4, Broken, UNKNOWN, ALL),
    "headers cut before the key": Row([cut_headers(after=False)], 2, KEY, None, FIRST),
    "garbage before the key": Row([garbage(after=False)], 2, KEY, None, FIRST),
    # The server issues the key, and the answer is lost: the code is used, and the outcome is unknown.
    "dropped after the key": Row([drop(after=True)], 2, Rejected, UNKNOWN, FIRST, cause=Broken),
    "reset after the key": Row([reset(after=True)], 2, Rejected, UNKNOWN, FIRST, cause=Broken),
    "headers cut after the key": Row([cut_headers(after=True)], 2, Rejected, UNKNOWN, FIRST, cause=Broken),
    "garbage after the key": Row([garbage(after=True)], 2, Rejected, UNKNOWN, FIRST, cause=Broken),
    "body cut": Row([CUT_BODY], 2, Rejected, UNKNOWN, FIRST, cause=Broken),
    "body reset": Row([RESET_IN_BODY], 2, Rejected, UNKNOWN, FIRST, cause=Broken),
    "chunked body cut": Row([CUT_CHUNKED_BODY], 1, KEY, None),
    "body without length cut": Row([CUT_ENDLESS_BODY], 1, Odd, UNKNOWN),
    # Statuses, before and after the key.
    "408 before the key": Row([status(408)], 2, KEY, None, FIRST),
    "408 after the key": Row([status(408, after=True)], 2, Rejected, UNKNOWN, FIRST, cause=errors.APIError),
    "408 always": Row([status(408)] * 9, 4, errors.APIError, UNKNOWN, ALL),
    "500 before the key": Row([status(500)], 2, KEY, None, FIRST),
    "500 after the key": Row([status(500, after=True)], 2, Rejected, UNKNOWN, FIRST, cause=Failed),
    "500 always": Row([status(500)] * 9, 4, Failed, UNKNOWN, ALL, cause=Failed),
    "HTML 502 before the key": Row([status(502, html=True)], 2, KEY, None, FIRST),
    "HTML 502 after the key": Row([status(502, html=True, after=True)], 2, Rejected, UNKNOWN, FIRST),
    "503 before the key": Row([status(503)], 2, KEY, None, FIRST),
    "503 after the key": Row([status(503, after=True)], 2, Rejected, UNKNOWN, FIRST),
    "504 before the key": Row([status(504)], 2, KEY, None, FIRST),
    "504 after the key": Row([status(504, after=True)], 2, Rejected, UNKNOWN, FIRST),
    "500 after the key, then 503": Row(
        [status(500, after=True), status(503)], 3, Rejected, UNKNOWN, TWO, cause=Failed
    ),
    "500 after the key, then always 429": Row(
        [status(500, after=True), *[status(429)] * 9], 4, Busy, UNKNOWN, ALL, cause=Failed
    ),
    "500 before the key, then 401": Row(
        [status(500), status(401)], 2, errors.UnauthorizedResponseError, UNKNOWN, FIRST, cause=Failed
    ),
    "501": Row([status(501)], 1, errors.APIError, UNKNOWN),
    "520 after the key": Row([status(520, html=True, after=True)], 1, errors.APIError, UNKNOWN),
    # The server says no.
    "400": Row([status(400, message="Invalid code")], 1, Rejected, REFUSED),
    "401": Row([status(401)], 1, errors.UnauthorizedResponseError, REFUSED),
    "403": Row([status(403, message="Invalid code or code_verifier")], 1, Forbidden, REFUSED),
    "403 after 429": Row([status(429), status(403)], 2, Forbidden, REFUSED, FIRST),
    "404": Row([status(404)], 1, errors.APIError, REFUSED),
    "405": Row([status(405)], 1, errors.APIError, REFUSED),
    "409": Row([status(409)], 1, errors.ConflictResponseError, REFUSED),
    "422": Row([status(422)], 1, errors.APIError, REFUSED),
    "429": Row([status(429)], 2, KEY, None, FIRST),
    "429 always": Row([status(429)] * 9, 4, Busy, REFUSED, ALL),
    # Answers that the API does not document.
    "307": Row([status(307, "Location: https://elsewhere.example/")], 1, Odd, UNKNOWN),
    "empty 200": Row([Act("", True, saying(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))], 1, Odd, UNKNOWN),
    "HTML 200": Row([status(200, html=True, after=True)], 1, Odd, UNKNOWN),
    # A server that does not answer in time.
    "hangs once before the key": Row([hang(after=False)], 2, KEY, None, FIRST, timeout=ENOUGH),
    "hangs once after the key": Row(
        [hang(after=True)], 2, Rejected, UNKNOWN, FIRST, timeout=ENOUGH, cause=Late
    ),
    "hangs forever": Row([hang(after=False)] * 9, 4, Late, UNKNOWN, ALL, timeout=SHORT, cause=Late),
    "drips": Row([DRIP], 2, Rejected, UNKNOWN, FIRST, timeout=ENOUGH, cause=Late),
    # Without retries.
    "dropped, retries off": Row([drop(after=False)], 1, Broken, UNKNOWN, retry=RetryPolicy.none()),
    "503, retries off": Row([status(503, "Retry-After: 1")], 1, errors.APIError, UNKNOWN,
                            retry=RetryPolicy.none(), retry_after=1.0),
    "dropped, connection errors not retried": Row(
        [drop(after=False)], 1, Broken, UNKNOWN, retry=RetryPolicy(retry_connection_errors=False)
    ),
    "503, connection errors not retried": Row(
        [status(503)], 2, KEY, None, FIRST, retry=RetryPolicy(retry_connection_errors=False)
    ),
    "503, not among the statuses": Row(
        [status(503)], 1, errors.APIError, UNKNOWN, retry=RetryPolicy(statuses={500})
    ),
}  # fmt: skip

# A 429 pauses all calls, and they leave the pause spread over a fifth of it: here by a tenth, a chance of one half.
_SPREAD = {429: 1.1, 503: 1.0}
WAITS: dict[str, tuple[str, list[float]]] = {
    "seconds": ("Retry-After: 2", [2.0]),
    "a fraction of a second": ("Retry-After: 0.5", [0.5]),
    "milliseconds": ("Retry-After-Ms: 1500", [1.5]),
    "a date": (f"Retry-After: {http_date(EPOCH + 20)}", [20.0]),
    "zero": ("Retry-After: 0", FIRST),
    "a date in the past": (f"Retry-After: {http_date(EPOCH - 20)}", FIRST),
    "garbage": ("Retry-After: soon", FIRST),
    "negative": ("Retry-After: -7", FIRST),
    "nan": ("Retry-After: nan", FIRST),
    "inf": ("Retry-After: inf", FIRST),
    "exponent": ("Retry-After: 1e3", FIRST),
    "nothing": ("Retry-After: ", FIRST),
    "more digits than a float holds": (f"Retry-After: {'9' * 400}", FIRST),
    "nan milliseconds": ("Retry-After-Ms: nan", FIRST),
}
for _code in (429, 503):
    for _name, (_header, _waits) in WAITS.items():
        _spread = _waits if _waits is FIRST else [wait * _SPREAD[_code] for wait in _waits]
        ROWS[f"{_code}, Retry-After is {_name}"] = Row([status(_code, _header)], 2, KEY, None, _spread)
    ROWS[f"{_code}, Retry-After is one hour"] = Row(
        [status(_code, "Retry-After: 3600")], 1, errors.APIError, REFUSED if _code == 429 else UNKNOWN, retry_after=3600
    )
    # A 429 says that nothing was done, and is believed: see `outcome_of`. A 503 says no such thing.
    ROWS[f"{_code} after the key, Retry-After is 1"] = Row(
        [status(_code, "Retry-After: 1", after=True)],
        2,
        Rejected,
        REFUSED if _code == 429 else UNKNOWN,
        [_SPREAD[_code]],
    )
# Other statuses pause no other call, so their wait is the server's own.
ROWS["500, Retry-After is 2 seconds"] = Row([status(500, "Retry-After: 2")], 2, KEY, None, [2.0])


@pytest.mark.unmeasured
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
async def test_wire_script_has_its_expected_result(row: Row, audit: Audit) -> None:
    clock = FakeClock()
    async with WireServer(row.script) as server:
        async with OpenRouter(
            BEARER, base_url=server.base_url, timeout=row.timeout, retry=row.retry, clock=clock.clock
        ) as client:
            exchange = client.oauth.exchange_auth_code_for_api_key(code=code_of(1), code_verifier=verifier_of(1))
            if isinstance(row.result, str):
                response = await exchange
                assert response.key == server.authority.issued[code_of(1)]
                assert response.http_meta.attempts == row.requests
            else:
                with pytest.raises(row.result) as caught:
                    await exchange
                error = caught.value
                audit.read_error(error)
                assert error.outcome is row.outcome
                assert error.attempts == row.requests
                assert len(error.history) == row.requests - 1
                assert error not in [attempt.error for attempt in error.history]
                assert error.retry_after == row.retry_after
                if row.cause is not None:
                    assert type(error.__cause__) is row.cause
        await server.until_closed()
    assert len(server.requests) == row.requests
    assert clock.waits == pytest.approx(row.waits)


async def test_wire_connection_after_a_fault_works() -> None:
    clock = FakeClock()
    faults = [TWICE, CLOSE, HTTP_1_0, UNTIL_END, CONTINUE, CUT_ENDLESS_BODY, CHUNKED, status(404), EARLY_HINTS]
    async with WireServer(faults) as server:
        async with OpenRouter(BEARER, base_url=server.base_url, clock=clock.clock) as client:
            for number in range(2 * len(faults)):
                try:
                    response = await client.oauth.exchange_auth_code_for_api_key(code=code_of(number))
                except (errors.APIError, errors.ResponseValidationError):
                    assert faults[number].name in (CUT_ENDLESS_BODY.name, status(404).name)
                else:
                    assert response.key == server.authority.issued[code_of(number)]
        await server.until_closed()
    assert len(server.requests) == 2 * len(faults)


async def test_wire_unsolicited_answer_is_never_taken_for_the_next() -> None:
    # A key that was given to the wrong user would be worse than one that is lost.
    clock = FakeClock()
    idle: list[Wire] = []

    async def note(wire: Wire) -> None:
        idle.append(wire)

    async with WireServer() as server:
        server.idle_act = note
        async with OpenRouter(BEARER, base_url=server.base_url, clock=clock.clock) as client:
            for number in range(5):
                response = await client.oauth.exchange_auth_code_for_api_key(code=code_of(number))
                assert response.key == server.authority.issued[code_of(number)]
                await idle.pop().send(
                    http_answer(200, json.dumps({"key": f"sk-or-v1-{SECRET}-of-another", "user_id": None}))
                )
                await passes()
        await server.until_closed()
    assert [request.code for request in server.requests] == [code_of(number) for number in range(5)]
    assert server.connections == 5
    assert clock.waits == []


@pytest.mark.parametrize("way", ["borrowed session", "proxy", "proxy of the environment", "own session, no reuse"])
async def test_wire_late_surplus_answer_reaches_no_request(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # On a connection that had a request before, a surplus answer to that one comes just after the next was sent.
    used: list[Wire] = []

    async def play(wire: Wire, real: bytes) -> None:
        surplus = http_answer(200, json.dumps({"key": f"sk-or-v1-{SECRET}-of-another", "user_id": None}))
        await wire.send(surplus if wire in used else real)
        used.append(wire)

    async with WireServer(lambda _: Act("late surplus", fetches=True, play=play)) as server:
        proxy = f"http://127.0.0.1:{server.port}"
        options: dict[str, Any] = {}
        base_url = server.base_url
        if way.startswith("proxy"):
            base_url = "http://localhost:9/api/v1"
            if way == "proxy":
                options = {"proxy": proxy}
            else:
                monkeypatch.setenv("http_proxy", proxy)
                monkeypatch.delenv("no_proxy", raising=False)
                options = {"trust_env": True}
        elif way.startswith("own"):
            options = {"reuse_connections": False}
        async with aiohttp.ClientSession() as session:
            if way == "borrowed session":
                options = {"session": session}
            async with OpenRouter(BEARER, base_url=base_url, **options) as client:
                for number in range(4):
                    response = await client.oauth.exchange_auth_code_for_api_key(code=code_of(number))
                    assert response.key == server.authority.issued[code_of(number)]
        await server.until_closed()
    assert server.connections == 4


@pytest.mark.parametrize("way", ["own session", "borrowed session, reuse"])
async def test_wire_connection_is_reused_where_it_is_safe_or_asked_for(way: str) -> None:
    async with WireServer() as server, aiohttp.ClientSession() as session:
        options: dict[str, Any] = {} if way == "own session" else {"session": session, "reuse_connections": True}
        async with OpenRouter(BEARER, base_url=server.base_url, **options) as client:
            for number in range(4):
                await client.oauth.exchange_auth_code_for_api_key(code=code_of(number))
    assert server.connections == 1
