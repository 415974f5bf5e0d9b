from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import discord
import pytest
from discord import app_commands

from openrouter_async import OpenRouter
from openrouter_async.integrations.bots import BotLogin, BotTexts
from openrouter_async.integrations.discord import _CODE_BUTTON, _START_BUTTON, add_commands
from openrouter_async.login import AuthorizationFlow, UnknownLoginError
from openrouter_async.login.stores import LoginStore
from openrouter_async.testing import FakeOpenRouter
from tests.integrations.chatting import ADA, BEN, CALLBACK, Broken, Talk, read_qr_code
from tests.integrations.discord_api import FakeDiscord
from tests.integrations.support import load

TEXTS = BotTexts()


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeDiscord]:
    async with FakeDiscord() as made:
        made.use(monkeypatch)
        yield made


@contextlib.asynccontextmanager
async def running(client: discord.Client) -> AsyncIterator[None]:
    async with client:
        await client.login("discord-token")
        task = asyncio.create_task(client.connect())
        yield
    await task


class Bot(discord.Client):
    def __init__(self, login: BotLogin, settings: dict[str, Any]) -> None:
        super().__init__(intents=discord.Intents.none())
        self._settings = settings
        self._openrouter_login = login
        self.tree = app_commands.CommandTree(self)

    async def setup_hook(self) -> None:
        add_commands(self.tree, self._openrouter_login, **self._settings)
        await self.tree.sync()


@contextlib.asynccontextmanager
async def talking(
    client: OpenRouter, *, commands: dict[str, Any] | None = None, store: LoginStore | None = None, **settings: Any
) -> AsyncIterator[Talk]:
    talk = Talk()
    flow = AuthorizationFlow(client, callback_url=CALLBACK, store=store)
    talk.login = BotLogin(flow, on_login=talk.put, on_logout=talk.remove, **settings)
    async with running(Bot(talk.login, commands or {})):
        yield talk


@pytest.fixture
async def bot(server: FakeDiscord, client: OpenRouter) -> AsyncIterator[Talk]:
    async with talking(client) as made:
        yield made


@pytest.mark.parametrize("in_server", [False, True])
async def test_discord_user_signs_in_ephemerally_and_out(
    server: FakeDiscord, bot: Talk, fake: FakeOpenRouter, in_server: bool
) -> None:
    await server.command(ADA, "login", in_server=in_server)
    prompt = await server.answer()
    assert prompt.text == TEXTS.login
    await server.click(ADA, prompt.button)
    await server.submit(ADA, await server.modal(), fake.consent(prompt.url))
    assert (await server.answer()).text == TEXTS.done
    assert bot.logins == [(ADA, fake.issued_keys[0].key)]

    await server.command(ADA, "logout", in_server=in_server)
    assert (await server.answer()).text == TEXTS.logged_out
    assert bot.logouts == [ADA]


async def test_discord_commands_have_descriptions(server: FakeDiscord, bot: Talk) -> None:
    await server.command(ADA, "logout")
    await server.answer()
    assert {(command["name"], command["description"]) for command in server.commands} == {
        ("login", TEXTS.login_description),
        ("logout", TEXTS.logout_description),
    }


async def test_discord_code_of_another_user_is_refused(server: FakeDiscord, bot: Talk, fake: FakeOpenRouter) -> None:
    await server.command(ADA, "login")
    code = fake.consent((await server.answer()).url)
    await server.click(BEN, _CODE_BUTTON)
    await server.submit(BEN, await server.modal(), code)
    assert (await server.answer()).text == UnknownLoginError("").user_message
    assert bot.logins == []
    assert fake.requests == ()


async def test_discord_button_shown_before_a_restart_works(
    server: FakeDiscord, client: OpenRouter, fake: FakeOpenRouter
) -> None:
    # Nothing but the id of the button is left of the first bot: this one has never shown it.
    async with talking(client) as bot:
        prompt = await bot.login.start(ADA)
        await server.click(ADA, _CODE_BUTTON)
        await server.submit(ADA, await server.modal(), fake.consent(prompt.url))
        assert (await server.answer()).text == TEXTS.done


async def test_discord_shown_buttons_use_no_memory(server: FakeDiscord, client: OpenRouter) -> None:
    talk = Talk()
    talk.login = BotLogin(AuthorizationFlow(client), on_login=talk.put)
    bot = Bot(talk.login, {})
    async with running(bot):
        for _ in range(3):
            await server.command(ADA, "login")
            await server.answer()
        assert len(bot.persistent_views) == 1
        assert list(bot._connection._view_store._views) == [None]


async def test_discord_failing_store_is_reported(server: FakeDiscord, client: OpenRouter) -> None:
    store = Broken()
    store.broken = {"get", "delete"}
    async with talking(client, store=store):
        for name in ("login", "logout"):
            await server.command(ADA, name)
            assert (await server.answer()).text.startswith("Signing in is not possible at the moment.")


async def test_discord_qr_code_is_sent_on_request(server: FakeDiscord, client: OpenRouter) -> None:
    async with talking(client, commands={"qr_code": True}):
        await server.command(ADA, "login")
        prompt = await server.answer()
        assert prompt.image is not None
        assert read_qr_code(prompt.image) == prompt.url


async def test_discord_login_may_return_to_a_web_app_with_translated_texts(
    server: FakeDiscord, client: OpenRouter, fake: FakeOpenRouter
) -> None:
    texts = BotTexts(web_login="Bitte anmelden.", button="Anmelden " * 9, code="Der Code " * 9)
    async with talking(client, commands={"texts": texts}, headless=False) as bot:
        await server.command(ADA, "login")
        prompt = await server.answer()
        assert prompt.text == "Bitte anmelden."
        await server.click(ADA, prompt.button)
        modal = await server.modal()
        assert len(modal.payload["title"]) == 45
        await server.submit(ADA, modal, await bot.login.park_callback(fake.consent(prompt.url)))
        assert (await server.answer()).text == texts.done


async def test_discord_refused_answer_loses_no_key_and_shows_no_code(
    server: FakeDiscord, bot: Talk, fake: FakeOpenRouter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    # discord.http logs everything that it sends and receives at DEBUG, as its documentation says.
    caplog.set_level(logging.INFO, "discord")
    await server.command(ADA, "login")
    prompt = await server.answer()
    code = fake.consent(prompt.url)
    await server.click(ADA, prompt.button)
    server.failing = True
    await server.submit(ADA, await server.modal(), code)
    await server.answer()
    server.failing = False
    await server.command(ADA, "logout")
    await server.answer()
    assert [key for _, key in bot.logins] == [fake.issued_keys[0].key]
    assert "an interaction could not be answered: HTTPException" in caplog.text
    text = "\n".join([caplog.text, *(f"{record.args}" for record in caplog.records)])
    for secret in (code, prompt.url, bot.logins[0][1]):
        assert secret not in text


async def test_discord_command_of_an_expired_interaction_is_carried_out(
    server: FakeDiscord, bot: Talk, fake: FakeOpenRouter, caplog: pytest.LogCaptureFixture
) -> None:
    await server.command(ADA, "login")
    prompt = await server.answer()
    await server.click(ADA, prompt.button)
    modal = await server.modal()
    server.is_too_late = server.failing = True
    await server.submit(ADA, modal, fake.consent(prompt.url))
    for _ in ("defer", "followup"):
        await server.answer()
    await server.command(ADA, "logout")
    for _ in ("defer", "followup"):
        await server.answer()
    assert [key for _, key in bot.logins] == [fake.issued_keys[0].key]
    assert bot.logouts == [ADA]
    assert "an interaction could not be answered: NotFound" in caplog.text


async def test_discord_button_below_an_expired_login_starts_a_new_one(
    server: FakeDiscord, client: OpenRouter, fake: FakeOpenRouter
) -> None:
    async with talking(client):
        await server.click(ADA, _CODE_BUTTON)
        await server.submit(ADA, await server.modal(), "auth_code_without_a_login")
        refused = await server.answer()
        assert refused.button == _START_BUTTON
        await server.click(ADA, refused.button)
        prompt = await server.answer()
        assert prompt.text == TEXTS.login
        await server.click(ADA, prompt.button)
        await server.submit(ADA, await server.modal(), fake.consent(prompt.url))
        assert (await server.answer()).text == TEXTS.done


async def test_discord_example_signs_a_user_in(
    server: FakeDiscord, client: OpenRouter, fake: FakeOpenRouter, tmp_path: Path
) -> None:
    example = load("discord_bot")
    keys = example.Keys(tmp_path / "keys")
    async with running(example.Bot(AuthorizationFlow(client), keys)):
        await server.command(ADA, "status")
        assert (await server.answer()).text == "You are not signed in: /login"
        await server.command(ADA, "login")
        prompt = await server.answer()
        await server.click(ADA, prompt.button)
        await server.submit(ADA, await server.modal(), fake.consent(prompt.url))
        assert (await server.answer()).text == TEXTS.done
        stored = await keys.of(ADA).load()
        assert stored.key == fake.issued_keys[0].key
        await server.command(ADA, "status")
        assert (await server.answer()).text == f"You are {stored.user_id}."
        await server.command(ADA, "logout")
        assert (await server.answer()).text == TEXTS.logged_out
        assert await keys.of(ADA).load() is None
