"""Tests that the tables of the comparison are true."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import version
from typing import Any, Final, TypeAlias

import aiohttp
import attrs
import openrouter
import pytest
from openrouter.oauth import OAuth as OfficialOAuth
from openrouter.utils import BackoffStrategy, RetryConfig

from openrouter_async import OpenRouter
from openrouter_async._client.oauth import OAuth
from openrouter_async.errors import OpenRouterError
from openrouter_async.testing import FakeOpenRouter, Fault
from tests.support import ROOT

pytestmark = pytest.mark.unmeasured

PAGE = (ROOT / "docs" / "explanation" / "comparison.md").read_text()
OFFICIAL: Final = "openrouter 1.3.84"
BY_HAND: Final = "aiohttp 3.14.5 by hand"
KEY: Final = "sk-or-v1-" + "ab" * 32

Exchange: TypeAlias = Callable[[FakeOpenRouter, str], Awaitable[object]]


@attrs.frozen
class Situation:
    """The situation of an exchange.

    Attributes:
        said: The name of the situation on the page.
        fault: The fault of the first request.
        key: The key that the client should get; None for the one that the fake issues.
    """

    said: str
    fault: Fault
    key: str | None = None


def answer(body: str | bytes, **headers: str) -> Fault:
    return Fault.status(200, body=body, headers=headers)


SITUATIONS = [
    Situation("503, and then all is well", Fault.status(503)),
    Situation("429 with `Retry-After`", Fault.status(429, headers={"Retry-After": "0"})),
    Situation("503 with `Retry-After: inf`", Fault.status(503, headers={"Retry-After": "inf"})),
    Situation("the connection is dropped before anything was done", Fault.drop()),
    Situation("the key is issued, then a 500", Fault.status(500, after=True)),
    Situation("the key is issued, then the connection is dropped", Fault.drop(after=True)),
    Situation("the key is issued, and its answer cut off", Fault.cut_body()),
    Situation("`user_id` is missing", answer(f'{{"key": "{KEY}"}}'), KEY),
    Situation("the key is `null`", answer('{"key": null, "user_id": null}')),
    Situation("the key is not UTF-8", answer(b'{"key": "sk-or-v1-\xff", "user_id": null}')),
    Situation("a page of HTML, with status 200", Fault.html(200)),
    Situation("an answer falsely marked as gzip", answer(b"no gzip", **{"Content-Encoding": "gzip"})),
]


async def exchange_here(fake: FakeOpenRouter, code: str) -> object:
    async with OpenRouter(None, base_url=fake.base_url) as client:
        return (await client.oauth.exchange_auth_code_for_api_key(code=code)).key


async def exchange_officially(fake: FakeOpenRouter, code: str) -> object:
    # Its own retry policy, with shorter waits.
    retries = RetryConfig("backoff", BackoffStrategy(10, 20, 1.5, 500, 0), True)
    async with openrouter.OpenRouter(server_url=fake.base_url) as sdk:
        result = await sdk.o_auth.exchange_auth_code_for_api_key_async(code=code, retries=retries)
        return result.key


async def exchange_by_hand(fake: FakeOpenRouter, code: str) -> object:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{fake.base_url}/auth/keys", json={"code": code}) as response,
    ):
        response.raise_for_status()
        return (await response.json())["key"]


COLUMNS: Mapping[str, Exchange] = {
    "openrouter_async": exchange_here,
    OFFICIAL: exchange_officially,
    BY_HAND: exchange_by_hand,
}


def table(heading: str) -> dict[str, dict[str, str]]:
    """The first table under a heading of the page: its rows by their first cell."""
    text = PAGE.partition(f"## {heading}\n")[2]
    lines = re.findall(r"^\|.*\|$", text.partition("\n## ")[0], re.MULTILINE)
    names, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {row[0]: dict(zip(names[1:], row[1:], strict=True)) for row in rows}


EXCHANGES = table("Exchanges with a fault")


async def observe(fake: FakeOpenRouter, situation: Situation, exchange: Exchange) -> str:
    """Carry out an exchange in a situation, and return the cell of the table that describes the result."""
    fake.queue_faults(situation.fault)
    try:
        key = await exchange(fake, fake.issue_code())
    except OpenRouterError as error:
        return f"`{type(error).__name__}`, {error.outcome}"
    except Exception as error:  # noqa: BLE001 - which one it is, is what the page says
        package = type(error).__module__.partition(".")[0]
        name = type(error).__name__
        return f"`{name}`" if package in ("openrouter", "builtins") else f"`{package}.{name}`"
    if key is None:
        return "`None` as the key"
    there = situation.key or (fake.issued_keys[-1].key if fake.issued_keys else None)
    return "**the key**" if key == there else "something else as the key"


def hold(said: str, actual: str, column: str) -> None:
    """Check the page's claims against the version that it names; another version may differ."""
    package, _, named = column.removesuffix(" by hand").partition(" ")
    if said != actual and named and version(package) != named:
        pytest.xfail(f"the page speaks of {column}; {version(package)} does otherwise: {actual}")
    assert said == actual


def test_comparison_has_a_row_for_each_situation() -> None:
    assert list(EXCHANGES) == [situation.said for situation in SITUATIONS]
    assert all(list(row) == list(COLUMNS) for row in EXCHANGES.values())


@pytest.mark.shows_secrets
@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.said)
@pytest.mark.parametrize("column", COLUMNS)
async def test_comparison_outcome_of_each_situation_is_true(
    fake: FakeOpenRouter, situation: Situation, column: str
) -> None:
    actual = await observe(fake, situation, COLUMNS[column])
    hold(EXCHANGES[situation.said][column], actual, column)


DETAILS = table("Safety")


async def is_followed(fake: FakeOpenRouter, exchange: Exchange) -> bool:
    async with FakeOpenRouter() as elsewhere:
        fake.queue_faults(Fault.status(307, headers={"Location": f"{elsewhere.base_url}/auth/keys"}))
        await asyncio.gather(exchange(fake, fake.issue_code()), return_exceptions=True)
        return len(elsewhere.requests) > 0


async def is_sent_once(fake: FakeOpenRouter, exchange: Exchange) -> bool:
    code = fake.issue_code()
    if exchange is not exchange_here:
        await asyncio.gather(exchange(fake, code), exchange(fake, code), return_exceptions=True)
    else:
        async with OpenRouter(None, base_url=fake.base_url) as client:
            await asyncio.gather(*(client.oauth.exchange_auth_code_for_api_key(code=code) for _ in range(2)))
    return len(fake.requests) == 1


async def shows_result(fake: FakeOpenRouter, exchange: Exchange) -> bool:
    result: Any
    if exchange is exchange_here:
        async with OpenRouter(None, base_url=fake.base_url) as client:
            result = await client.oauth.exchange_auth_code_for_api_key(code=fake.issue_code())
    else:
        async with openrouter.OpenRouter(server_url=fake.base_url) as sdk:
            result = await sdk.o_auth.exchange_auth_code_for_api_key_async(code=fake.issue_code())
    return result.key in repr(result)


async def shows_malformed(fake: FakeOpenRouter, exchange: Exchange) -> bool:
    fake.queue_faults(answer(f'{{"key": "{KEY}", "user_id": 7}}' if exchange is exchange_officially else f'["{KEY}"]'))
    try:
        await exchange(fake, fake.issue_code())
    except Exception as error:  # noqa: BLE001 - whatever it is, it is looked at
        return KEY in f"{error} {error!r}"
    return False


QUESTIONS: Mapping[str, Callable[[FakeOpenRouter, Exchange], Awaitable[bool]]] = {
    "a 307 sends the code and its verifier to another host": is_followed,
    "two equal exchanges at the same time are one": is_sent_once,
    "`repr` of the result shows the key": shows_result,
    "the error of a malformed answer shows the key in it": shows_malformed,
}


def test_comparison_answers_each_question() -> None:
    assert list(DETAILS) == list(QUESTIONS)


@pytest.mark.shows_secrets
@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("column", COLUMNS)
async def test_comparison_details_are_true(fake: FakeOpenRouter, question: str, column: str) -> None:
    if (said := DETAILS[question][column]) == "there is none":
        assert column == BY_HAND
        return
    hold(said, "yes" if await QUESTIONS[question](fake, COLUMNS[column]) else "no", column)


def test_comparison_kinds_are_true() -> None:
    rows = table("Scope")
    groups = len(openrouter.OpenRouter._sub_sdk_map)
    hold(rows["the rest of OpenRouter's API"][OFFICIAL], f"yes: {groups} groups of operations", OFFICIAL)
    for row, name in (("sync", "exchange_auth_code_for_api_key"), ("asyncio", "exchange_auth_code_for_api_key_async")):
        is_there = callable(getattr(OfficialOAuth, name, None))
        hold(rows[row][OFFICIAL], "yes" if is_there else "no", OFFICIAL)
    assert rows["sync"]["openrouter_async"] == "no"
    assert inspect.iscoroutinefunction(OAuth.exchange_auth_code_for_api_key)


def test_comparison_in_the_readme_is_part_of_the_page() -> None:
    section = (ROOT / "README.md").read_text().split("## How it compares\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    known = set(PAGE.splitlines())
    assert [row for row in rows if row not in known] == []
    # Besides the heading and the line below it.
    assert len(rows) == 12
