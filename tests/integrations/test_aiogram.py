from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiogram", reason="aiogram is missing")

from aiogram import Dispatcher, Router
from aiogram.types import Message

from openrouter_async import ExchangeAuthCodeForAPIKeyResponse, OpenRouter
from openrouter_async.errors import OpenRouterError
from openrouter_async.integrations.aiogram import create_router
from openrouter_async.integrations.bots import BotLogin, BotTexts
from openrouter_async.login import AuthorizationFlow, CodeRejectedError, UnknownLoginError
from openrouter_async.login.stores import LoginStore
from openrouter_async.testing import FakeOpenRouter, Fault
from tests.integrations.chatting import ADA, BEN, CALLBACK, Broken, Talk, read_qr_code
from tests.integrations.support import load
from tests.integrations.telegram import FakeTelegram
from tests.kit.clocks import until

TEXTS = BotTexts()


@pytest.fixture
async def telegram() -> AsyncIterator[FakeTelegram]:
    async with FakeTelegram() as server:
        yield server


@contextlib.asynccontextmanager
async def polling(telegram: FakeTelegram, dispatcher: Dispatcher) -> AsyncIterator[None]:
    task = asyncio.create_task(dispatcher.start_polling(telegram.make_bot(), handle_signals=False))
    try:
        yield
    finally:
        await dispatcher.stop_polling()
        await task


async def echo(message: Message) -> None:
    """Echo the messages that the login does not handle, as the rest of a bot would."""
    await message.answer(f"echo: {message.text}")


@contextlib.asynccontextmanager
async def talking(
    telegram: FakeTelegram,
    client: OpenRouter,
    *,
    router: dict[str, Any] | None = None,
    store: LoginStore | None = None,
    verify: bool = False,
    **settings: Any,
) -> AsyncIterator[Talk]:
    talk = Talk()
    flow = AuthorizationFlow(client, callback_url=CALLBACK, store=store, verify=verify)
    talk.login = BotLogin(flow, on_login=talk.put, on_logout=talk.remove, **settings)
    rest = Router()
    rest.message()(echo)
    dispatcher = Dispatcher()
    dispatcher.include_routers(create_router(talk.login, **router or {}), rest)
    async with polling(telegram, dispatcher):
        yield talk


@pytest.fixture
async def bot(telegram: FakeTelegram, client: OpenRouter) -> AsyncIterator[Talk]:
    async with talking(telegram, client) as made:
        yield made


async def test_aiogram_user_signs_in_and_out_in_a_private_chat(
    telegram: FakeTelegram, bot: Talk, fake: FakeOpenRouter
) -> None:
    telegram.say(ADA, "/login")
    prompt = await telegram.answer()
    assert prompt.text == TEXTS.login
    assert prompt.fields["chat_id"] == str(ADA)
    assert prompt.fields["protect_content"] == "true"

    pasted = telegram.say(ADA, fake.consent(prompt.url))
    done = await telegram.answer()
    assert done.text == TEXTS.done
    assert bot.logins == [(ADA, fake.issued_keys[0].key)]
    assert telegram.deleted == [pasted]

    telegram.say(ADA, "/logout")
    assert (await telegram.answer()).text == TEXTS.logged_out
    assert bot.logouts == [ADA]


@pytest.mark.parametrize("command", ["/login {}", "/login@the_bot {}"])
async def test_aiogram_code_may_come_with_the_command(
    telegram: FakeTelegram, bot: Talk, fake: FakeOpenRouter, command: str
) -> None:
    telegram.say(ADA, "/start login")
    pasted = telegram.say(ADA, command.format(fake.consent((await telegram.answer()).url)))
    assert (await telegram.answer()).text == TEXTS.done
    assert telegram.deleted == [pasted]
    assert [user for user, _ in bot.logins] == [ADA]


async def test_aiogram_code_sent_twice_is_deleted_twice_and_exchanged_once(
    telegram: FakeTelegram, bot: Talk, fake: FakeOpenRouter
) -> None:
    telegram.say(ADA, "/login")
    code = fake.consent((await telegram.answer()).url)
    pasted = [telegram.say(ADA, code) for _ in range(3)]
    assert [(await telegram.answer()).text for _ in pasted] == [TEXTS.done] * 3
    # Deletions are under way beside the answers.
    await until(lambda: len(telegram.deleted) == 3)
    assert sorted(telegram.deleted) == pasted
    assert len(bot.logins) == len(fake.requests) == 1


async def test_aiogram_other_messages_reach_the_rest_of_the_bot(
    telegram: FakeTelegram, bot: Talk, fake: FakeOpenRouter
) -> None:
    code = "auth_code_" + "x" * 32
    for text in ("hello", code, "/start", "/start something", None):
        telegram.say(ADA, text)
        assert (await telegram.answer()).text == f"echo: {text}"
    telegram.say(ADA, "/login")
    await telegram.answer()
    for text in ("hello", "https://example.com/an-article-of-2027"):
        telegram.say(ADA, text)
        assert (await telegram.answer()).text == f"echo: {text}"
    telegram.say(BEN, code)
    assert (await telegram.answer()).text == f"echo: {code}"
    assert telegram.deleted == []
    assert fake.requests == ()


@pytest.mark.parametrize(
    ("text", "entity"),
    [
        ("/my_subscription_of_2027", None),
        ("someone_1234@mail.example", "email"),
        ("@somebody_with_a_name_1", "mention"),
        ("#a_tag_with_many_letters_1", "hashtag"),
        ("auth_code_that_is_a_number_0123", "phone_number"),
        ("https://shop.example/?code=order_1234567890", "url"),
        ("sk-or-v1-0123456789abcdef0123456789abcdef", None),
        (f"/start ticket-{'A' * 32}-and-more", None),
    ],
)
async def test_router_during_a_login_passes_on_messages_without_a_code(
    telegram: FakeTelegram, bot: Talk, fake: FakeOpenRouter, text: str, entity: str | None
) -> None:
    telegram.say(ADA, "/login")
    prompt = await telegram.answer()
    telegram.say(ADA, text, entity=entity)
    assert (await telegram.answer()).text == f"echo: {text}"
    assert telegram.deleted == []
    assert fake.requests == ()
    telegram.say(ADA, fake.consent(prompt.url))
    assert (await telegram.answer()).text == TEXTS.done


async def test_router_after_a_login_is_over_offers_a_new_start(
    telegram: FakeTelegram, bot: Talk, fake: FakeOpenRouter
) -> None:
    telegram.say(ADA, "/login auth_code_without_a_login")
    assert (await telegram.answer()).url == "https://t.me/the_bot?start=login"
    telegram.say(ADA, "/start login")
    await telegram.answer()
    telegram.say(ADA, "auth_code_that_is_wrong")
    assert (await telegram.answer()).url == "https://t.me/the_bot?start=login"
    telegram.say(ADA, "/start login")
    telegram.say(ADA, fake.consent((await telegram.answer()).url))
    done = await telegram.answer()
    assert done.text == TEXTS.done
    assert "reply_markup" not in done.fields


async def test_router_carries_out_what_it_cannot_answer(
    telegram: FakeTelegram, bot: Talk, fake: FakeOpenRouter, caplog: pytest.LogCaptureFixture
) -> None:
    telegram.say(ADA, "/login")
    code = fake.consent((await telegram.answer()).url)
    telegram.failing |= {"sendMessage", "deleteMessage"}
    for text in (code, "/logout"):
        telegram.say(ADA, text)
        await telegram.answer()
    assert [key for _, key in bot.logins] == [fake.issued_keys[0].key]
    assert bot.logouts == [ADA]


@pytest.mark.parametrize("text", ["/login", "/logout", "/login auth_code_xxxxxxxxxxxxxxxxxxx"])
async def test_aiogram_in_a_group_links_to_the_private_chat_only(
    telegram: FakeTelegram, bot: Talk, fake: FakeOpenRouter, text: str
) -> None:
    telegram.say(ADA, text, group=True)
    answer = await telegram.answer()
    assert answer.text == TEXTS.private
    assert answer.url == "https://t.me/the_bot?start=login"
    assert not await bot.login.is_pending(ADA)
    assert bot.logouts == []


async def test_aiogram_code_posted_in_a_group_is_ignored(
    telegram: FakeTelegram, bot: Talk, fake: FakeOpenRouter
) -> None:
    telegram.say(ADA, "/login")
    code = fake.consent((await telegram.answer()).url)
    telegram.say(ADA, code, group=True)
    assert (await telegram.answer()).text == f"echo: {code}"
    assert fake.requests == ()
    assert await bot.login.is_pending(ADA)


async def test_aiogram_failure_is_explained_to_the_user(
    telegram: FakeTelegram, bot: Talk, fake: FakeOpenRouter
) -> None:
    telegram.say(ADA, "/login auth_code_without_a_login")
    assert (await telegram.answer()).text == UnknownLoginError("").user_message
    telegram.say(ADA, "/login")
    prompt = await telegram.answer()
    telegram.say(ADA, "auth_code_that_is_wrong")
    assert (await telegram.answer()).text == CodeRejectedError("").user_message
    telegram.say(ADA, "/login")
    assert (await telegram.answer()).url == prompt.url
    assert len(telegram.deleted) == 2


async def test_aiogram_key_that_is_refused_at_once_is_kept_and_mentioned(
    telegram: FakeTelegram, fake: FakeOpenRouter
) -> None:
    def revoke(_: object, response: ExchangeAuthCodeForAPIKeyResponse) -> None:
        fake.revoke(response.key)

    async with (
        OpenRouter(None, base_url=fake.base_url, on_key=revoke) as client,
        talking(telegram, client, verify=True) as bot,
    ):
        telegram.say(ADA, "/login")
        telegram.say(ADA, fake.consent((await telegram.answer()).url))
        text = (await telegram.answer()).text
        assert bot.logins == [(ADA, fake.issued_keys[-1].key)]
    assert text.startswith("You are signed in. ")
    assert "refuses it" in text


async def test_aiogram_message_that_cannot_be_deleted_loses_no_key(
    telegram: FakeTelegram, bot: Talk, fake: FakeOpenRouter, caplog: pytest.LogCaptureFixture
) -> None:
    telegram.failing.add("deleteMessage")
    telegram.say(ADA, "/login")
    telegram.say(ADA, fake.consent((await telegram.answer()).url))
    assert (await telegram.answer()).text == TEXTS.done
    assert len(bot.logins) == 1
    assert "a message could not be sent or deleted: TelegramBadRequest" in caplog.text


async def test_aiogram_qr_code_is_sent_on_request(
    telegram: FakeTelegram, client: OpenRouter, fake: FakeOpenRouter
) -> None:
    async with talking(telegram, client, router={"qr_code": True}):
        telegram.say(ADA, "/login")
        prompt = await telegram.answer()
        assert prompt.method == "sendPhoto"
        assert prompt.text == TEXTS.login
        [image] = [value for value in prompt.fields.values() if isinstance(value, bytes)]
        assert read_qr_code(image) == prompt.url
        assert prompt.fields["protect_content"] == "true"


async def test_aiogram_deep_link_with_a_ticket_finishes_the_login(
    telegram: FakeTelegram, client: OpenRouter, fake: FakeOpenRouter
) -> None:
    async with talking(telegram, client, headless=False) as bot:
        telegram.say(ADA, "/login")
        prompt = await telegram.answer()
        assert prompt.text == TEXTS.web_login
        ticket = await bot.login.park_callback(fake.consent(prompt.url))
        telegram.say(BEN, f"/start {ticket}")
        assert "another browser" in (await telegram.answer()).text
        assert bot.logins == []
        telegram.say(ADA, f"/start {ticket}")
        assert (await telegram.answer()).text == TEXTS.done
        assert [user for user, _ in bot.logins] == [ADA]


async def test_aiogram_failing_store_is_reported_and_other_handlers_work(
    telegram: FakeTelegram, client: OpenRouter, caplog: pytest.LogCaptureFixture
) -> None:
    store = Broken()
    store.broken = {"get", "delete"}
    async with talking(telegram, client, store=store):
        for text in ("/login", "/logout"):
            telegram.say(ADA, text)
            assert (await telegram.answer()).text.startswith("Signing in is not possible at the moment.")
        telegram.say(ADA, "auth_code_" + "x" * 32)
        assert (await telegram.answer()).text.startswith("echo: ")
    assert "it is not known whether a message has a code" in caplog.text


async def test_aiogram_texts_may_be_translated(
    telegram: FakeTelegram, client: OpenRouter, fake: FakeOpenRouter
) -> None:
    def explain(error: OpenRouterError) -> str:
        return f"Fehler: {type(error).__name__}"

    texts = BotTexts(login="Bitte anmelden.", error=explain)
    async with talking(telegram, client, router={"texts": texts}):
        telegram.say(ADA, "/login")
        assert (await telegram.answer()).text == "Bitte anmelden."
        fake.queue_faults(Fault.status(403))
        telegram.say(ADA, "/login auth_code_x")
        assert (await telegram.answer()).text == "Fehler: CodeRejectedError"


async def test_aiogram_logs_no_code_url_or_key_at_any_level(
    telegram: FakeTelegram, bot: Talk, fake: FakeOpenRouter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    telegram.say(ADA, "/login")
    prompt = await telegram.answer()
    code = fake.consent(prompt.url)
    telegram.say(ADA, code)
    await telegram.answer()
    telegram.failing.add("sendMessage")
    for text in ("/login", f"/login {code}"):
        telegram.say(ADA, text)
        await telegram.answer()
    telegram.failing.discard("sendMessage")
    telegram.say(ADA, "hello")
    await telegram.answer()
    text = "\n".join([caplog.text, *(f"{record.args}" for record in caplog.records)])
    assert "is handled" in text, "aiogram logs what it does"
    for secret in (code, prompt.url, bot.logins[0][1]):
        assert secret not in text


async def test_aiogram_example_signs_a_user_in(
    telegram: FakeTelegram, client: OpenRouter, fake: FakeOpenRouter, tmp_path: Path
) -> None:
    example = load("telegram_bot")
    keys = example.Keys(tmp_path / "keys")
    async with polling(telegram, example.make_dispatcher(AuthorizationFlow(client), keys)):
        telegram.say(ADA, "/status")
        assert (await telegram.answer()).text == "You are not signed in: /login"
        telegram.say(ADA, "/login")
        telegram.say(ADA, fake.consent((await telegram.answer()).url))
        assert (await telegram.answer()).text == TEXTS.done
        stored = await keys.of(ADA).load()
        assert stored.key == fake.issued_keys[0].key
        telegram.say(ADA, "/status")
        assert (await telegram.answer()).text == f"You are {stored.user_id}."
        telegram.say(ADA, "/logout")
        assert (await telegram.answer()).text == TEXTS.logged_out
        assert await keys.of(ADA).load() is None
