"""Attacks on logins. None succeeds, and the victim's own login stays usable.

Each attack is tried with every store. It meets an error that says what is wrong, without a secret; nothing is sent to
OpenRouter, unless it is for OpenRouter to refuse; and afterwards the victim signs in as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeAlias

import attrs
import pytest
from multidict import MultiDict
from yarl import URL

from openrouter_async import OpenRouter
from openrouter_async.encryption import generate_encryption_key
from openrouter_async.errors import APIError, OpenRouterError, Outcome, RequestValidationError
from openrouter_async.login import (
    AuthorizationFlow,
    CookieStore,
    InvalidCallbackError,
    InvalidCookieError,
    LoginAlreadyUsedError,
    LoginBindingError,
    LoginExpiredError,
    PendingLogin,
    StateMismatchError,
    UnknownLoginError,
)
from openrouter_async.login.stores import LoginStore
from openrouter_async.testing import FakeOpenRouter
from tests.kit.clocks import WallClock
from tests.kit.servers import ScriptedServer
from tests.login.support import CALLBACK, GRANTED, KEY, back, jar

pytestmark = pytest.mark.unmeasured

VICTIM, ATTACKER = "the-victims-browser", "the-attackers-browser"
CODE, STOLEN = "the-code-of-the-victim", "a-code-of-the-attacker"


@attrs.frozen(kw_only=True)
class Scene:
    """A victim in the middle of a login, and an attacker with one of their own."""

    flow: AuthorizationFlow
    store: LoginStore
    server: ScriptedServer
    time: WallClock
    victim: PendingLogin
    attacker: PendingLogin

    @property
    def callback(self) -> str:
        """Return the callback of the victim's browser."""
        return back(self.victim, code=CODE)

    async def finish(self, callback: Any, *, binding: str = VICTIM, cookies: Mapping[str, str] | None = None) -> str:
        """Return the answer to a callback, by default from the victim's browser with all its cookies."""
        if cookies is None:
            cookies = jar(self.victim.cookie if binding == VICTIM else self.attacker.cookie)
        return (await self.flow.finish(callback, binding=binding, cookies=cookies)).key


@pytest.fixture
async def scene(store: LoginStore) -> AsyncIterator[Scene]:
    time = WallClock()
    async with ScriptedServer(GRANTED) as server, OpenRouter(None, base_url=server.base_url) as client:
        flow = AuthorizationFlow(client, callback_url=CALLBACK, store=store, clock=time.clock, result_lifetime=0)
        yield Scene(
            flow=flow,
            store=store,
            server=server,
            time=time,
            victim=await flow.start(binding=VICTIM, return_to="/settings", context={"next": "/ok"}),
            attacker=await flow.start(binding=ATTACKER),
        )


def assert_clear(error: OpenRouterError, scene: Scene) -> None:
    """The error helps the user, and gives nothing away."""
    assert error.outcome is Outcome.NOT_SENT
    assert error.restart_login
    assert "sign in again" in error.user_message
    shown = f"{error!r} {error} {error.user_message}"
    for secret in (CODE, STOLEN, scene.victim.state, scene.attacker.state):
        assert secret not in shown


# With a callback.

Attack: TypeAlias = Callable[[Scene], Any]
Errors: TypeAlias = type[OpenRouterError] | tuple[type[OpenRouterError], ...]

FOREIGN = (LoginBindingError, UnknownLoginError)
"""It belongs to another browser; where the login is in a cookie, that browser does not even know it."""

BROUGHT_BY_THE_VICTIM: dict[str, tuple[Attack, Errors, str]] = {
    "a forged state": (lambda _: f"/callback/{'A' * 43}?code={STOLEN}", UnknownLoginError, "no such login"),
    "a forged state in the query": (
        lambda _: {"code": STOLEN, "state": "A" * 43},
        UnknownLoginError,
        "no such login",
    ),
    "a state that is none": (lambda _: f"/callback?code={STOLEN}&state=1%27%20OR%201", StateMismatchError, "not one"),
    "an empty state": (lambda _: f"/callback?code={STOLEN}&state=", StateMismatchError, "not one"),
    "a state that is cut off": (
        lambda it: f"/callback?code={STOLEN}&state={it.victim.state[:-1]}",
        StateMismatchError,
        "not one",
    ),
    "a state in another case": (
        lambda it: f"/callback?code={STOLEN}&state={it.victim.state.swapcase()}",
        UnknownLoginError,
        "no such login",
    ),
    "no state": (lambda _: f"/callback?code={STOLEN}", StateMismatchError, "has no state"),
    "no state in a mapping": (lambda _: {"code": STOLEN}, StateMismatchError, "has no state"),
    "login CSRF: the attacker's callback": (lambda it: back(it.attacker, code=STOLEN), FOREIGN, "login"),
    "the attacker's state in the victim's path": (
        lambda it: f"/callback/{it.victim.state}?code={STOLEN}&state={it.attacker.state}",
        StateMismatchError,
        "one state in its path and another one in its query",
    ),
    "the victim's state in the attacker's path": (
        lambda it: f"/callback/{it.attacker.state}?code={STOLEN}&state={it.victim.state}",
        StateMismatchError,
        "one state in its path and another one in its query",
    ),
    "the attacker's denial": (lambda it: f"/callback/{it.attacker.state}?error=access_denied", FOREIGN, "login"),
    "two codes": (lambda it: f"{it.callback}&code={STOLEN}", InvalidCallbackError, "code twice"),
    "the same code twice": (lambda it: f"{it.callback}&code={CODE}", InvalidCallbackError, "code twice"),
    "two states": (lambda it: f"{it.callback}&state={it.attacker.state}", InvalidCallbackError, "state twice"),
    "two codes, one encoded": (lambda it: f"{it.callback}&%63ode={STOLEN}", InvalidCallbackError, "code twice"),
    "two codes in a mapping": (
        lambda it: MultiDict([("code", CODE), ("code", STOLEN), ("state", it.victim.state)]),
        InvalidCallbackError,
        "code twice",
    ),
    "a code and an error": (
        lambda it: f"{it.callback}&error=access_denied",
        InvalidCallbackError,
        "either a code or an error",
    ),
    "neither a code nor an error": (
        lambda it: f"/callback/{it.victim.state}",
        InvalidCallbackError,
        "either a code or an error",
    ),
    "a query of a megabyte": (lambda it: f"{it.callback}&x={'x' * 1_000_000}", InvalidCallbackError, "8192"),
    "a code of a megabyte": (
        lambda it: {"code": "x" * 1_000_000, "state": it.victim.state},
        InvalidCallbackError,
        "8192",
    ),
    "very many parameters": (lambda it: f"{it.callback}{'&x=1' * 200}", InvalidCallbackError, "well-formed"),
    "a NUL in the code": (
        lambda it: f"/callback/{it.victim.state}?code=a%00b",
        InvalidCallbackError,
        "control characters in code",
    ),
    "a NUL in the state": (
        lambda it: f"/callback/?code={STOLEN}&state={it.victim.state}%00",
        InvalidCallbackError,
        "control characters in state",
    ),
    "a NUL as it is": (lambda it: f"{it.callback}\0", InvalidCallbackError, "control characters"),
    "CRLF in the code": (
        lambda it: f"/callback/{it.victim.state}?code=a%0d%0aAuthorization:%20x",
        InvalidCallbackError,
        "control characters in code",
    ),
    "CRLF in the error": (
        lambda it: f"/callback/{it.victim.state}?error=a%0d%0ab",
        InvalidCallbackError,
        "control characters in error",
    ),
    "CRLF as it is": (lambda it: f"{it.callback}\r\nX: y", InvalidCallbackError, "control characters"),
    "bytes that are no text": (
        lambda it: f"/callback/{it.victim.state}?code=%ff%fe",
        InvalidCallbackError,
        "well-formed",
    ),
    "what is no URL": (lambda it: f"https://[{it.callback}", InvalidCallbackError, "well-formed"),
}


@pytest.mark.parametrize("attack", BROUGHT_BY_THE_VICTIM)
async def test_finish_of_an_attackers_callback_in_the_victims_browser_is_refused(attack: str, scene: Scene) -> None:
    make, error, message = BROUGHT_BY_THE_VICTIM[attack]

    with pytest.raises(error, match=message) as caught:
        await scene.finish(make(scene))

    assert not scene.server.requests
    assert_clear(caught.value, scene)
    assert await scene.finish(scene.callback) == KEY
    assert scene.server.codes == [CODE]


BROUGHT_BY_THE_ATTACKER: dict[str, Attack] = {
    "the victim's callback, intercepted": lambda it: it.callback,
    "the victim's state with another code": lambda it: back(it.victim, code=STOLEN),
    "a denial in the victim's name": lambda it: f"/callback/{it.victim.state}?error=access_denied",
}


@pytest.mark.parametrize("attack", BROUGHT_BY_THE_ATTACKER)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_finish_by_an_attacker_of_the_victims_login_is_refused(attack: str, when: str, scene: Scene) -> None:
    if when == "after":
        assert await scene.finish(scene.callback) == KEY

    with pytest.raises(FOREIGN) as caught:
        await scene.finish(BROUGHT_BY_THE_ATTACKER[attack](scene), binding=ATTACKER)

    assert_clear(caught.value, scene)
    if when == "before":
        assert not scene.server.requests
        assert await scene.finish(scene.callback) == KEY
    assert scene.server.codes == [CODE]


async def test_finish_of_a_replayed_callback_is_refused(scene: Scene) -> None:
    assert await scene.finish(scene.callback) == KEY

    for callback in (scene.callback, back(scene.victim, code=STOLEN)):
        with pytest.raises(LoginAlreadyUsedError) as caught:
            await scene.finish(callback)
        assert_clear(caught.value, scene)

    assert scene.server.codes == [CODE]


@pytest.mark.parametrize("age", [600, 650])
async def test_finish_of_an_expired_login_is_refused(age: float, scene: Scene) -> None:
    scene.time.now += age

    with pytest.raises(LoginExpiredError, match="longer than its lifetime") as caught:
        await scene.finish(scene.callback)
    with pytest.raises(LoginAlreadyUsedError):
        await scene.finish(scene.callback)

    assert not scene.server.requests
    assert_clear(caught.value, scene)


async def test_finish_with_a_code_of_another_login_is_refused_by_openrouter(
    fake: FakeOpenRouter, store: LoginStore
) -> None:
    async with OpenRouter(None, base_url=fake.base_url) as client:
        flow = AuthorizationFlow(client, callback_url=CALLBACK, store=store)
        victim, attacker = await flow.start(binding=VICTIM), await flow.start(binding=ATTACKER)
        injected = URL(fake.consent(attacker.url)).query["code"]

        with pytest.raises(APIError) as caught:
            await flow.finish(back(victim, code=injected), binding=VICTIM, cookies=jar(victim.cookie))

    assert caught.value.is_code_rejected
    assert caught.value.restart_login
    assert caught.value.outcome is Outcome.REFUSED
    assert injected not in f"{caught.value!r} {caught.value} {caught.value.body}"
    assert not fake.issued_keys


# With the path that the user returns to.


async def test_finish_returns_to_the_own_site_whatever_the_callback_says(scene: Scene) -> None:
    callback = f"{scene.callback}&return_to=//evil.example&context=%7B%22next%22:%22https://evil.example%22%7D"

    grant = await scene.flow.finish(callback, binding=VICTIM, cookies=jar(scene.victim.cookie))

    assert grant.return_to == "/settings"
    assert grant.context == {"next": "/ok"}


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example",
        "//evil.example",
        "///evil.example",
        "/\\evil.example",
        "/%2Fevil.example",
        "/\t/evil.example",
        "/\r\nLocation: https://evil.example",
        "javascript:alert(1)",
        "",
    ],
)
async def test_start_that_would_return_to_another_site_is_refused(target: str, scene: Scene) -> None:
    with pytest.raises(RequestValidationError, match=r"^return_to: must be a path on this site"):
        await scene.flow.start(binding=VICTIM, return_to=target)


# With a cookie.

OLD, NEW = generate_encryption_key(), generate_encryption_key()

FORGED_COOKIES: dict[str, Callable[[str, str], str]] = {
    "altered at its start": lambda mine, _: ("A" if mine[0] != "A" else "B") + mine[1:],
    "altered in the middle": lambda mine, _: mine[:99] + ("A" if mine[99] != "A" else "B") + mine[100:],
    "altered at its end": lambda mine, _: mine[:-2] + ("A" if mine[-2] != "A" else "B") + mine[-1],
    "cut off": lambda mine, _: mine[:-10],
    "cut off in the middle": lambda mine, _: mine[: len(mine) // 2],
    "empty": lambda _, __: "",
    "doubled": lambda mine, _: mine * 2,
    "of another login": lambda _, other: other,
    "a megabyte": lambda _, __: "x" * 1_000_000,
    "no ASCII": lambda _, __: "\N{SNOWMAN}" * 40,
    "with a NUL": lambda mine, _: mine + "\0",
}


@pytest.mark.parametrize("store", ["cookie", "cookie over valkey"], indirect=True)
@pytest.mark.parametrize("forgery", FORGED_COOKIES)
async def test_finish_with_a_forged_cookie_is_refused(forgery: str, scene: Scene) -> None:
    mine, other = scene.victim.cookie, scene.attacker.cookie
    assert mine is not None
    assert other is not None
    forged = FORGED_COOKIES[forgery](mine.value, other.value)

    with pytest.raises(InvalidCookieError, match="altered, cut off, or encrypted with a key") as caught:
        await scene.finish(scene.callback, cookies={mine.name: forged})

    assert not scene.server.requests
    assert_clear(caught.value, scene)
    assert mine.value not in str(caught.value)
    assert await scene.finish(scene.callback) == KEY


@pytest.mark.parametrize("store", ["cookie", "cookie over valkey"], indirect=True)
async def test_finish_of_a_stolen_callback_without_the_cookie_is_refused(scene: Scene) -> None:
    for binding in (VICTIM, ATTACKER):
        with pytest.raises(UnknownLoginError) as caught:
            await scene.finish(scene.callback, binding=binding, cookies={})
        assert_clear(caught.value, scene)
    assert not scene.server.requests
    assert await scene.finish(scene.callback) == KEY
    with pytest.raises(UnknownLoginError):
        await scene.finish(scene.callback, cookies={})

    assert scene.server.codes == [CODE]


@pytest.mark.parametrize("store", ["cookie", "cookie over valkey"], indirect=True)
async def test_finish_of_a_stolen_cookie_in_another_browser_is_refused(scene: Scene) -> None:
    with pytest.raises(LoginBindingError) as caught:
        await scene.finish(scene.callback, binding=ATTACKER, cookies=jar(scene.victim.cookie, scene.attacker.cookie))

    assert not scene.server.requests
    assert_clear(caught.value, scene)
    assert await scene.finish(scene.callback) == KEY


@pytest.mark.parametrize("store", ["cookie", "cookie over valkey"], indirect=True)
async def test_finish_with_a_cookie_replayed_after_its_login_is_refused(scene: Scene) -> None:
    cookies = jar(scene.victim.cookie)
    assert await scene.finish(scene.callback, cookies=cookies) == KEY

    for callback in (scene.callback, back(scene.victim, code=STOLEN)):
        with pytest.raises(LoginAlreadyUsedError) as caught:
            await scene.finish(callback, cookies=cookies)
        assert_clear(caught.value, scene)

    assert scene.server.codes == [CODE]


async def test_finish_with_a_cookie_of_a_removed_key_is_refused() -> None:
    async with ScriptedServer(GRANTED) as server, OpenRouter(None, base_url=server.base_url) as client:
        before, during, after = (
            AuthorizationFlow(client, callback_url=CALLBACK, store=CookieStore(keys))
            for keys in ([OLD], [NEW, OLD], [NEW])
        )
        late, early = await before.start(), await before.start()

        assert (await during.finish(back(early, code=CODE), cookies=jar(early.cookie))).key == KEY
        with pytest.raises(InvalidCookieError, match="encrypted with a key that is not in use"):
            await after.finish(back(late, code=CODE), cookies=jar(late.cookie))

    assert len(server.requests) == 1
