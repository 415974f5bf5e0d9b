"""Calls as users write them. Type checkers must accept each of them, and infer its type."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, assert_type
from uuid import UUID

import aiohttp
from aiogram import Router
from aiohttp import web
from discord import Client, app_commands
from fastapi import Depends, FastAPI
from multidict import MultiDict
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.requests import Request as StarletteRequest
from starlette.responses import Response as StarletteResponse
from yarl import URL

from openrouter_async import (
    UNSET,
    Attempt,
    Batch,
    BatchProgress,
    CodeChallengeMethod,
    CreateAuthKeysCodeRequest,
    CreateAuthKeysCodeResponse,
    CurrentKey,
    ExchangeAuthCodeForAPIKeyRequest,
    ExchangeAuthCodeForAPIKeyResponse,
    ExchangeResult,
    Handler,
    Journal,
    OpenRouter,
    Outcome,
    Request,
    RequestOptions,
    Response,
    RetryPolicy,
    UsageLimitType,
    errors,
)
from openrouter_async.encryption import generate_encryption_key
from openrouter_async.integrations import aiohttp as aiohttp_login
from openrouter_async.integrations import asgi as asgi_login
from openrouter_async.integrations import fastapi as fastapi_login
from openrouter_async.integrations import starlette as starlette_login
from openrouter_async.integrations.aiogram import create_router
from openrouter_async.integrations.bots import BotLogin, BotTexts, LoginPrompt
from openrouter_async.integrations.discord import add_commands
from openrouter_async.integrations.web import Display, LoginFailure, ResultPage
from openrouter_async.login import (
    AuthorizationDeniedError,
    AuthorizationFlow,
    CookieStore,
    Grant,
    LoginCookie,
    LoginError,
    LoginSession,
    LoginState,
    LoginStatus,
    LoopbackLogin,
    MemoryStore,
    PendingLogin,
    RedisStore,
    TerminalPrompt,
    authorization_url,
    validate_return_to,
)
from openrouter_async.login.stores import LoginStore
from openrouter_async.pkce import PKCEPair, code_challenge, generate_code_verifier
from openrouter_async.sinks import CallbackSink, FileSink, KeyringSink, KeySink, KeyVault, StoredKey


async def key_from_vault() -> str | None:
    return None


async def middleware(request: Request, call_next: Handler) -> Response:
    return await call_next(request)


async def store(request: ExchangeAuthCodeForAPIKeyRequest, response: ExchangeAuthCodeForAPIKeyResponse) -> None:
    print(response.user_id)


def tell(request: Request, attempt: Attempt) -> None:
    print(request.operation, attempt.number, attempt.error.outcome, attempt.wait)


async def construct(session: aiohttp.ClientSession) -> None:
    OpenRouter()
    OpenRouter("sk-or-v1-x")
    OpenRouter(None)
    OpenRouter(lambda: "sk-or-v1-x")
    OpenRouter(key_from_vault)
    OpenRouter(
        base_url=URL("https://openrouter.ai/api/v1"),
        timeout=10,
        retry=RetryPolicy(max_attempts=2, statuses={429, 503}),
        middlewares=[middleware],
        attempt_middlewares=(middleware,),
        session=session,
        proxy="http://proxy.example:8080",
        ssl=ssl.create_default_context(),
        headers={"X-App": "1"},
        on_key=store,
        on_retry=tell,
    )


async def exchange(client: OpenRouter) -> None:
    oauth = client.oauth
    result = await oauth.exchange_auth_code_for_api_key(code="c", code_verifier="v", code_challenge_method="S256")
    assert_type(result, ExchangeAuthCodeForAPIKeyResponse)
    assert_type(result.key, str)
    assert_type(result.user_id, str | None)
    assert_type(result.http_meta.attempts, int)
    await oauth.exchange_auth_code_for_api_key(code="c", code_challenge_method=CodeChallengeMethod.PLAIN)
    await oauth.exchange_auth_code_for_api_key(code="c", code_challenge_method=None)
    await oauth.exchange_auth_code_for_api_key(code="c", code_challenge_method=UNSET)
    await oauth.exchange_auth_code_for_api_key(
        ExchangeAuthCodeForAPIKeyRequest(code="c"), options=RequestOptions(timeout=5, retry=RetryPolicy.none())
    )


async def codes() -> AsyncIterator[str]:
    yield "c"


async def requests() -> AsyncIterator[ExchangeAuthCodeForAPIKeyRequest]:
    yield ExchangeAuthCodeForAPIKeyRequest(code="c")


def show(progress: BatchProgress) -> None:
    print(progress.finished, progress.total, progress.rate)


async def show_later(progress: BatchProgress) -> None:
    print(progress.in_flight, progress.unknown)


async def exchange_many(client: OpenRouter) -> None:
    oauth = client.oauth
    oauth.exchange_many(["c"])
    oauth.exchange_many(f"{number}" for number in range(3))
    oauth.exchange_many([ExchangeAuthCodeForAPIKeyRequest(code="c"), "c"], stop_on=errors.UnauthorizedResponseError)
    oauth.exchange_many(codes(), stop_on=(errors.APIError, errors.TransportError), on_progress=show)
    oauth.exchange_many(requests(), stop_on=lambda result: result.outcome is Outcome.UNKNOWN, on_progress=show_later)
    async with (
        Journal("journal.db", encryption_keys="k") as journal,
        oauth.exchange_many(codes(), concurrency=64, ordered=True, timeout=500, journal=journal) as batch,
    ):
        assert_type(batch, Batch)
        assert_type(batch.progress, BatchProgress)
        async for result in batch:
            assert_type(result, ExchangeResult)
            assert_type(result.request, ExchangeAuthCodeForAPIKeyRequest | None)
            assert_type(result.error, errors.OpenRouterError | None)
            if result.error is None:
                assert_type(result.response, ExchangeAuthCodeForAPIKeyResponse)
                assert_type(result.key, str)
            else:
                assert_type(result.error.outcome, Outcome)
                assert_type(result.response, None)
            assert_type(result.key, str | None)
            assert_type(result.unwrap(), ExchangeAuthCodeForAPIKeyResponse)
    assert_type(await oauth.exchange_all(codes(), options=RequestOptions(timeout=5)), list[ExchangeResult])
    async for entry in Journal("journal.db", encryption_keys=["k", b"k"]).entries():
        assert_type(entry.key, str | None)


async def create(client: OpenRouter) -> None:
    result = await client.oauth.create_auth_code(
        callback_url="https://app.example/cb",
        code_challenge="c",
        code_challenge_method="S256",
        limit=10,
        usage_limit_type=UsageLimitType.MONTHLY,
        expires_at=datetime.now(UTC),
        key_label="label",
        workspace_id=UUID(int=0),
    )
    assert_type(result, CreateAuthKeysCodeResponse)
    assert_type(result.data.created_at, datetime)
    await client.oauth.create_auth_code(CreateAuthKeysCodeRequest(callback_url=URL("https://app.example/cb")))
    await client.oauth.create_auth_code(callback_url=URL("https://app.example/cb"), expires_at=None)


def pkce() -> None:
    pair = PKCEPair.generate()
    assert_type(pair.code_challenge, str)
    assert_type(PKCEPair.generate("plain").code_challenge_method, CodeChallengeMethod)
    assert_type(code_challenge(generate_code_verifier(), CodeChallengeMethod.S256), str)
    url = authorization_url(
        callback_url="https://app.example/cb", code_challenge=pair.code_challenge, code_challenge_method="S256", limit=5
    )
    assert_type(url, URL)
    assert_type(validate_return_to("next", "/settings"), str)


async def stores(connection: Redis) -> None:
    keys: list[str | bytes] = [generate_encryption_key(), b"an older one"]
    several: list[LoginStore] = [
        MemoryStore(max_logins=100),
        CookieStore(keys, secure=False),
        CookieStore(generate_encryption_key(), ledger=RedisStore(connection)),
        RedisStore(connection, encryption_keys=keys, prefix="app"),
    ]
    print(several)
    await RedisStore.from_url("redis://localhost", encryption_keys=keys).aclose()


async def sign_in(client: OpenRouter) -> None:
    flow = AuthorizationFlow(client, callback_url=URL("https://app.example/cb"), store=MemoryStore(), lifetime=300)
    pending = await flow.start(key_label="l", limit=1.5, context={"user": 7}, return_to="/", binding="browser")
    assert_type(pending, PendingLogin)
    assert_type(pending.url, str)
    assert_type(pending.expires_at, datetime)
    assert_type(pending.cookie, LoginCookie | None)
    try:
        grant = await flow.finish("/cb?code=c&state=s", binding="browser", cookies={"name": "value"})
        await flow.finish(URL("https://app.example/cb?code=c&state=s"))
        await flow.finish({"code": "c", "state": "s"})
        await flow.finish(MultiDict(code="c", state="s"), binding=7)
    except AuthorizationDeniedError as error:
        assert_type(error.error, str)
    except LoginError as error:
        assert_type(error.user_message, str)
    else:
        assert_type(grant, Grant)
        assert_type(grant.key, str)
        assert_type(grant.user_id, str | None)
        assert_type(grant.key_hash, str)
    await flow.finish_code((await flow.start(headless=True, binding=7)).state, "code", binding=7)
    await flow.aclose(timeout=5)


async def ask(error: errors.OpenRouterError | None) -> str:
    return "" if error is None else error.user_message


async def sign_in_here(client: OpenRouter) -> None:
    async with LoopbackLogin(client, port=3000, host="localhost", key_label="l", opener=print) as login:
        login.open_browser()
        assert_type(login.url, str)
        assert_type(login.port, int)
        assert_type(login.pending, PendingLogin)
        assert_type(await login.wait(timeout=None, prompt=ask), Grant)


async def show_login(login: LoginSession) -> Grant:
    assert_type(login.status, LoginStatus)
    assert_type(login.to_dict()["status"], Any)
    async for state in login.events():
        assert_type(state, LoginState)
        assert_type(state.error, Exception | None)
        assert_type(state.message, str | None)
    assert_type(await login.submit("code"), LoginState)
    assert_type(login.cancel(), bool)
    await login.wait(prompt=TerminalPrompt("The code: "))
    return await login.wait(timeout=None, prompt=ask)


async def sign_in_by_paste(client: OpenRouter) -> None:
    async with LoginSession(client, key_label="l", limit=5, lifetime=300, verify=True, opener=print) as login:
        grant = await show_login(login)
    assert_type(grant.current_key, CurrentKey | None)
    assert_type(grant.key_error, errors.OpenRouterError | None)


async def derive(client: OpenRouter) -> None:
    async with client.with_options(api_key=None, timeout=5, on_key=None, headers={"X-App": "1"}) as other:
        assert_type(other, OpenRouter)
    await client.aclose(timeout=3)


async def handle(client: OpenRouter) -> None:
    try:
        await exchange(client)
    except errors.APIError as error:
        assert_type(error.status_code, int)
        assert_type(error.retry_after, float | None)
    except TimeoutError:
        pass
    except errors.KeyDeliveryError as error:
        assert_type(error.response, ExchangeAuthCodeForAPIKeyResponse)
    except errors.OpenRouterError as error:
        assert_type(error.outcome, Outcome)
        assert_type(error.restart_login, bool)


async def apologize(request: web.Request, failure: LoginFailure) -> web.Response | None:
    return web.Response(text=failure.message, status=failure.status) if failure.error else None


async def welcome(request: web.Request, grant: Grant) -> web.Response:
    return web.Response(text=f"{grant.user_id} {grant.return_to}")


async def leave(request: web.Request) -> web.StreamResponse:
    return await aiohttp_login.sign_out(request, key="k", vaults=[FileSink("key")])


def show_result(page: ResultPage) -> str:
    assert_type(page.display, Display)
    return f"<h1>{page.title}</h1>{page.script}"


async def keep_by_asgi(request: asgi_login.Request, grant: Grant) -> None:
    print(request.cookies, grant.key_hash)


async def keep(request: StarletteRequest, grant: Grant) -> None:
    print(grant.key_hash)


def web_apps(app: web.Application, fastapi_app: FastAPI, key: str) -> None:
    aiohttp_login.setup(app, callback_url="https://app.example/callback/{state}", on_login=welcome)
    aiohttp_login.setup(
        app,
        callback_url=URL("https://app.example/callback"),
        on_login=welcome,
        on_error=apologize,
        client=lambda: OpenRouter(None),
        store=lambda: RedisStore.from_url("redis://localhost", encryption_keys=key),
        login_path=None,
        callback_path="/back",
        default_return_to="/start",
        key_label="My app",
        limit=5,
        lifetime=300,
        status_path="/status/{login}",
        complete_path=None,
        exchange_path="/exchange",
        logout_path="/logout",
        on_logout=leave,
        render_page=show_result,
        max_exchanges=5,
    )
    fastapi_login.setup(
        fastapi_app,
        callback_url="https://app.example/",
        on_login=keep,
        store=MemoryStore(),
        dependencies=[Depends(print)],
    )
    login_app = asgi_login.create_app(callback_url="https://app.example/", on_login=keep_by_asgi)
    assert_type(login_app, asgi_login.LoginApp)
    Starlette().mount("/auth", login_app)


async def web_handlers(request: web.Request, other: StarletteRequest) -> None:
    assert_type(await aiohttp_login.start(request, return_to="/a", context={"bot": 7}), web.StreamResponse)
    assert_type(await aiohttp_login.finish(request), web.StreamResponse)
    assert_type(aiohttp_login.get_flow(request), AuthorizationFlow)
    assert_type(await asgi_login.start(asgi_login.Request(other.scope), return_to="/a"), asgi_login.Response)
    assert_type(request.app[aiohttp_login.CLIENT], OpenRouter)
    assert_type(await fastapi_login.start(other, key_label="My app", limit=1.5), StarletteResponse)
    assert_type(starlette_login.get_client(other), OpenRouter)
    assert_type(await aiohttp_login.start_json(request, display="popup", headless=False), web.StreamResponse)
    assert_type(await aiohttp_login.status(request), web.StreamResponse)
    assert_type(await starlette_login.cancel(other), StarletteResponse)
    assert_type(await starlette_login.complete(other), StarletteResponse)
    assert_type(await fastapi_login.exchange(other), StarletteResponse)
    assert_type(await asgi_login.sign_out(asgi_login.Request(other.scope)), asgi_login.Response)


async def put_away(user_id: int, grant: Grant) -> None:
    await FileSink(f"{user_id}.json").save(grant.key, user_id=grant.user_id)


async def take_away(user_id: int) -> None:
    await FileSink(f"{user_id}.json").delete()


async def bots(flow: AuthorizationFlow, tree: app_commands.CommandTree[Client]) -> None:
    login = BotLogin(flow, on_login=put_away, on_logout=take_away, notify=put_away)
    prompt = await login.start(7)
    assert_type(prompt, LoginPrompt)
    assert_type(await prompt.qr_code("svg", scale=2), bytes)
    assert_type(await login.finish_code("telegram:7", "the code"), Grant)
    assert_type(await login.finish("/callback?code=c", user_id=7), Grant)
    assert_type(await login.park_callback(URL("https://app.example/callback?code=c")), str)
    assert_type(await login.expects(7, "hello"), bool)
    assert_type(create_router(login, texts=BotTexts(done="Done."), qr_code=True), Router)
    add_commands(tree, login, texts=BotTexts(error=lambda error: error.user_message))


async def sinks() -> None:
    for vault in (FileSink("key"), KeyringSink("my app", username="ada")):
        OpenRouter(on_key=vault)
        kept: KeyVault = vault
        assert_type(await kept.load(), StoredKey | None)
        assert_type(await kept.delete(), bool)
    sink: KeySink = CallbackSink(print)
    OpenRouter(on_key=sink)
    OpenRouter(on_key=CallbackSink(keep_stored))


async def keep_stored(stored: StoredKey) -> None:
    print(stored.user_id, stored.created_at)
