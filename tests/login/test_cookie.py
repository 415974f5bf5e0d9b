from __future__ import annotations

import contextlib
import subprocess
import sys
from http.cookies import SimpleCookie
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from openrouter_async import OpenRouter
from openrouter_async._values.encryptor import DecryptionError, Encryptor
from openrouter_async.encryption import generate_encryption_key
from openrouter_async.errors import RequestValidationError
from openrouter_async.login import (
    AuthorizationFlow,
    CookieStore,
    InvalidCookieError,
    LoginCookie,
    LoginExpiredError,
    MemoryStore,
    RedisStore,
    UnknownLoginError,
)
from openrouter_async.login.stores import ClaimRequest, ClaimStatus, LeaseItem
from tests.kit.clocks import WallClock
from tests.kit.servers import ScriptedServer
from tests.login.support import (
    CALLBACK,
    GRANTED,
    NOW,
    RESULT,
    back,
    jar,
    make_claim_request,
    make_login,
    make_record,
    verifier_of,
)
from tests.support import import_error_without

OLD, NEW = generate_encryption_key(), generate_encryption_key()


async def make_cookie(store: CookieStore, login: LeaseItem) -> LoginCookie:
    cookie = await store.put(login, now=NOW)
    assert cookie is not None
    return cookie


def with_value(claim_request: ClaimRequest, cookie: LoginCookie, value: str) -> ClaimRequest:
    return attrs.evolve(claim_request, cookies={cookie.name: value})


async def test_cookie_is_host_only_secure_and_httponly() -> None:
    cookie = await make_cookie(CookieStore(NEW), make_login())

    assert cookie.name.startswith("__Host-openrouter-login-")
    morsel = SimpleCookie(cookie.header)[cookie.name]
    assert morsel.value == cookie.value
    assert (morsel["path"], morsel["secure"], morsel["httponly"], morsel["samesite"], morsel["max-age"]) == (
        "/",
        True,
        True,
        "Lax",
        "600",
    )
    assert morsel["domain"] == ""


async def test_cookie_over_plain_http_has_no_host_prefix() -> None:
    cookie = await make_cookie(CookieStore(NEW, secure=False), make_login())

    assert cookie.name.startswith("openrouter-login-")
    assert "Secure" not in cookie.header


async def test_cookie_is_named_by_its_login() -> None:
    login, store = make_login(), CookieStore(NEW)
    assert (await make_cookie(store, login)).name == f"__Host-openrouter-login-{login.id[:16]}"
    assert repr(store) == "<CookieStore __Host-openrouter-login-*>"


@pytest.mark.parametrize("name", ["app", "my-app", "my_app", "my-2nd_app"])
async def test_cookie_store_name_may_have_dashes_and_claims_go_to_the_ledger(name: str) -> None:
    login, ledger = make_login(), MemoryStore()
    store = CookieStore(NEW, ledger=ledger, name=name)
    cookie = await make_cookie(store, login)
    assert cookie.name.startswith(f"__Host-{name}-")
    assert len(ledger) == 0
    await store.claim(make_claim_request(login, cookie), now=NOW, claim_ttl=15)
    assert len(ledger) == 1
    with pytest.raises(RequestValidationError) as caught:
        CookieStore(NEW, name=f"{name};")
    assert str(caught.value) == "name: must consist of letters, digits, - and _"


@pytest.mark.parametrize("value", ["", "altered", "\udcff", "ü" * 10, "x" * 100_000])
async def test_is_login_cookie_of_a_foreign_cookie_is_false(value: str) -> None:
    login, store = make_login(), CookieStore(NEW)
    cookie = await make_cookie(store, login)
    with pytest.raises(InvalidCookieError) as caught:
        await store.claim(with_value(make_claim_request(login), cookie, value), now=NOW, claim_ttl=15)
    assert str(caught.value) == ("the login's cookie was altered, cut off, or encrypted with a key that is not in use")


async def test_cookies_of_two_tabs_differ() -> None:
    store = CookieStore(NEW)
    first, second = make_login(), make_login()
    cookies = {
        cookie.name: cookie.value for cookie in [await make_cookie(store, first), await make_cookie(store, second)]
    }

    assert len(cookies) == 2
    for login in (first, second):
        claim = await store.claim(attrs.evolve(make_claim_request(login), cookies=cookies), now=NOW, claim_ttl=15)
        assert claim.value == login.value


async def test_cookie_holds_the_largest_login() -> None:
    login = attrs.evolve(
        make_login(),
        value=attrs.evolve(make_record(), context="x" * 1022, return_to="/" + "y" * 511).to_json(),
    )

    cookie = await make_cookie(CookieStore(NEW), login)

    assert len(cookie.header) < 4096


async def test_cookie_store_login_too_large_for_a_cookie_is_refused() -> None:
    with pytest.raises(RequestValidationError, match="context: must be smaller"):
        await CookieStore(NEW).put(attrs.evolve(make_login(), value=b"x" * 3000), now=NOW)


async def test_cookie_store_accepts_an_older_key_and_refuses_a_removed_one() -> None:
    login = make_login()
    cookie = await make_cookie(CookieStore(OLD), login)
    claim_request = make_claim_request(login, cookie)

    assert (await CookieStore([NEW, OLD]).claim(claim_request, now=NOW, claim_ttl=15)).value == login.value
    with pytest.raises(InvalidCookieError):
        await CookieStore(NEW).claim(claim_request, now=NOW, claim_ttl=15)


async def test_cookie_store_after_a_rotation_encrypts_with_the_new_key() -> None:
    login = make_login()
    cookie = await make_cookie(CookieStore([NEW, OLD]), login)

    assert (await CookieStore(NEW).claim(make_claim_request(login, cookie), now=NOW, claim_ttl=15)).value == login.value


async def test_cookie_altered_or_cut_is_refused() -> None:
    store = CookieStore(NEW)
    login = make_login()
    cookie = await make_cookie(store, login)
    claim_request = make_claim_request(login, cookie)
    value = cookie.value
    forgeries = [
        *(value[:length] for length in range(0, len(value), 7)),
        *(value[:at] + ("A" if value[at] != "A" else "B") + value[at + 1 :] for at in range(0, len(value) - 1, 5)),
        value + "AAAA",
        value[::-1],
        value.swapcase(),
        "é" * 10,
        "x" * 1_000_000,
    ]

    for forgery in forgeries:
        with pytest.raises(InvalidCookieError) as caught:
            await store.claim(with_value(claim_request, cookie, forgery), now=NOW, claim_ttl=15)
        assert verifier_of(login) not in str(caught.value)
    assert (await store.claim(claim_request, now=NOW, claim_ttl=15)).status is ClaimStatus.CLAIMED


async def test_cookie_of_another_login_is_refused() -> None:
    store = CookieStore(NEW)
    mine, other = make_login(), make_login()
    my_cookie, other_cookie = await make_cookie(store, mine), await make_cookie(store, other)

    with pytest.raises(InvalidCookieError):
        await store.claim(with_value(make_claim_request(mine), my_cookie, other_cookie.value), now=NOW, claim_ttl=15)


async def test_cookie_missing_is_unknown_even_while_the_login_is_finished() -> None:
    store = CookieStore(NEW)
    login = make_login()
    claim_request = make_claim_request(login, await make_cookie(store, login))
    await store.claim(claim_request, now=NOW, claim_ttl=15)
    await store.finish(claim_request, RESULT, now=NOW, result_ttl=60)

    claim = await store.claim(make_claim_request(login), now=NOW, claim_ttl=15)

    assert claim.status is ClaimStatus.UNKNOWN
    assert claim.value == b""


async def test_cookie_header_absent_is_unknown_login() -> None:
    async with OpenRouter(None) as client:
        flow = AuthorizationFlow(client, callback_url=CALLBACK, store=CookieStore(generate_encryption_key()))
        pending = await flow.start()
        with pytest.raises(UnknownLoginError):
            await flow.finish(back(pending))


async def test_cookie_replayed_does_not_restart_a_consumed_login() -> None:
    store = CookieStore(NEW)
    login = make_login()
    claim_request = make_claim_request(login, await make_cookie(store, login))
    await store.claim(claim_request, now=NOW, claim_ttl=15)
    await store.finish(claim_request, None, now=NOW, result_ttl=60)

    assert (await store.claim(claim_request, now=NOW, claim_ttl=15)).status is ClaimStatus.CONSUMED


@pytest.mark.parametrize("age", [600, 659, 660, 100_000])
async def test_cookie_expired_is_told_from_an_unknown_one(age: int, valkey_url: str) -> None:
    login = make_login()
    async with Redis.from_url(valkey_url) as connection:
        for ledger in (MemoryStore(), RedisStore(connection)):
            store = CookieStore(NEW, ledger=ledger)
            claim_request = make_claim_request(login, await make_cookie(store, login))
            # A login that the ledger still remembers is returned, so that the flow can say that it has expired.
            with contextlib.suppress(LoginExpiredError):
                claim = await store.claim(claim_request, now=NOW + age, claim_ttl=15)
                assert claim.value == login.value


async def test_flow_with_an_expired_cookie_says_so() -> None:
    time = WallClock()
    async with OpenRouter(None) as client:
        flow = AuthorizationFlow(client, callback_url=CALLBACK, store=CookieStore(NEW), clock=time.clock)
        pending = await flow.start()
        assert pending.cookie is not None
        for age in (600, 100_000):
            time.now = NOW + age
            with pytest.raises(LoginExpiredError) as caught:
                await flow.finish(
                    f"/callback/{pending.state}?code=c", cookies={pending.cookie.name: pending.cookie.value}
                )
            assert str(caught.value) == "the login took longer than its lifetime"


async def test_cookie_holder_without_a_binding_gets_the_same_grant_again() -> None:
    async with ScriptedServer(GRANTED) as server, OpenRouter(None, base_url=server.base_url) as client:
        flow = AuthorizationFlow(client, callback_url=CALLBACK, store=CookieStore(NEW))
        pending = await flow.start()
        first = await flow.finish(back(pending), cookies=jar(pending.cookie))
        assert first.cookie is not None
        assert first.cookie.max_age == 60
        again = await flow.finish(back(pending), cookies=jar(first.cookie))
        with pytest.raises(UnknownLoginError):
            await flow.finish(back(pending))

    assert again.key == first.key
    assert again.cookie is None
    assert len(server.requests) == 1


async def test_cookie_lives_as_long_as_the_result() -> None:
    store = CookieStore(NEW)
    login = make_login()
    cookie = await make_cookie(store, login)
    claim_request = make_claim_request(login, cookie)
    await store.claim(claim_request, now=NOW, claim_ttl=15)

    kept = await store.finish(claim_request, RESULT, now=NOW, result_ttl=60)
    refused = await store.finish(claim_request, None, now=NOW, result_ttl=60)

    assert kept == attrs.evolve(cookie, max_age=60)
    assert refused == attrs.evolve(cookie, value="", max_age=0)


@given(st.binary(max_size=300), st.text("abc:", max_size=8), st.text("abc:", max_size=8))
def test_encrypted_value_is_decrypted_in_its_own_context_only(data: bytes, context: str, other: str) -> None:
    encryptor = Encryptor(NEW)
    sealed = encryptor.encrypt(context, data)

    assert encryptor.decrypt(context, sealed) == data
    if context != other:
        with pytest.raises(DecryptionError):
            encryptor.decrypt(other, sealed)


@given(st.binary(max_size=400))
def test_decrypt_refuses_foreign_data(sealed: bytes) -> None:
    with pytest.raises(DecryptionError):
        Encryptor(NEW).decrypt("login", sealed)


@pytest.mark.parametrize("foreign", [b"\0\0\0\0", b"\n\n\n\n", b"    ", b"++++", b"////", b"===="])
def test_decrypt_refuses_characters_outside_of_base64url(foreign: bytes) -> None:
    encryptor = Encryptor(NEW)
    sealed = encryptor.encrypt("login", b"data")
    for position in (0, 10, len(sealed)):
        with pytest.raises(DecryptionError):
            encryptor.decrypt("login", sealed[:position] + foreign + sealed[position:])


@pytest.mark.parametrize("keys", ["", "short", [], ["short"], b"\xff" * 44, [7], "é" * 44])
def test_encryption_keys_invalid_are_refused_and_not_repeated(keys: Any) -> None:
    with pytest.raises(RequestValidationError, match="keys") as caught:
        CookieStore(keys)

    assert "short" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "a b", "a;b", "a=b", "ü", "a\r\nb"])
def test_cookie_store_name_that_breaks_the_header_is_refused(name: str) -> None:
    with pytest.raises(RequestValidationError, match="name"):
        CookieStore(NEW, name=name)


@pytest.mark.parametrize(
    ("module", "call", "extra"),
    [
        ("cryptography", "login.CookieStore('k')", "cookie"),
        ("cryptography", "login.RedisStore.from_url('redis://localhost', encryption_keys='k')", "redis"),
        ("cryptography", "encryption.generate_encryption_key()", "cookie"),
        ("redis", "login.RedisStore.from_url('redis://localhost')", "redis"),
    ],
)
def test_store_without_its_extra_names_the_extra(module: str, call: str, extra: str) -> None:
    message = import_error_without(module, "from openrouter_async import encryption, login", call)
    assert message.endswith(f"pip install 'openrouter-async[{extra}]'")


def test_login_import_loads_no_extra() -> None:
    program = (
        "import sys, openrouter_async.login\nprint([name for name in ('cryptography', 'redis') if name in sys.modules])"
    )

    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert shown == "[]\n"
