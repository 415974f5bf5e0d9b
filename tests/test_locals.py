"""Errors whose frames must not hold a secret: the suite's taint plugin searches the local variables of each."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import aiohttp
import pytest

from openrouter_async import (
    ExchangeAuthCodeForAPIKeyRequest,
    ExchangeAuthCodeForAPIKeyResponse,
    OpenRouter,
    PKCEPair,
    RequestOptions,
    RetryPolicy,
    errors,
)
from openrouter_async.batch import Journal
from openrouter_async.encryption import generate_encryption_key
from openrouter_async.integrations.bots import BotLogin
from openrouter_async.login import AuthorizationFlow, CookieStore, LoginStoreError, MemoryStore, RedisStore
from openrouter_async.pkce import code_challenge
from tests.kit.servers import answering, json_answer
from tests.taint import describe_local, locals_of

ToSecret = Callable[[str], str]

SECRET = "a-secret-that-must-not-show"
KEY = "sk-or-v1-" + "5e" * 32

BAD_ARGUMENTS: Mapping[str, Callable[[], object]] = {
    "api_key": lambda: OpenRouter(f"{SECRET}\n"),
    "api_key of other options": lambda: OpenRouter(None).with_options(api_key=f"{SECRET}\n"),
    "api_key beside another mistake": lambda: OpenRouter(SECRET, timeout=-1),
    "proxy": lambda: OpenRouter(None, proxy=f"ftp://user:{SECRET}@proxy.example"),
    "base_url": lambda: OpenRouter(None, base_url=f"https://user:{SECRET}@openrouter.ai"),
    "headers": lambda: OpenRouter(None, headers={"Authorization": f"Bearer {SECRET}\n"}),
    "headers of a call": lambda: RequestOptions(headers={"Authorization": f"Bearer {SECRET}\n"}),
    "code": lambda: ExchangeAuthCodeForAPIKeyRequest(code=SECRET, code_challenge_method="s256"),
    "code that is none": lambda: ExchangeAuthCodeForAPIKeyRequest(code=f"{SECRET}\ud800"),
    "code_verifier": lambda: ExchangeAuthCodeForAPIKeyRequest(code="x", code_verifier=SECRET),
    "pair": lambda: PKCEPair(code_verifier=SECRET),
    "challenge": lambda: code_challenge(SECRET),
    "encryption keys of cookies": lambda: CookieStore(SECRET),
    "encryption keys of Redis": lambda: RedisStore.from_url("redis://localhost", encryption_keys=SECRET),
    "password of Redis": lambda: RedisStore.from_url(f"http://:{SECRET}@localhost"),
    "encryption keys of a journal": lambda: Journal("journal", encryption_keys=[SECRET]),
    "bare codes of a batch": lambda: OpenRouter(None).oauth.exchange_many([SECRET], concurrency=0),
}


@pytest.mark.parametrize("refused", BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_refused_argument_is_in_no_frame(refused: Callable[[], object], to_secret: ToSecret) -> None:
    to_secret(SECRET)
    with pytest.raises(errors.RequestValidationError) as caught:
        refused()
    assert SECRET not in "".join(captured_locals(caught.value))


@pytest.mark.parametrize("unknown", ["method", "code_verifer"])
async def test_unknown_keyword_leaves_code_in_no_frame(unknown: str, to_secret: ToSecret) -> None:
    async with OpenRouter(None) as client:
        with pytest.raises(TypeError, match=unknown):
            await client.oauth.exchange_auth_code_for_api_key(code=to_secret(SECRET), **{unknown: SECRET})  # type: ignore[call-overload]


def test_unknown_field_of_request_leaves_code_in_no_frame(to_secret: ToSecret) -> None:
    with pytest.raises(TypeError):
        ExchangeAuthCodeForAPIKeyRequest(code=to_secret(SECRET), verifier=SECRET)  # type: ignore[call-arg]


def captured_locals(error: BaseException) -> Iterator[str]:
    """Yield the local variables of all frames of an error but those of the tests."""
    return (f"{place}: {describe_local(value)}" for place, value in locals_of(error))


async def test_outer_timeout_of_create_leaves_bearer_in_no_frame(to_secret: ToSecret) -> None:
    async with answering(b"") as server, client_of(server.base_url, to_secret(SECRET)) as client:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.1):
                await client.oauth.create_auth_code(callback_url="https://app.example/callback")
        assert isinstance(caught.value.__cause__, asyncio.CancelledError)
        assert SECRET not in "".join(captured_locals(caught.value))


async def test_cancelled_exchange_leaves_code_in_no_frame(to_secret: ToSecret) -> None:
    async with answering(b"") as server, client_of(server.base_url) as client:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.1):
                await client.oauth.exchange_auth_code_for_api_key(code=to_secret(SECRET))
        await client.aclose(timeout=0)
        assert SECRET not in "".join(captured_locals(caught.value))


async def test_default_headers_of_a_borrowed_session_are_in_no_frame(to_secret: ToSecret) -> None:
    headers = {"Authorization": f"Bearer {to_secret(SECRET)}"}
    async with aiohttp.ClientSession(headers=headers) as session, answering(b"") as server:
        async with client_of(server.base_url, session=session) as client:
            with pytest.raises(errors.TransportError):
                await client.oauth.exchange_auth_code_for_api_key(code="x")
            with pytest.raises(errors.RequestValidationError):
                await client.oauth.create_auth_code(callback_url="https://app.example/callback")


BODY = b'{"key": "%s", "user_id": null}' % KEY.encode()


@pytest.mark.parametrize(
    "answer",
    [
        json_answer(200, BODY + b" " * 1_048_576),
        json_answer(200, BODY * 2),
        json_answer(200, BODY[:-1]),
        json_answer(200, gzip.compress(BODY)[:-9], "Content-Encoding: gzip"),
        json_answer(200, BODY[:-1] + b"\xff", "Content-Encoding: br"),
        json_answer(200, b'{"data": ' + BODY + b"}"),
        json_answer(200, b'["%s"]' % KEY.encode()),
        json_answer(302, BODY, "Location: /"),
        json_answer(502, BODY),
        json_answer(400, b'{"error": {"message": "no key %s"}}' % KEY.encode()),
        b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n" + BODY[:-1],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" + BODY,
        b"HTTP/1.1 200 OK\r\nX-Key: " + KEY.encode() + b"\0\r\n\r\n" + BODY,
        BODY,
    ],
)
async def test_odd_answer_with_a_key_leaves_it_in_no_frame(answer: bytes, to_secret: ToSecret) -> None:
    to_secret("5e" * 32)
    async with answering(answer) as server, client_of(server.base_url) as client:
        with pytest.raises(errors.OpenRouterError) as caught:
            await client.oauth.exchange_auth_code_for_api_key(code=to_secret(SECRET))
        assert KEY not in "".join(captured_locals(caught.value))


def client_of(base_url: str, api_key: str | None = None, **options: Any) -> OpenRouter:
    return OpenRouter(api_key, base_url=base_url, retry=RetryPolicy.none(), timeout=0.5, **options)


@pytest.mark.parametrize("variable", ["ALL_PROXY", "HTTP_PROXY"])
@pytest.mark.parametrize("scheme", ["http", "ftp"])
async def test_password_of_a_proxy_is_in_no_frame(
    monkeypatch: pytest.MonkeyPatch, to_secret: ToSecret, variable: str, scheme: str
) -> None:
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("REQUEST_METHOD", "")
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, f"{scheme}://user:{to_secret(SECRET)}@127.0.0.1:1")
    async with client_of("http://localhost:1/api/v1", trust_env=True) as client:
        with pytest.raises(errors.OpenRouterError) as caught:
            await client.oauth.exchange_auth_code_for_api_key(code="x")
        assert SECRET not in "".join(captured_locals(caught.value))


async def test_refusing_proxy_leaves_its_password_in_no_frame(to_secret: ToSecret) -> None:
    async with answering(json_answer(407, b"")) as server:
        proxy = server.base_url.replace("://", f"://user:{to_secret(SECRET)}@").removesuffix("/api/v1")
        async with client_of("http://localhost:1/api/v1", proxy=proxy) as client:
            with pytest.raises(errors.OpenRouterError):
                await client.oauth.exchange_auth_code_for_api_key(code="x")
        async with client_of("https://openrouter.ai/api/v1", proxy=proxy) as client:
            with pytest.raises(errors.OpenRouterError):
                await client.oauth.exchange_auth_code_for_api_key(code="x")


async def test_callable_that_returns_a_bad_key_leaves_it_in_no_frame(to_secret: ToSecret) -> None:
    key = to_secret(SECRET) + "\n"
    async with OpenRouter(lambda: key) as client:
        with pytest.raises(errors.RequestValidationError):
            await client.oauth.create_auth_code(callback_url="https://app.example/callback")


async def test_on_key_error_that_quotes_the_key_is_not_a_cause(to_secret: ToSecret) -> None:
    def store(_request: ExchangeAuthCodeForAPIKeyRequest, response: ExchangeAuthCodeForAPIKeyResponse) -> None:
        raise ValueError(f"INSERT INTO keys VALUES ('{response.key}')")

    def refuse(*_: object) -> None:
        raise ValueError("the database is full")

    async with answering(json_answer(200, BODY)) as server:
        for hook, kind in ((store, type(None)), (refuse, ValueError)):
            async with client_of(server.base_url, on_key=hook) as client:
                with pytest.raises(errors.KeyDeliveryError) as caught:
                    await client.oauth.exchange_auth_code_for_api_key(code=to_secret(SECRET))
                assert type(caught.value.__cause__) is kind
                assert caught.value.__context__ is None


class FailingStore(MemoryStore):
    async def put(self, *_: Any, **__: Any) -> Any:
        raise LoginStoreError("out of reach")

    claim = release = finish = put


@pytest.mark.parametrize("arguments", [{}, {"key_label": "x" * 101}, {"limit": -1}, {"context": object()}])
async def test_failing_start_leaves_state_and_binding_in_no_frame(
    arguments: dict[str, Any], to_secret: ToSecret
) -> None:
    async with OpenRouter(None) as client:
        flow = AuthorizationFlow(client, callback_url="https://app.example/{state}", store=FailingStore())
        with pytest.raises(errors.OpenRouterError):
            await flow.start(binding=to_secret(SECRET), **arguments)


CALLBACKS = [
    "?code={secret}&state={state}",
    "?error=access_denied",
    "?code={secret}",
    "?code={secret}&code=x",
    "{secret}",
]


@pytest.mark.parametrize("callback", CALLBACKS)
async def test_failing_finish_leaves_callback_and_binding_in_no_frame(callback: str, to_secret: ToSecret) -> None:
    async with OpenRouter(None) as client:
        flow = AuthorizationFlow(client, callback_url="https://app.example/callback", store=FailingStore())
        filled = callback.format(secret=to_secret(SECRET), state=to_secret("s" * 43))
        cookies = {"openrouter-login": to_secret("a-cookie-that-must-not-show")}
        with pytest.raises(errors.OpenRouterError):
            await flow.finish(filled, binding=to_secret("a-binding-that-must-not-show"), cookies=cookies)
        with pytest.raises(errors.OpenRouterError):
            await flow.finish_code("s" * 43, filled, binding="a-binding-that-must-not-show", cookies=cookies)


async def test_bindings_of_the_wrong_type_are_in_no_frame(to_secret: ToSecret) -> None:
    binding: Any = [to_secret(SECRET)]
    async with OpenRouter(None) as client:
        flow = AuthorizationFlow(client, callback_url="https://app.example/callback")
        with pytest.raises(errors.RequestValidationError):
            await flow.start(binding=binding)
        with pytest.raises(errors.RequestValidationError):
            await flow.finish(f"?code=x&state={'s' * 43}", binding=binding)


class FailingValues(FailingStore):
    async def set(self, *_: Any, **__: Any) -> Any:
        raise LoginStoreError("out of reach")

    get = delete = set  # noqa: A003


async def test_bot_with_a_failing_store_leaves_callbacks_in_no_frame(to_secret: ToSecret) -> None:
    callback = f"/callback?code={to_secret(SECRET)}&state={to_secret('s' * 43)}"
    async with OpenRouter(None) as client:
        flow = AuthorizationFlow(client, callback_url="https://app.example/callback", store=FailingValues())
        async with BotLogin(flow, on_login=print) as login:
            for text in (callback, to_secret(f"ticket-{'t' * 32}"), SECRET):
                with pytest.raises(errors.OpenRouterError):
                    await login.finish_code(7, text)
            with pytest.raises(errors.OpenRouterError):
                await login.finish(callback, user_id=7)
            for parked in (callback, callback * 60, f"/callback?code={SECRET}"):
                with pytest.raises(errors.OpenRouterError):
                    await login.park_callback(parked)


async def test_encryption_keys_are_in_no_frame_of_a_stores_error(to_secret: ToSecret) -> None:
    key = to_secret(generate_encryption_key())
    async with OpenRouter(None) as client:
        flow = AuthorizationFlow(client, callback_url="https://app.example/callback", store=CookieStore(key))
        pending = await flow.start(binding="x")
        assert pending.cookie is not None
        with pytest.raises(errors.OpenRouterError):
            await flow.finish(
                f"?code=x&state={pending.state}", binding="x", cookies={pending.cookie.name: pending.cookie.value[:-9]}
            )
