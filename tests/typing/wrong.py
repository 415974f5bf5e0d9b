"""Calls that type checkers have to reject: each line that ends so, and no other."""

# mypy: warn-unused-ignores=False

from __future__ import annotations

from aiohttp import web

from openrouter_async import CreateAuthKeysCodeRequest, ExchangeAuthCodeForAPIKeyRequest, OpenRouter, RetryPolicy
from openrouter_async.integrations import aiohttp
from openrouter_async.integrations.aiogram import create_router
from openrouter_async.integrations.bots import BotLogin
from openrouter_async.login import AuthorizationFlow, Grant, MemoryStore
from openrouter_async.sinks import CallbackSink, FileSink


async def calls(client: OpenRouter, creation: CreateAuthKeysCodeRequest) -> None:
    await client.oauth.exchange_auth_code_for_api_key()  # wrong
    await client.oauth.exchange_auth_code_for_api_key("c")  # wrong
    await client.oauth.exchange_auth_code_for_api_key(code=7)  # wrong
    await client.oauth.exchange_auth_code_for_api_key(code="c", verifier="v")  # wrong
    await client.oauth.exchange_auth_code_for_api_key(creation)  # wrong
    await client.oauth.exchange_auth_code_for_api_key(ExchangeAuthCodeForAPIKeyRequest(code="c"), code="c")  # wrong
    await client.oauth.create_auth_code(callback_url=None)  # wrong
    await client.oauth.create_auth_code(callback_url="https://a.example", limit="100")  # wrong
    await client.oauth.create_auth_code(callback_url="https://a.example", expires_at="2027-12-31")  # wrong
    client.oauth.exchange_many([7])  # wrong
    client.oauth.exchange_many(["c"], 64)  # wrong
    client.oauth.exchange_many(["c"], stop_on=int)  # wrong
    client.oauth.exchange_many(["c"], journal="keys.jsonl")  # wrong
    await client.oauth.exchange_auth_code_for_api_key(code="c", code_challenge_method="S265")  # wrong
    await client.oauth.create_auth_code(callback_url="https://a.example", usage_limit_type="yearly")  # wrong
    client.with_options(pool_size=3)  # wrong
    client.with_options(timeout="5")  # wrong


async def hook(request: web.Request, grant: Grant) -> None: ...


async def hook_of_another_framework(request: int, grant: Grant) -> None: ...


def hook_that_is_not_awaited(request: web.Request, grant: Grant) -> None: ...


async def web_apps(app: web.Application, request: web.Request) -> None:
    aiohttp.setup(app, on_login=hook)  # wrong
    aiohttp.setup(app, callback_url="https://app.example/")  # wrong
    aiohttp.setup(app, callback_url="https://app.example/", on_login=hook_of_another_framework)  # wrong
    aiohttp.setup(app, callback_url="https://app.example/", on_login=hook_that_is_not_awaited)
    aiohttp.setup(app, callback_url="https://app.example/", on_login=hook, store="redis://localhost")  # wrong
    await aiohttp.start(request, next="/")  # wrong
    await aiohttp.start_json(request, display="frame")  # wrong


async def hook_of_a_bot(user_id: int, grant: Grant) -> None: ...


def hook_of_a_bot_that_is_not_awaited(user_id: int, grant: Grant) -> None: ...


async def bots(flow: AuthorizationFlow) -> None:
    BotLogin(flow)  # wrong
    BotLogin(flow, on_login=hook_of_a_bot_that_is_not_awaited)
    login = BotLogin(flow, on_login=hook_of_a_bot, store=MemoryStore())  # wrong
    await login.finish_code("the code")  # wrong
    await login.finish("/callback?code=c")  # wrong
    create_router(flow)  # wrong


async def sinks() -> None:
    await FileSink("key").save(b"key")  # wrong
    print((await FileSink("key").load()).key)  # wrong
    CallbackSink(hook_of_a_bot)  # wrong


def constructions() -> None:
    OpenRouter(7)  # wrong
    OpenRouter(retry=3)  # wrong
    OpenRouter(ssl=False)  # wrong
    RetryPolicy(attempts=3)  # wrong
    ExchangeAuthCodeForAPIKeyRequest("c")  # wrong
