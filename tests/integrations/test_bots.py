from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import attrs
import pytest
from redis.asyncio import Redis
from yarl import URL

from openrouter_async import OpenRouter
from openrouter_async._values.tasks import _SHIELDED
from openrouter_async.encryption import generate_encryption_key
from openrouter_async.errors import (
    KeyDeliveryError,
    OpenRouterError,
    RequestValidationError,
    TooManyRequestsResponseError,
)
from openrouter_async.events import Event
from openrouter_async.integrations.bots import (
    BotLogin,
    LoginPrompt,
    UnknownTicketError,
    UserId,
    looks_like_code,
)
from openrouter_async.integrations.bots._sessions import MAX_TICKETS
from openrouter_async.login import (
    AuthorizationDeniedError,
    AuthorizationError,
    AuthorizationFlow,
    CodeRejectedError,
    CookieStore,
    Grant,
    InvalidCallbackError,
    LoginAlreadyUsedError,
    LoginBindingError,
    LoginExpiredError,
    LoginStoreError,
    MemoryStore,
    RedisStore,
    StateMismatchError,
    UnknownLoginError,
)
from openrouter_async.sinks import KeySinkError
from openrouter_async.testing import FakeOpenRouter, Fault
from tests.integrations.chatting import ADA, BEN, CALLBACK, Broken, read_qr_code
from tests.kit.clocks import WallClock
from tests.kit.gates import Gate
from tests.login.support import NOW, ONCE
from tests.support import import_error_without


@attrs.define
class Keys:
    """Where the bot of these tests keeps keys; it can be broken."""

    logins: list[tuple[UserId, str]] = attrs.field(factory=list[tuple[UserId, str]])
    logouts: list[UserId] = attrs.field(factory=list[UserId])
    notified: list[UserId] = attrs.field(factory=list[UserId])
    failure: Exception | None = None

    def _work(self) -> None:
        if self.failure is not None:
            raise self.failure

    async def put(self, user_id: UserId, grant: Grant) -> None:
        self._work()
        self.logins.append((user_id, grant.key))

    async def remove(self, user_id: UserId) -> None:
        self._work()
        self.logouts.append(user_id)

    async def notify(self, user_id: UserId, grant: Grant) -> None:
        self._work()
        self.notified.append(user_id)


@pytest.fixture
def keys() -> Keys:
    return Keys()


def make_login(
    client: OpenRouter,
    keys: Keys,
    *,
    flow: dict[str, Any] | None = None,
    time: WallClock | None = None,
    **settings: Any,
) -> BotLogin:
    clock = (time or WallClock()).clock
    made = AuthorizationFlow(client, callback_url=CALLBACK, clock=clock, **flow or {})
    return BotLogin(made, on_login=keys.put, on_logout=keys.remove, notify=keys.notify, clock=clock, **settings)


@pytest.fixture
async def once(fake: FakeOpenRouter) -> AsyncIterator[OpenRouter]:
    """A client that tries once."""
    async with OpenRouter(fake.token, base_url=fake.base_url, retry=ONCE) as made:
        yield made


@pytest.fixture
def login(once: OpenRouter, keys: Keys) -> BotLogin:
    return make_login(once, keys)


async def test_bot_login_with_a_pasted_code_signs_the_user_in(
    login: BotLogin, fake: FakeOpenRouter, keys: Keys
) -> None:
    assert not await login.is_pending(ADA)
    prompt = await login.start(ADA)
    assert prompt.headless
    assert prompt.expires_at.timestamp() == NOW + 600
    assert await login.is_pending(ADA)
    assert not await login.is_pending(BEN)
    assert await login.expects(ADA, "auth_code_of_the_page")
    assert not await login.expects(ADA, "hello")
    assert not await login.expects(BEN, "auth_code_of_the_page")

    grant = await login.finish_code(ADA, f"  {fake.consent(prompt.url)}\n")

    assert grant.key == fake.issued_keys[0].key
    assert keys.logins == [(ADA, grant.key)]
    assert keys.notified == []
    assert not await login.is_pending(ADA)
    assert await login.expects(ADA, "auth_code_of_the_page"), "a code may come twice"


async def test_bot_login_url_carries_the_label_and_the_limit(once: OpenRouter, keys: Keys) -> None:
    prompt = await make_login(once, keys, key_label="My bot", limit=5).start(ADA)
    query = URL(prompt.url).query
    assert (query["key_label"], query["limit"]) == ("My bot", "5")
    assert "callback_url" not in query


async def test_finish_code_of_another_user_is_refused(login: BotLogin, fake: FakeOpenRouter, keys: Keys) -> None:
    code = fake.consent((await login.start(ADA)).url)
    with pytest.raises(UnknownLoginError):
        await login.finish_code(BEN, code)
    await login.start(BEN)
    with pytest.raises(CodeRejectedError):
        await login.finish_code(BEN, code)
    assert keys.logins == []


async def test_start_again_returns_the_same_url(once: OpenRouter, keys: Keys) -> None:
    time = WallClock()
    login = make_login(once, keys, time=time)
    first = await login.start(ADA)
    time.now += 299
    assert await login.start(ADA) == first
    both = await asyncio.gather(login.start(BEN), login.start(BEN))
    assert both[0] == both[1]
    time.now += 1
    renewed = await login.start(ADA)
    assert renewed.url != first.url
    assert renewed.expires_at.timestamp() == NOW + 900


async def test_start_while_signed_in_starts_another_login(login: BotLogin, fake: FakeOpenRouter, keys: Keys) -> None:
    for _ in range(2):
        await login.finish_code(ADA, fake.consent((await login.start(ADA)).url))
    assert keys.logins == [(ADA, issued.key) for issued in fake.issued_keys]
    assert len(fake.issued_keys) == 2


async def test_finish_code_pasted_twice_is_exchanged_and_delivered_once(
    login: BotLogin, fake: FakeOpenRouter, keys: Keys
) -> None:
    code = fake.consent((await login.start(ADA)).url)
    first, second = await asyncio.gather(login.finish_code(ADA, code), login.finish_code(ADA, code))
    third = await login.finish_code(ADA, code)
    assert first.key == second.key == third.key
    assert keys.logins == [(ADA, first.key)]
    assert len(fake.requests) == 1
    with pytest.raises(LoginAlreadyUsedError):
        await login.finish_code(ADA, "auth_code_another")


async def test_finish_code_with_text_that_is_not_a_code_keeps_the_login(login: BotLogin, fake: FakeOpenRouter) -> None:
    prompt = await login.start(ADA)
    for text, kind in (
        ("two words", InvalidCallbackError),
        ("", InvalidCallbackError),
        ("https://other.example/?x=1", InvalidCallbackError),
        (f"https://bot.example/callback/{'s' * 43}?code=c", StateMismatchError),
        (7, InvalidCallbackError),
    ):
        with pytest.raises(kind):
            await login.finish_code(ADA, text)  # type: ignore[arg-type]
    assert fake.requests == ()
    assert (await login.finish_code(ADA, fake.consent(prompt.url))).key


async def test_finish_code_after_a_rejected_code_takes_another_code(login: BotLogin, fake: FakeOpenRouter) -> None:
    prompt = await login.start(ADA)
    with pytest.raises(CodeRejectedError) as caught:
        await login.finish_code(ADA, "auth_code_that_is_wrong")
    assert not caught.value.restart_login
    assert await login.is_pending(ADA)
    assert (await login.finish_code(ADA, fake.consent(prompt.url))).key


async def test_finish_code_after_a_busy_answer_takes_the_same_code(login: BotLogin, fake: FakeOpenRouter) -> None:
    code = fake.consent((await login.start(ADA)).url)
    fake.queue_faults(Fault.status(429))
    with pytest.raises(TooManyRequestsResponseError):
        await login.finish_code(ADA, code)
    assert await login.is_pending(ADA)
    assert (await login.finish_code(ADA, code)).key


async def test_finish_code_of_an_expired_login_says_so(once: OpenRouter, keys: Keys, fake: FakeOpenRouter) -> None:
    time = WallClock()
    login = make_login(once, keys, time=time)
    code = fake.consent((await login.start(ADA)).url)
    time.now += 600
    assert not await login.is_pending(ADA)
    with pytest.raises(LoginExpiredError):
        await login.finish_code(ADA, code)
    with pytest.raises(UnknownLoginError):
        await login.finish_code(ADA, code)
    assert fake.requests == ()


async def test_logout_removes_the_login_and_the_key(login: BotLogin, fake: FakeOpenRouter, keys: Keys) -> None:
    prompt = await login.start(ADA)
    await login.logout(ADA)
    assert keys.logouts == [ADA]
    with pytest.raises(UnknownLoginError):
        await login.finish_code(ADA, fake.consent(prompt.url))

    keys.failure = OSError("disk full")
    with pytest.raises(KeySinkError, match="on_logout raised OSError"):
        await login.logout(ADA)


async def test_bot_login_without_stored_keys_needs_no_on_logout(once: OpenRouter, keys: Keys) -> None:
    await BotLogin(AuthorizationFlow(once), on_login=keys.put).logout(ADA)
    assert keys.logouts == []


# Keys are not lost.


async def test_finish_code_after_a_failed_on_login_stores_the_key(
    login: BotLogin, fake: FakeOpenRouter, keys: Keys
) -> None:
    code = fake.consent((await login.start(ADA)).url)
    keys.failure = OSError("disk full")
    with pytest.raises(KeyDeliveryError, match="on_login raised OSError") as caught:
        await login.finish_code(ADA, code)
    assert caught.value.response.key == fake.issued_keys[0].key
    assert isinstance(caught.value.__cause__, OSError)

    keys.failure = None
    grant = await login.finish_code(ADA, code)
    assert keys.logins == [(ADA, grant.key)]
    assert len(fake.requests) == 1


async def test_failed_finish_is_logged_once_by_its_class_and_outcome(
    web: BotLogin, fake: FakeOpenRouter, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "openrouter_async")
    code = fake.consent((await web.start(ADA)).url)
    keys.failure = OSError("disk full")
    for finishing in (
        web.finish_code(BEN, code),
        web.finish(code, user_id=BEN),
        web.finish_code(ADA, code),
    ):
        with pytest.raises(OpenRouterError):
            await finishing

    failed = [record for record in caplog.records if getattr(record, "event", None) == Event.LOGIN_FAILED]
    assert [(record.levelname, record.__dict__["error_class"], record.__dict__["outcome"]) for record in failed] == [
        ("INFO", "UnknownLoginError", "not_sent"),
        ("INFO", "LoginBindingError", "not_sent"),
        ("WARNING", "KeyDeliveryError", "completed"),
    ]


async def test_finish_code_cancelled_keeps_the_key(fake: FakeOpenRouter, keys: Keys) -> None:
    for after in (False, True):
        gate = Gate(after=after)
        async with OpenRouter(fake.token, base_url=fake.base_url, middlewares=[gate]) as client:
            login = make_login(client, keys)
            await login.aclose()
            code = fake.consent((await login.start(ADA)).url)
            handler = asyncio.create_task(login.finish_code(ADA, code))
            await gate.reached.wait()
            handler.cancel()
            with pytest.raises(asyncio.CancelledError):
                await handler
            gate.let()
            await login.aclose()
    assert keys.logins == [(ADA, issued.key) for issued in fake.issued_keys]
    assert len(keys.logins) == 2


async def test_bot_on_login_gets_a_key_that_the_clients_on_key_refused(fake: FakeOpenRouter, keys: Keys) -> None:
    async def refuse(*_: object) -> None:
        raise OSError("disk full")

    async with OpenRouter(fake.token, base_url=fake.base_url, on_key=refuse) as client:
        login = make_login(client, keys)
        code = fake.consent((await login.start(ADA)).url)
        grants = [await login.finish_code(ADA, code) for _ in range(2)]
    assert grants[0].key == grants[1].key == fake.issued_keys[0].key
    assert keys.logins == [(ADA, grants[0].key)]


async def test_finish_code_is_shielded_by_one_task(fake: FakeOpenRouter, keys: Keys) -> None:
    gate = Gate()
    async with OpenRouter(None, base_url=fake.base_url, middlewares=[gate]) as client:
        login = make_login(client, keys)
        finishing = asyncio.create_task(login.finish_code(ADA, fake.consent((await login.start(ADA)).url)))
        await gate.reached.wait()
        shields = [task.get_coro() for task in asyncio.all_tasks() if task in _SHIELDED]
        gate.let()
        await finishing

    assert [getattr(shield, "__qualname__", None) for shield in shields] == ["_finish_and_log"]


async def test_finish_code_with_a_store_failing_midway_loses_no_key(
    once: OpenRouter, fake: FakeOpenRouter, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    store = Broken()
    login = make_login(once, keys, flow={"store": store})
    code = fake.consent((await login.start(ADA)).url)
    store.broken = {"set", "delete"}
    grant = await login.finish_code(ADA, code)
    assert keys.logins == [(ADA, grant.key)]
    with pytest.raises(LoginAlreadyUsedError):
        await login.finish_code(ADA, "auth_code_another")
    assert [record.getMessage() for record in caplog.records if "stored" in record.getMessage()] == [
        "the end of a login could not be stored: the store is broken"
    ] * 2

    store.broken = {"get"}
    for call in (login.start(ADA), login.is_pending(ADA), login.finish_code(ADA, code)):
        with pytest.raises(LoginStoreError) as caught:
            await call
        assert not caught.value.restart_login


# A web app at the other end.


@pytest.fixture
def web(once: OpenRouter, keys: Keys) -> BotLogin:
    return make_login(once, keys, headless=False)


async def test_web_callback_of_a_known_user_finishes_and_notifies_the_chat(
    web: BotLogin, fake: FakeOpenRouter, keys: Keys
) -> None:
    prompt = await web.start(ADA)
    assert not prompt.headless
    callback = fake.consent(prompt.url)
    with pytest.raises(LoginBindingError):
        await web.finish(callback, user_id=BEN)
    grant = await web.finish(callback, user_id=ADA)
    assert keys.logins == [(ADA, grant.key)]
    assert keys.notified == [ADA]
    assert not await web.is_pending(ADA)


async def test_notify_that_fails_loses_nothing(
    web: BotLogin, fake: FakeOpenRouter, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    callback = fake.consent((await web.start(ADA)).url)
    await web.finish_code(ADA, callback)
    keys.failure = OSError("unreachable")
    await web.finish(callback, user_id=ADA)
    assert "a user could not be notified: OSError" in caplog.text


async def test_web_callback_without_notify_finishes(once: OpenRouter, fake: FakeOpenRouter, keys: Keys) -> None:
    login = BotLogin(AuthorizationFlow(once, callback_url=CALLBACK), on_login=keys.put, headless=False)
    grant = await login.finish(fake.consent((await login.start(ADA)).url), user_id=ADA)
    assert keys.logins == [(ADA, grant.key)]


async def test_ticket_finishes_the_login_of_its_own_user_only(web: BotLogin, fake: FakeOpenRouter, keys: Keys) -> None:
    # Ben sends his own URL to Ada, who consents; the ticket comes to Ada.
    ticket = await web.park_callback(fake.consent((await web.start(BEN)).url))
    await web.start(ADA)
    with pytest.raises(LoginBindingError):
        await web.finish_code(ADA, ticket)
    assert await web.is_pending(ADA)
    assert keys.logins == []
    assert fake.requests == ()

    ticket = await web.park_callback(URL(fake.consent((await web.start(ADA)).url)))
    assert len(ticket) <= 64, "the most that a link to a Telegram bot may carry"
    assert await web.expects(ADA, ticket)
    grants = [await web.finish_code(ADA, ticket) for _ in range(2)]
    assert {grant.key for grant in grants} == {fake.issued_keys[0].key}
    assert keys.logins == [(ADA, grants[0].key)]


async def test_ticket_outlives_the_record_of_the_login(once: OpenRouter, fake: FakeOpenRouter, keys: Keys) -> None:
    store = MemoryStore()
    web = make_login(once, keys, headless=False, flow={"store": store})
    ticket = await web.park_callback(fake.consent((await web.start(ADA)).url))
    await store.delete(f"user-{ADA}")
    grant = await web.finish_code(ADA, ticket)
    assert keys.logins == [(ADA, grant.key)]


async def test_finish_code_with_an_unknown_ticket_keeps_the_login(
    once: OpenRouter, fake: FakeOpenRouter, keys: Keys
) -> None:
    time = WallClock()
    web = make_login(once, keys, time=time, headless=False)
    late = await web.park_callback(fake.consent((await web.start(BEN)).url))
    time.now += 600
    prompt = await web.start(ADA)
    for ticket in (late, "ticket-" + "A" * 32):
        with pytest.raises(UnknownTicketError) as caught:
            await web.finish_code(ADA, ticket)
        assert not caught.value.restart_login
        assert "no longer valid" in caught.value.user_message
    assert fake.requests == ()
    assert await web.is_pending(ADA)
    assert (await web.finish_code(ADA, await web.park_callback(fake.consent(prompt.url)))).key


async def test_finish_code_with_a_foreign_denial_keeps_the_login(
    web: BotLogin, fake: FakeOpenRouter, keys: Keys
) -> None:
    prompt = await web.start(ADA)
    foreign = [fake.deny((await web.start(BEN)).url), "?error=access_denied"]
    for callback in foreign:
        with pytest.raises(OpenRouterError):
            await web.finish_code(ADA, await web.park_callback(callback))
        assert await web.is_pending(ADA)
    assert (await web.finish_code(ADA, await web.park_callback(fake.consent(prompt.url)))).key


async def test_park_callback_beyond_its_bound_drops_the_oldest_ticket_and_no_login(
    once: OpenRouter, fake: FakeOpenRouter, keys: Keys
) -> None:
    store = MemoryStore(max_logins=MAX_TICKETS + 1)
    web = make_login(once, keys, headless=False, flow={"store": store})
    callback = fake.consent((await web.start(ADA)).url)
    oldest = await web.park_callback(callback)
    tickets = [await web.park_callback(f"?error=server_error&n={number}") for number in range(MAX_TICKETS)]
    assert len(store._values) == MAX_TICKETS + 1
    assert await web.is_pending(ADA)
    with pytest.raises(UnknownTicketError):
        await web.finish_code(ADA, oldest)
    with pytest.raises(AuthorizationError):
        await web.finish_code(ADA, tickets[0])
    assert (await web.finish_code(ADA, await web.park_callback(callback))).key


@pytest.mark.parametrize(
    "text",
    [
        "sk-or-v1-" + "5a" * 32,
        "code=sk-or-v1-" + "5a" * 32,
        "https://evil.example/callback?code=auth_code_x",
        "evil.example/callback?code=auth_code_x",
        "https://bot.example.evil.example/callback?code=auth_code_x",
        "https://bot.example@evil.example/callback?code=auth_code_x",
    ],
)
async def test_finish_code_sends_neither_keys_nor_codes_of_other_sites(
    login: BotLogin, fake: FakeOpenRouter, text: str
) -> None:
    prompt = await login.start(ADA)
    assert not await login.expects(ADA, text) or text.startswith("code=")
    with pytest.raises(InvalidCallbackError) as caught:
        await login.finish_code(ADA, text)
    assert text not in str(caught.value)
    assert fake.requests == ()
    assert (await login.finish_code(ADA, fake.consent(prompt.url))).key


async def test_bot_hooks_may_be_sync(once: OpenRouter, fake: FakeOpenRouter) -> None:
    seen: list[Any] = []
    flow = AuthorizationFlow(once, callback_url=CALLBACK)
    async with BotLogin(
        flow,
        on_login=lambda user_id, grant: seen.append(("login", user_id, grant.key)),
        on_logout=lambda user_id: seen.append(("logout", user_id)),
        notify=lambda user_id, grant: seen.append(("notify", user_id, grant.key)),
        headless=False,
    ) as login:
        grant = await login.finish(fake.consent((await login.start(ADA)).url), user_id=ADA)
        await login.logout(ADA)
    assert seen == [("login", ADA, grant.key), ("notify", ADA, grant.key), ("logout", ADA)]


async def test_bot_clock_defaults_to_that_of_its_flow(once: OpenRouter, keys: Keys) -> None:
    time = WallClock()
    login = BotLogin(AuthorizationFlow(once, clock=time.clock), on_login=keys.put)
    await login.start(ADA)
    assert await login.is_pending(ADA)
    time.now += 600
    assert not await login.is_pending(ADA)


async def test_ticket_of_a_denial_reports_the_denial(web: BotLogin, fake: FakeOpenRouter) -> None:
    ticket = await web.park_callback(fake.deny((await web.start(ADA)).url))
    with pytest.raises(AuthorizationDeniedError):
        await web.finish_code(ADA, ticket)
    assert not await web.is_pending(ADA)


@pytest.mark.parametrize("callback", [7, None, {"code": "c"}, "c" * 4097])
async def test_park_callback_refuses_text_that_is_not_a_callback(web: BotLogin, callback: Any) -> None:
    with pytest.raises(InvalidCallbackError):
        await web.park_callback(callback)


@pytest.mark.parametrize("callback", ["\ud800", "?code=c", "?x=1", "?code=c&state=short", "?code=c&error=e"])
async def test_park_callback_validates_before_storing(once: OpenRouter, keys: Keys, callback: str) -> None:
    store = MemoryStore()
    with pytest.raises((InvalidCallbackError, StateMismatchError)):
        await make_login(once, keys, flow={"store": store}).park_callback(callback)
    assert not store._values


# Refused arguments, and reprs.


@pytest.mark.parametrize("user_id", [None, True, 1.5, "", "a\nb", "\ud800", "a" * 257, b"7"])
async def test_bot_login_refuses_an_invalid_user(login: BotLogin, user_id: Any) -> None:
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: login.start(user_id),
        lambda: login.is_pending(user_id),
        lambda: login.expects(user_id, "hello"),
        lambda: login.finish_code(user_id, "code"),
        lambda: login.finish("?code=c", user_id=user_id),
        lambda: login.logout(user_id),
    ]
    for call in calls:
        with pytest.raises(RequestValidationError, match=r"^user_id: must be an int, or a string of 1 to 256"):
            await call()


@pytest.mark.parametrize("hooks", [{"on_login": None}, {"on_login": 7}, {"on_logout": 7}, {"notify": "x"}])
async def test_bot_login_refuses_a_hook_that_is_not_callable(
    once: OpenRouter, keys: Keys, hooks: dict[str, Any]
) -> None:
    with pytest.raises(RequestValidationError, match=r"^\w+: must be callable with \(user_id") as caught:
        BotLogin(AuthorizationFlow(once), **{"on_login": keys.put} | hooks)
    assert [caught.value.field] == list(hooks)


async def test_bot_login_refuses_a_cookie_store(once: OpenRouter, keys: Keys) -> None:
    with pytest.raises(RequestValidationError, match=r"^flow: must have a LeaseStore, such as a RedisStore"):
        make_login(once, keys, flow={"store": CookieStore(generate_encryption_key())})


async def test_bot_login_shows_no_secret_in_repr_traceback_or_log(
    login: BotLogin, fake: FakeOpenRouter, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    prompt = await login.start(ADA)
    entry = await login._logins.find(f"user-{ADA}")
    assert entry is not None
    code = fake.consent(prompt.url)
    shown = [repr(prompt), repr(entry), repr(login)]
    keys.failure = OSError("disk full")
    with pytest.raises(KeyDeliveryError) as send_state:
        await login.finish_code(ADA, code)
    keys.failure = None
    grant = await login.finish_code(ADA, code)
    with pytest.raises(OpenRouterError) as refused:
        await login.finish_code(ADA, "auth_code_another")
    for caught in (send_state, refused):
        report = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
        # The frames of this test hold all of them.
        shown += [str(caught.value), repr(caught.value)]
        shown += [str(frame.locals) for frame in report.stack if "openrouter_async" in frame.filename]
    text = "\n".join([*shown, caplog.text, *(str(record.args) for record in caplog.records)])
    assert "BotLogin" in text
    for secret in (code, "auth_code_another", entry.state, prompt.url, grant.key):
        assert secret not in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auth_code_" + "x" * 32, True),
        (" auth_code_" + "x" * 32 + "\n", True),
        ("a" * 24, True),
        ("6f1c0f1e-8a35-4b7e", True),
        ("code=abc", True),
        ("?code=abc", True),
        ("https://app.example/callback?code=abc&state=s", True),
        ("https://app.example/callback?error=access_denied", True),
        ("ticket-" + "x" * 32, True),
        ("congratulations!", False),
        ("hello", False),
        ("what is 1234567890123456?", False),
        ("https://example.com/an-article-of-2027?page=1", False),
        ("the code=abc", False),
        ("приветприветприветпривет", False),
        ("/my_subscription_of_2027", False),
        ("someone_1234@mail.example", False),
        ("@somebody_with_a_name_1", False),
        ("#a_tag_with_many_letters_1", False),
        ("https://shop.example/order_1234567890", False),
        ("shop.example/order_1234567890", False),
        ("1234567890123456", False),
        ("sk-or-v1-" + "5a" * 32, False),
        ("SK-proj-" + "5a" * 32, False),
        ("a" * 1025, False),
        ("", False),
    ],
)
def test_find_code_tells_a_code_from_other_messages(text: str, expected: bool) -> None:
    assert looks_like_code(text) is expected


async def test_qr_code_encodes_the_url(login: BotLogin) -> None:
    prompt = await login.start(ADA)
    png, svg = await prompt.qr_code(), await prompt.qr_code("svg", scale=2)
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert b"<svg" in svg
    assert read_qr_code(png) == prompt.url


def test_qr_code_without_its_extra_names_the_extra() -> None:
    message = import_error_without(
        "segno",
        "import asyncio, datetime",
        "from openrouter_async.integrations.bots import LoginPrompt",
        "asyncio.run(LoginPrompt(url='u', expires_at=datetime.datetime.now(), headless=True).qr_code())",
    )
    assert message.endswith("pip install 'openrouter-async[bots]'")


# Restarts, several processes, and the stores of values.


@pytest.fixture
async def database(valkey_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(valkey_url) as connection:
        await connection.flushall()
        yield connection


async def test_bot_login_with_redis_is_finished_by_another_process(
    fake: FakeOpenRouter, keys: Keys, database: Redis
) -> None:
    secret = generate_encryption_key()

    async def process(work: Callable[[BotLogin], Awaitable[Any]]) -> Any:
        async with OpenRouter(fake.token, base_url=fake.base_url) as client:
            flow = AuthorizationFlow(client, store=RedisStore(database, encryption_keys=secret))
            return await work(BotLogin(flow, on_login=keys.put))

    prompt: LoginPrompt = await process(lambda login: login.start(ADA))
    assert await process(lambda login: login.start(ADA)) == prompt
    code = fake.consent(prompt.url)
    first, second = await asyncio.gather(*(process(lambda login: login.finish_code(ADA, code)) for _ in range(2)))
    assert first.key == second.key
    assert set(keys.logins) == {(ADA, first.key)}
    assert len(fake.requests) == 1
    for name in await database.keys():
        if await database.type(name) == b"string":
            assert first.key.encode() not in (await database.get(name) or b"")


@pytest.mark.parametrize("restarted", ["the login", "the user"])
async def test_finish_code_after_partial_loss_of_state_asks_to_start_again(
    once: OpenRouter, fake: FakeOpenRouter, keys: Keys, restarted: str
) -> None:
    store = MemoryStore()
    login = make_login(once, keys, flow={"store": store})
    code = fake.consent((await login.start(ADA)).url)
    if restarted == "the login":
        store._pending.clear()
    else:
        await store.delete(f"user-{ADA}")
    with pytest.raises(UnknownLoginError):
        await login.finish_code(ADA, code)
    assert (await login.finish_code(ADA, fake.consent((await login.start(ADA)).url))).key


@pytest.mark.parametrize("value", [b"", b"{}", b"[]", b'{"state": 1}', b"\xff", b"[" * 200_000])
async def test_bot_login_malformed_stored_value_is_a_library_error(once: OpenRouter, keys: Keys, value: bytes) -> None:
    store = MemoryStore()
    await store.set(f"user-{ADA}", value, now=NOW, until=NOW + 60)
    with pytest.raises(LoginStoreError, match="the stored value is not a login"):
        await make_login(once, keys, flow={"store": store}).start(ADA)
