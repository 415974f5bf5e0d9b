from __future__ import annotations

import functools
from typing import Any

import attrs
import pytest

from openrouter_async import Handler, OpenRouter, Request, Response, errors
from openrouter_async._http.chain import build_chain
from tests.kit.requests import make_request

REQUEST = make_request()


async def echo(request: Request) -> Response:
    return Response(status_code=200, headers=request.headers, body=b"", elapsed=0.0)


def tag(name: str) -> Any:
    async def middleware(request: Request, call_next: Handler) -> Response:
        response = await call_next(attrs.evolve(request, headers={"Way": request.headers.get("Way", "") + f">{name}"}))
        return attrs.evolve(response, headers={"Way": response.headers["Way"] + f"<{name}"})

    return middleware


async def test_middleware_first_is_outermost() -> None:
    handler = build_chain("middlewares", [tag("a"), tag("b")], echo)
    assert (await handler(REQUEST)).headers["Way"] == ">a>b<b<a"


async def test_chain_without_middlewares_is_the_handler() -> None:
    assert build_chain("middlewares", [], echo) is echo


class Callable:
    async def __call__(self, request: Request, call_next: Handler) -> Response:
        return await call_next(request)

    async def method(self, request: Request, call_next: Handler) -> Response:
        return await call_next(request)


async def with_option(option: int, request: Request, call_next: Handler) -> Response:
    return await call_next(request)


@pytest.mark.parametrize("middleware", [Callable(), Callable().method, functools.partial(with_option, 1)])
async def test_middleware_may_be_any_async_callable(middleware: Any) -> None:
    assert (await build_chain("middlewares", [middleware], echo)(REQUEST)).status_code == 200


def not_async(request: Request, call_next: Handler) -> Response:
    raise AssertionError("never called")


async def of_one_argument(request: Request) -> Response:
    raise AssertionError("never called")


@pytest.mark.parametrize("middleware", [None, 7, not_async, of_one_argument, Callable])
@pytest.mark.parametrize("field", ["middlewares", "attempt_middlewares"])
def test_middleware_invalid_is_refused_when_the_client_is_made(field: str, middleware: Any) -> None:
    options: dict[str, Any] = {field: [middleware]}
    with pytest.raises(errors.RequestValidationError) as caught:
        OpenRouter(None, **options)
    assert str(caught.value) == f"{field}: must hold async callables of (request, call_next)"
