from __future__ import annotations

import asyncio
import gc
import inspect
import json
import multiprocessing
import os
import pydoc
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import aiohttp
import pytest
from yarl import URL

from openrouter_async import (
    UNSET,
    CreateAuthKeysCodeRequest,
    ExchangeAuthCodeForAPIKeyRequest,
    Handler,
    OAuth,
    OpenRouter,
    Outcome,
    Request,
    RequestOptions,
    Response,
    RetryPolicy,
    errors,
)
from openrouter_async.login import authorization_url
from tests.kit.servers import RawServer, answering, json_answer
from tests.support import PATIENCE

KEY = "sk-or-v1-" + "a" * 64
CREATED = json.dumps({"data": {"id": "auth_code_1", "app_id": 1, "created_at": "2025-08-24T10:30:00Z"}}).encode()
ANSWER = json_answer(200, json.dumps({"key": KEY, "user_id": "user_1"}).encode())
NOWHERE = "http://127.0.0.1:9/api/v1"


def headers_of(request: bytes) -> dict[str, str]:
    lines = request.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


async def exchange(client: OpenRouter, code: str = "code-1", **options: Any) -> Any:
    return await client.oauth.exchange_auth_code_for_api_key(code=code, **options)


# --- arguments -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"api_key": ""}, "api_key: must be a string of visible ASCII characters"),
        ({"api_key": "key with space"}, "api_key: must be"),
        ({"api_key": "key\r\nX: y"}, "api_key: must be"),
        ({"api_key": "schlüssel"}, "api_key: must be"),
        ({"api_key": 7}, "api_key: must be"),
        ({"base_url": "http://openrouter.ai/api/v1"}, "base_url: must be an https URL"),
        ({"base_url": "http://localhost.evil.example"}, "base_url: must be an https URL"),
        ({"base_url": "https://user:pass@openrouter.ai"}, "base_url: must be an https URL"),
        ({"base_url": "https://openrouter.ai/?a=1"}, "base_url: must be an https URL"),
        ({"base_url": "https://openrouter.ai/#a"}, "base_url: must be an https URL"),
        ({"base_url": "openrouter.ai"}, "base_url: must be an https URL"),
        ({"base_url": "https://[broken"}, "base_url: must be an https URL"),
        ({"base_url": None}, "base_url: must be an https URL"),
        ({"timeout": 0}, "timeout: must be a finite number above 0"),
        ({"timeout": float("inf")}, "timeout: must be"),
        ({"timeout": True}, "timeout: must be"),
        ({"timeout": "30"}, "timeout: must be"),
        ({"retry": 3}, "retry: must be a RetryPolicy"),
        ({"pool_size": 0}, "pool_size: must be an integer of at least 1"),
        ({"pool_size": True}, "pool_size: must be"),
        ({"pool_size": 1.5}, "pool_size: must be"),
        ({"proxy": "socks5://127.0.0.1"}, "proxy: must be an http or https URL"),
        ({"proxy": 7}, "proxy: must be"),
        ({"proxy": "http://[broken"}, "proxy: must be"),
        ({"http_referer": "a\r\nb"}, "http_referer: must be a string without line breaks"),
        ({"x_open_router_title": "日本"}, "x_open_router_title: must be"),
        ({"x_open_router_categories": ["cli"]}, "x_open_router_categories: must be"),
        ({"headers": {"X App": "1"}}, "headers: names must be tokens"),
        ({"headers": {7: "1"}}, "headers: names must be tokens"),
        ({"headers": {"X-App": "a\nb"}}, "headers['X-App']: must be a string without line breaks"),
        ({"headers": {"X-App": 1}}, "headers['X-App']: must be"),
        ({"headers": {"content-length": "1"}}, "headers: content-length is set by the transport"),
        ({"on_key": 7}, "on_key: must be callable with (request, response)"),
        ({"on_key": lambda key: None}, "on_key: must be callable with (request, response)"),
        ({"on_retry": 7}, "on_retry: must be callable with (request, attempt)"),
        ({"on_retry": asyncio.current_task}, "on_retry: must be callable with (request, attempt)"),
        ({"api_key": lambda request: None}, "api_key: must be callable with ()"),
        ({"hook_timeout": 0}, "hook_timeout: must be a finite number above 0"),
        ({"ssl": False}, "ssl: must be an ssl.SSLContext"),
        ({"ssl": True}, "ssl: must be an ssl.SSLContext"),
    ],
)
def test_client_bad_argument_is_refused_in_one_line_that_names_it(options: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.RequestValidationError) as caught:
        OpenRouter(**options)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    for hidden in ("schlüssel", "key with", "pass@"):
        assert hidden not in str(caught.value)


_EXCHANGE = partial(ExchangeAuthCodeForAPIKeyRequest, code="code-1")
_CREATE = partial(CreateAuthKeysCodeRequest, callback_url="https://app.example/")
_AUTHORIZE = partial(
    authorization_url, callback_url="https://app.example/", code_challenge=None, code_challenge_method=None
)
_UNUSABLE_URLS = [
    "https://xn--a.example",
    "https://xn--.example",
    "https://a\ud800.example",
    "https://a.example/\udfff",
    "https://[::g]",
]


@pytest.mark.parametrize("url", _UNUSABLE_URLS)
@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("base_url", OpenRouter),
        ("proxy", OpenRouter),
        ("server_url", RequestOptions),
        ("callback_url", CreateAuthKeysCodeRequest),
        ("callback_url", _AUTHORIZE),
        ("auth_url", _AUTHORIZE),
    ],
)
def test_url_with_unusable_characters_is_refused(field: str, make: Callable[..., Any], url: str) -> None:
    with pytest.raises(errors.RequestValidationError) as caught:
        make(**{field: url})
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "make"),
    [
        *[(field, _EXCHANGE) for field in ("code", "code_verifier", "code_challenge_method")],
        *[(field, _CREATE) for field in ("code_challenge", "key_label", "workspace_id", "usage_limit_type")],
        *[(field, OpenRouter) for field in ("api_key", "http_referer", "x_open_router_title")],
        ("x_open_router_categories", OpenRouter),
        ("key_label", _AUTHORIZE),
        ("state", _AUTHORIZE),
    ],
)
def test_argument_with_lone_surrogate_is_refused(field: str, make: Callable[..., Any]) -> None:
    with pytest.raises(errors.RequestValidationError) as caught:
        make(**{field: "a" * 43 + "\ud800"})
    assert caught.value.field == field
    assert "\ud800" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"server_url": "http://openrouter.ai"}, "server_url: must be an https URL"),
        ({"timeout": -1}, "timeout: must be"),
        ({"retry": "none"}, "retry: must be a RetryPolicy"),
        ({"headers": {"Host": "x"}}, "headers: Host is set by the transport"),
    ],
)
def test_request_options_bad_value_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.RequestValidationError) as caught:
        RequestOptions(**options)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("base", ["{}", "{}/", "{}//"])
async def test_base_url_path_is_kept(base: str) -> None:
    async with answering(ANSWER) as server, OpenRouter(None, base_url=base.format(server.base_url)) as client:
        await exchange(client)
    assert server.requests[0].startswith(b"POST /api/v1/auth/keys HTTP/1.1\r\n")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_base_url_plain_http_to_loopback_is_accepted(host: str) -> None:
    assert host in repr(OpenRouter(None, base_url=f"http://{host}:8000/api/v1"))


def test_client_reads_the_documented_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> bytes:
        async with (
            answering(ANSWER) as server,
            OpenRouter(base_url=server.base_url, authenticate_exchange=True) as client,
        ):
            await exchange(client)
        return server.requests[0]

    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-or-v1-env")
    monkeypatch.setenv("OPENROUTER_HTTP_REFERER", "https://env.example")
    monkeypatch.setenv("OPENROUTER_X_OPEN_ROUTER_TITLE", "Env")
    monkeypatch.setenv("OPENROUTER_X_OPEN_ROUTER_CATEGORIES", "cli-agent,web")
    sent = headers_of(asyncio.run(main()))
    assert sent["authorization"] == "Bearer sk-or-v1-env"
    assert sent["http-referer"] == "https://env.example"
    assert sent["x-openrouter-title"] == "Env"
    assert sent["x-openrouter-categories"] == "cli-agent,web"


_VARIABLES = {
    "OPENROUTER_API_KEY": "sk-or-v1-env",
    "OPENROUTER_BASE_URL": "https://openrouter.example/api/v1",
    "OPENROUTER_HTTP_REFERER": "https://env.example",
    "OPENROUTER_X_OPEN_ROUTER_TITLE": "Env",
    "OPENROUTER_X_OPEN_ROUTER_CATEGORIES": "cli-agent,web",
}


async def test_environment_with_surrounding_blanks_is_stripped(monkeypatch: pytest.MonkeyPatch) -> None:
    async with answering(ANSWER) as server:
        for name, value in (_VARIABLES | {"OPENROUTER_BASE_URL": server.base_url}).items():
            monkeypatch.setenv(name, f"\ufeff \t{value}\r\n")
        async with OpenRouter(authenticate_exchange=True) as client:
            await exchange(client)
    assert server.requests[0].startswith(b"POST /api/v1/auth/keys HTTP/1.1\r\n")
    sent = headers_of(server.requests[0])
    assert sent["authorization"] == "Bearer sk-or-v1-env"
    assert sent["http-referer"] == "https://env.example"
    assert sent["x-openrouter-title"] == "Env"
    assert sent["x-openrouter-categories"] == "cli-agent,web"


@pytest.mark.parametrize("control", ["\n", "\r\n", "\x7f", "\x85", "\ufeff", "\u200b", "\u202e", "\udcff"])
@pytest.mark.parametrize(("name", "value"), _VARIABLES.items())
def test_environment_with_inner_line_break_is_refused_by_name(
    name: str, value: str, control: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value[:2] + control + value[2:])
    with pytest.raises(errors.RequestValidationError) as caught:
        OpenRouter()
    assert caught.value.field == name
    assert value not in str(caught.value)


async def test_api_key_none_sends_no_bearer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-or-v1-env")
    async with answering(ANSWER) as server, OpenRouter(None, base_url=server.base_url) as client:
        await exchange(client)
    assert "authorization" not in headers_of(server.requests[0])


async def test_header_none_is_not_sent_despite_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENROUTER_HTTP_REFERER", "https://env.example")
    async with (
        answering(ANSWER) as server,
        OpenRouter(None, base_url=server.base_url, http_referer=None) as client,
        OpenRouter(None, base_url=server.base_url) as other,
    ):
        await exchange(client, "code-1")
        await exchange(other, "code-2")
        await exchange(other.with_options(http_referer=None), "code-3")
        await exchange(other.with_options(http_referer=UNSET), "code-4")
    sent = [headers_of(request).get("http-referer") for request in server.requests]
    assert sent == [None, "https://env.example", None, "https://env.example"]


async def test_retry_none_retries_nothing_wherever_it_is_set() -> None:
    async with answering(json_answer(503)) as server, OpenRouter(None, base_url=server.base_url, retry=None) as client:
        patient = client.with_options(retry=RetryPolicy(initial_interval=0))
        for call in (
            exchange(client),
            exchange(patient.with_options(retry=None)),
            exchange(patient, options=RequestOptions(retry=None)),
        ):
            with pytest.raises(errors.APIError):
                await call
        assert len(server.requests) == 3
        with pytest.raises(errors.APIError):
            await exchange(patient.with_options(retry=UNSET), options=RequestOptions(retry=UNSET))
        assert len(server.requests) == 7


@pytest.mark.parametrize("option", [{"pool_size": 5}, {"pool_size": 100}, {"trust_env": True}])
async def test_client_option_that_a_borrowed_session_would_ignore_is_refused(option: dict[str, Any]) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(errors.RequestValidationError, match=f"{next(iter(option))}: must not come with a session"):
            OpenRouter(None, session=session, **option)


async def test_misspelt_keyword_is_refused_with_the_method_and_a_suggestion() -> None:
    client: Any = OpenRouter(None)
    with pytest.raises(TypeError, match=r"OAuth\.exchange_auth_code_for_api_key\(\) .*'cod'; did you mean 'code'\?"):
        await client.oauth.exchange_auth_code_for_api_key(cod="secret-code")
    with pytest.raises(TypeError, match=r"OAuth\.create_auth_code\(\) .*'callback'; did you mean 'callback_url'\?"):
        await client.oauth.create_auth_code(callback="https://app.example/")
    with pytest.raises(TypeError, match=r"OpenRouter\.with_options\(\) .*'timeouts'; did you mean 'timeout'\?"):
        client.with_options(timeouts=3)
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'zzz'$"):
        client.with_options(zzz=3)
    with pytest.raises(errors.RequestValidationError, match="code: must be given"):
        await client.oauth.exchange_auth_code_for_api_key()


def test_help_shows_the_fields_of_the_operations() -> None:
    exchange_fields = inspect.signature(OAuth.exchange_auth_code_for_api_key).parameters
    assert [*exchange_fields] == ["self", "request", "code", "code_verifier", "code_challenge_method", "options"]
    assert "unknown" not in inspect.signature(OAuth.create_auth_code).parameters
    assert "hook_timeout" in inspect.signature(OpenRouter.with_options).parameters
    assert "code_verifier" in pydoc.render_doc(OAuth.exchange_auth_code_for_api_key)


async def test_environment_variable_empty_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENROUTER_API_KEY", "")
    async with answering(ANSWER) as server, OpenRouter(base_url=server.base_url) as client:
        await exchange(client)
    assert "authorization" not in headers_of(server.requests[0])


async def test_exchange_sends_no_api_key_unless_asked_to() -> None:
    calls: list[str] = []

    def fetch() -> str:
        calls.append("fetched")
        return "sk-or-v1-app"

    async with answering(ANSWER) as server:
        for source in ("sk-or-v1-app", fetch):
            async with OpenRouter(source, base_url=server.base_url) as client:
                await exchange(client)
                await exchange(client.with_options(authenticate_exchange=True))
    assert [headers_of(request).get("authorization") for request in server.requests] == [
        None,
        "Bearer sk-or-v1-app",
    ] * 2
    assert calls == ["fetched"]
    with pytest.raises(errors.RequestValidationError, match="authenticate_exchange: must be True or False"):
        OpenRouter(None, authenticate_exchange="yes")  # type: ignore[arg-type]


async def test_api_key_callable_is_called_for_each_call() -> None:
    keys = iter(["sk-or-v1-first", "sk-or-v1-second"])

    async def from_vault() -> str:
        await asyncio.sleep(0)
        return next(keys)

    async with answering(ANSWER) as server:
        async with OpenRouter(lambda: next(keys), base_url=server.base_url, authenticate_exchange=True) as client:
            await exchange(client)
        async with OpenRouter(from_vault, base_url=server.base_url, authenticate_exchange=True) as client:
            await exchange(client)
        async with OpenRouter(lambda: None, base_url=server.base_url, authenticate_exchange=True) as client:
            await exchange(client)
    assert [headers_of(request).get("authorization") for request in server.requests] == [
        "Bearer sk-or-v1-first",
        "Bearer sk-or-v1-second",
        None,
    ]


async def test_api_key_callable_that_fails_is_refused_with_its_cause() -> None:
    def broken() -> str:
        raise LookupError("no keyring")

    async with answering(ANSWER) as server:
        async with OpenRouter(broken, base_url=server.base_url, authenticate_exchange=True) as client:
            with pytest.raises(
                errors.RequestValidationError, match="api_key: its callable raised LookupError"
            ) as caught:
                await exchange(client)
            assert isinstance(caught.value.__cause__, LookupError)
        async with OpenRouter(lambda: "two words", base_url=server.base_url, authenticate_exchange=True) as client:
            with pytest.raises(errors.RequestValidationError, match="api_key: must be a string"):
                await exchange(client)
        assert server.requests == []


async def test_create_auth_code_without_api_key_is_refused_unsent() -> None:
    async with answering(json_answer(200, CREATED)) as server, OpenRouter(None, base_url=server.base_url) as client:
        with pytest.raises(errors.RequestValidationError, match="api_key: must be given"):
            await client.oauth.create_auth_code(callback_url="https://app.example/")
        assert server.connections == 0
        own = RequestOptions(headers={"authorization": "Bearer other"})
        assert (await client.oauth.create_auth_code(callback_url="https://app.example/", options=own)).data.app_id == 1


# --- calls ---------------------------------------------------------------------------------------------------------


async def test_request_object_replaces_keywords() -> None:
    from openrouter_async import CreateAuthKeysCodeRequest, ExchangeAuthCodeForAPIKeyRequest

    async with answering(ANSWER) as server, OpenRouter(None, base_url=server.base_url) as client:
        request = ExchangeAuthCodeForAPIKeyRequest(code="code-1")
        assert (await client.oauth.exchange_auth_code_for_api_key(request)).key == KEY
        wrong: Any = CreateAuthKeysCodeRequest(callback_url="https://app.example/")
        with pytest.raises(errors.RequestValidationError, match="request: must be a ExchangeAuthCode"):
            await client.oauth.exchange_auth_code_for_api_key(wrong)
        method: Any = client.oauth.exchange_auth_code_for_api_key
        with pytest.raises(errors.RequestValidationError, match="request: must not come with fields"):
            await method(request, code="code-2")
    assert len(server.requests) == 1


async def test_request_options_change_one_call() -> None:
    async with answering(ANSWER) as server, answering(ANSWER) as other:
        async with OpenRouter("sk-or-v1-app", base_url=server.base_url, headers={"X-App": "1", "X-Two": "2"}) as client:
            await exchange(
                client,
                options=RequestOptions(
                    server_url=other.base_url, headers={"x-app": "3"}, timeout=5, retry=RetryPolicy.none()
                ),
            )
            await exchange(client)
    assert headers_of(other.requests[0])["x-app"] == "3"
    assert headers_of(other.requests[0])["x-two"] == "2"
    assert headers_of(server.requests[0])["x-app"] == "1"


async def test_request_options_reach_the_middlewares() -> None:
    seen: list[Request] = []

    async def spy(request: Request, call_next: Handler) -> Response:
        seen.append(request)
        return await call_next(request)

    async with answering(ANSWER) as server, OpenRouter(None, base_url=server.base_url, middlewares=[spy]) as client:
        await exchange(client)
        await exchange(client, options=RequestOptions(timeout=5, retry=RetryPolicy.none()))
    assert [request.timeout for request in seen] == [30.0, 5]
    assert [request.retry.max_attempts for request in seen] == [4, 1]
    assert {request.operation for request in seen} == {"exchangeAuthCodeForAPIKey"}


async def test_middlewares_run_per_call_and_attempt_middlewares_per_attempt() -> None:
    ran: list[str] = []

    def named(name: str) -> Any:
        async def middleware(request: Request, call_next: Handler) -> Response:
            ran.append(f"{name}{request.attempt}")
            return await call_next(request)

        return middleware

    answers = iter([json_answer(503), ANSWER])
    async with (
        RawServer(lambda _: next(answers)) as server,
        OpenRouter(
            None,
            base_url=server.base_url,
            retry=RetryPolicy(initial_interval=0),
            middlewares=[named("call")],
            attempt_middlewares=[named("attempt")],
        ) as client,
    ):
        response = await exchange(client)
    assert ran == ["call1", "attempt1", "attempt2"]
    assert response.http_meta.attempts == 2


async def test_middleware_exception_reaches_the_caller_with_its_traceback() -> None:
    async def broken(request: Request, call_next: Handler) -> Response:
        raise KeyError("mine")

    async with OpenRouter(None, base_url=NOWHERE, middlewares=[broken]) as client:
        with pytest.raises(KeyError) as caught:
            await exchange(client)
    assert caught.traceback[-1].name == "broken"


# --- the session ---------------------------------------------------------------------------------------------------


async def test_client_reuses_connections() -> None:
    async with answering(ANSWER) as server, OpenRouter(None, base_url=server.base_url) as client:
        for number in range(10):
            await exchange(client, f"code-{number}")
    assert server.connections == 1


async def test_client_pool_size_bounds_connections() -> None:
    async with answering(ANSWER) as server, OpenRouter(None, base_url=server.base_url, pool_size=3) as client:
        await asyncio.gather(*(exchange(client, f"code-{number}") for number in range(20)))
    assert server.connections <= 3


async def test_borrowed_session_is_neither_closed_nor_changed() -> None:
    seen: list[str] = []

    async def native(request: aiohttp.ClientRequest, handler: Any) -> aiohttp.ClientResponse:
        seen.append(str(request.url))
        response: aiohttp.ClientResponse = await handler(request)
        return response

    async with (
        answering(ANSWER) as server,
        aiohttp.ClientSession(
            middlewares=[native],
            raise_for_status=True,
            headers={"X-Session": "kept"},
            timeout=aiohttp.ClientTimeout(total=0.000001),
        ) as session,
    ):
        before = dict(vars(session)) if hasattr(session, "__dict__") else {}
        async with OpenRouter(None, base_url=server.base_url, session=session) as client:
            assert (await exchange(client)).key == KEY
        assert not session.closed
        assert (dict(vars(session)) if hasattr(session, "__dict__") else {}) == before
        async with OpenRouter(None, base_url=server.base_url, session=session) as client:
            assert (await exchange(client)).key == KEY
    assert seen == [f"{server.base_url}/auth/keys"] * 2
    assert headers_of(server.requests[0])["x-session"] == "kept"


async def test_borrowed_session_with_raise_for_status_raises_library_errors() -> None:
    async with answering(json_answer(403)) as server, aiohttp.ClientSession(raise_for_status=True) as session:
        async with OpenRouter(None, base_url=server.base_url, session=session) as client:
            with pytest.raises(errors.ForbiddenResponseError):
                await exchange(client)


async def test_borrowed_session_closed_is_refused() -> None:
    session = aiohttp.ClientSession()
    client = OpenRouter(None, base_url=NOWHERE, session=session)
    await session.close()
    with pytest.raises(errors.ClientClosedError, match="the session that the client uses is closed"):
        await exchange(client)


async def test_borrowed_session_closed_during_use_is_reported() -> None:
    session = aiohttp.ClientSession()

    async def close(request: Request, call_next: Handler) -> Response:
        await session.close()
        return await call_next(request)

    client = OpenRouter(None, base_url=NOWHERE, session=session, middlewares=[close])
    with pytest.raises(errors.ClientClosedError, match="the session that the client uses is closed"):
        await exchange(client)


async def test_client_keeps_no_cookies() -> None:
    async with answering(ANSWER.replace(b"\r\n\r\n", b"\r\nSet-Cookie: a=b\r\n\r\n", 1)) as server:
        async with OpenRouter(None, base_url=server.base_url.replace("127.0.0.1", "localhost")) as client:
            await exchange(client)
            await exchange(client)
    assert "cookie" not in headers_of(server.requests[1])


async def test_with_options_shares_the_pool_and_closes_nothing() -> None:
    async with (
        answering(ANSWER) as server,
        OpenRouter("sk-or-v1-one", base_url=server.base_url, authenticate_exchange=True) as client,
    ):
        await exchange(client)
        async with client.with_options(api_key="sk-or-v1-two", headers={"X-App": "1"}, timeout=5) as other:
            await exchange(other)
        await exchange(client)
        with pytest.raises(errors.RequestValidationError, match="timeout"):
            client.with_options(timeout=-1)
    assert server.connections == 1
    assert [headers_of(request)["authorization"] for request in server.requests] == [
        "Bearer sk-or-v1-one",
        "Bearer sk-or-v1-two",
        "Bearer sk-or-v1-one",
    ]
    with pytest.raises(errors.ClientClosedError):
        await exchange(other)


def test_with_options_keeps_unchanged_options() -> None:
    client = OpenRouter("sk-or-v1-one", base_url=NOWHERE, x_open_router_title="App")
    other = client.with_options(base_url="https://other.example").with_options(timeout=3)
    assert "https://other.example" in repr(other)
    assert other._settings.x_open_router_title == "App"
    assert other._settings.api_key == client._settings.api_key


# --- the life of a client ------------------------------------------------------------------------------------------


async def test_client_closed_twice_is_harmless_and_refuses_calls() -> None:
    async with answering(ANSWER) as server:
        client = OpenRouter(None, base_url=server.base_url)
        await exchange(client)
        assert repr(client).endswith(" open>")
        await client.aclose()
        await client.aclose()
        assert repr(client).endswith(" closed>")
        with pytest.raises(errors.ClientClosedError, match="the client is closed") as caught:
            await exchange(client)
        assert caught.value.outcome is Outcome.NOT_SENT
        with pytest.raises(errors.ClientClosedError):
            await client.oauth.create_auth_code(callback_url="https://app.example/")
        with pytest.raises(errors.ClientClosedError):
            await client.__aenter__()


async def test_client_never_used_closes_without_a_session() -> None:
    await OpenRouter(None).aclose()


def test_client_may_be_made_outside_a_loop_and_per_loop() -> None:
    async def main(client: OpenRouter | None = None) -> str:
        async with answering(ANSWER) as server:
            made = client or OpenRouter(None)
            async with made.with_options(base_url=server.base_url) as view:
                key: str = (await exchange(view)).key
            await made.aclose()
            return key

    assert asyncio.run(main(OpenRouter(None))) == KEY
    assert asyncio.run(main()) == KEY


def test_client_in_a_second_loop_is_an_error() -> None:
    client = OpenRouter(None, base_url=NOWHERE)

    async def use() -> None:
        await exchange(client, options=RequestOptions(retry=RetryPolicy.none()))

    with pytest.raises(errors.TransportError):
        asyncio.run(use())
    with pytest.raises(errors.ClientClosedError, match="belongs to another event loop"):
        asyncio.run(use())
    asyncio.run(client.aclose())


def _use_in_child(client: OpenRouter, results: Any) -> None:
    async def use() -> str:
        try:
            await exchange(client)
        except errors.OpenRouterError as error:
            return str(error)
        return "no error"

    results.put(asyncio.run(use()))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize(("is_used", "message"), [(True, "carried over a fork"), (False, "cannot connect")])
def test_client_carried_over_a_fork_is_refused_only_if_it_was_used(is_used: bool, message: str) -> None:
    async def use() -> None:
        client.bind()

    client = OpenRouter(None, base_url=NOWHERE, retry=None)
    if is_used:
        asyncio.run(use())
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_use_in_child, args=(client, results))
    child.start()
    assert message in results.get(timeout=PATIENCE)
    child.join(PATIENCE)
    assert child.exitcode == 0
    asyncio.run(client.aclose())


async def test_client_never_closed_gives_one_warning_that_names_the_class() -> None:
    async with answering(ANSWER) as server:
        client = OpenRouter(None, base_url=server.base_url)
        await exchange(client)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del client
            gc.collect()
            await asyncio.sleep(0)
            gc.collect()
    assert [(warning.category, str(warning.message).partition(" http")[0]) for warning in caught] == [
        (ResourceWarning, "unclosed <openrouter_async.OpenRouter")
    ]


FORGOTTEN = """
    import asyncio, sys
    from openrouter_async import OpenRouter, RetryPolicy

    client = OpenRouter(None, base_url=sys.argv[1], retry=RetryPolicy.none())

    async def main():
        await client.oauth.exchange_auth_code_for_api_key(code="code-1")

    asyncio.run(main())
"""


async def test_client_outliving_its_loop_gives_one_warning_and_none_of_aiohttp() -> None:
    async with answering(ANSWER) as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-X", "dev", "-c", textwrap.dedent(FORGOTTEN), server.base_url),
            stderr=subprocess.PIPE,
        )
        _, output = await process.communicate()
    assert process.returncode == 0
    warned = [line for line in output.decode().splitlines() if "Warning" in line]
    # asyncio itself warns of the socket that was open when its loop was closed.
    ours = [line for line in warned if "ResourceWarning: unclosed transport <_SelectorSocketTransport" not in line]
    assert len(ours) == 1
    assert "ResourceWarning: unclosed <openrouter_async.OpenRouter" in ours[0]


def test_client_with_a_refused_argument_leaves_no_warning() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(errors.RequestValidationError):
            OpenRouter(None, pool_size=0)
        gc.collect()
    assert caught == []


def test_client_repr_shows_no_api_key() -> None:
    client = OpenRouter("sk-or-v1-app-secret", headers={"X-Vault": "vault-secret"})
    shown = repr(client) + repr(client._settings) + repr(RequestOptions(headers={"X-Vault": "vault-secret"}))
    assert "secret" not in shown


def test_base_url_may_be_a_yarl_url() -> None:
    assert "https://gateway.example/v1" in repr(OpenRouter(None, base_url=URL("https://gateway.example/v1")))


async def test_call_has_at_most_five_coroutines_each_in_a_file_of_its_own() -> None:
    chains: list[list[str]] = []

    async def native(request: aiohttp.ClientRequest, handler: Any) -> aiohttp.ClientResponse:
        frame, files = sys._getframe(), []
        while frame := frame.f_back:  # type: ignore[assignment]
            if frame.f_code.co_flags & inspect.CO_COROUTINE and "/openrouter_async/" in frame.f_code.co_filename:
                files.append(frame.f_code.co_filename)
        waiting: Any = caller.get_coro()
        while inspect.iscoroutine(waiting):
            if "/openrouter_async/" in waiting.cr_code.co_filename:
                files.append(waiting.cr_code.co_filename)
            waiting = waiting.cr_await
        chains.append(files)
        response: aiohttp.ClientResponse = await handler(request)
        return response

    async with answering(ANSWER) as server, aiohttp.ClientSession(middlewares=[native]) as session:
        async with OpenRouter(None, base_url=server.base_url, session=session, on_key=lambda *_: None) as client:
            caller = asyncio.ensure_future(exchange(client))
            await caller
    (chain,) = chains
    assert len(chain) <= 5, chain
    assert len(set(chain)) == len(chain), chain


@pytest.mark.parametrize(
    "url", ["https://a\n.example", "https://a.example/\t", "https://a.example/\x00", " https://a.example"]
)
def test_base_url_with_control_characters_is_refused(url: str) -> None:
    with pytest.raises(errors.RequestValidationError, match=r"^base_url: must be an https URL"):
        OpenRouter(None, base_url=url)
