"""The status of a login, for the browser that started it: at once, by long polling, or as server-sent events."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator
from typing import Any, Final

import attrs

from openrouter_async.errors import OpenRouterError
from openrouter_async.integrations.web._answers import Refusal
from openrouter_async.integrations.web._browser import BrowserBinding
from openrouter_async.integrations.web._framework import RequestInfo, RequestT, ResponseT
from openrouter_async.integrations.web._guards import is_foreign
from openrouter_async.integrations.web._site import LoginSite
from openrouter_async.integrations.web._statuses import LoginStatus, format_time
from openrouter_async.login._pages import PRIVACY_HEADERS
from openrouter_async.login.errors import (
    LoginAlreadyUsedError,
    LoginCancelledError,
    LoginExpiredError,
    UnknownLoginError,
)

MAX_WAIT: Final = 25.0
"""The maximum number of seconds that a request for the status is held: proxies give up after 30 or 60."""
MAX_STREAM: Final = 60.0
"""The seconds after which a stream of events ends, and the browser opens another one by itself."""
MAX_WAITING: Final = 1000
"""The maximum number of requests that one process holds; further ones are answered at once."""
_INTERVAL: Final = 0.5
_HEARTBEAT: Final = 15.0
_EVENT_STREAM: Final = "text/event-stream"


async def show(site: LoginSite[RequestT, ResponseT], request: RequestT) -> ResponseT:
    """Return the status of a login; see `WebLogin.status`."""
    info = site.framework.read_request(request)
    if is_foreign(info):
        raise Refusal(403, "other-origin", "Only pages of this app may use this address.")
    login, binding = _read(site, info)
    wait = _read_wait(info)
    try:
        status = await _find(site, info, login, binding)
        if _EVENT_STREAM in info.headers.get("Accept", ""):
            headers = PRIVACY_HEADERS | {"Content-Type": _EVENT_STREAM, "X-Accel-Buffering": "no"}
            return await site.framework.stream(request, headers, _events(site, info, login, binding))
        with site.waiting() as waiting:
            clock = site.statuses.clock
            give_up_at = clock.monotonic() + (wait if waiting <= MAX_WAITING else 0.0)
            while status.status == "pending" and (left := give_up_at - clock.monotonic()) > 0:
                await clock.sleep(min(_INTERVAL, left))
                status = await _find(site, info, login, binding)
    except OpenRouterError as error:
        return await _fail(site, request, info, error)
    return site.answers.json(_document(login, status))


async def cancel(site: LoginSite[RequestT, ResponseT], request: RequestT) -> ResponseT:
    """Cancel a login; see `WebLogin.cancel`."""
    info = site.framework.read_request(request)
    site.check_origin(info)
    login, binding = _read(site, info)
    try:
        status = await _find(site, info, login, binding)
        if status.status == "finished":
            raise LoginAlreadyUsedError("the login is over")
        if status.status == "pending":
            await site.flow.cancel(binding.state or "", binding=binding.value, cookies=info.cookies)
            problem = site.answers.failure_of(info, LoginCancelledError("the user cancelled the login")).problem
            await site.statuses.end(login, binding, "failed", error=problem)
            status = await _find(site, info, login, binding)
    except OpenRouterError as error:
        return await _fail(site, request, info, error)
    return site.answers.json(_document(login, status))


def _read(site: LoginSite[RequestT, ResponseT], info: RequestInfo) -> tuple[str, BrowserBinding]:
    """Return the id of the login in the path, and the binding of the browser that started it.

    Another browser gets the same answer for a login that exists and for one that does not.

    Raises:
        Refusal: The browser did not start the login.
    """
    login = info.path_params.get("login", "")
    binding = site.find_binding(info, login)
    if binding is None or binding.state is None:
        raise Refusal(404, "unknown-login", "This browser did not start this sign-in, or its cookies are blocked.")
    return login, binding


def _read_wait(info: RequestInfo) -> float:
    """Return the seconds that the page wants to wait, within the bound.

    Raises:
        Refusal: ``wait`` is not a number.
    """
    values = info.parameters("wait")
    try:
        wait = float(values[0]) if values else 0.0
    except ValueError:
        wait = math.nan
    if not 0 <= wait < math.inf:
        raise Refusal(400, "invalid-request", "wait must be a number of seconds.")
    return min(wait, MAX_WAIT)


async def _find(
    site: LoginSite[RequestT, ResponseT], info: RequestInfo, login: str, binding: BrowserBinding
) -> LoginStatus:
    """Return the status of a login as it is now.

    Raises:
        UnknownLoginError: The login has no status, or another browser started it.
        LoginStoreError: The store cannot be reached.
    """
    status = await site.statuses.find(login, binding)
    if status is None:
        raise UnknownLoginError("this login has no status, or has expired")
    if status.status == "pending" and status.expires_at <= site.statuses.clock.time():
        expired = LoginExpiredError("the login took longer than its lifetime", return_to=status.return_to)
        return attrs.evolve(status, status="failed", error=site.answers.failure_of(info, expired).problem)
    return status


def _document(login: str, status: LoginStatus) -> dict[str, Any]:
    document: dict[str, Any] = {"status": status.status, "login": login}
    if status.status == "pending":
        document["expires_at"] = format_time(status.expires_at)
    if status.status == "finished":
        document["return_to"] = status.return_to
    if status.status == "failed":
        document["error"] = status.error
    return document


async def _fail(
    site: LoginSite[RequestT, ResponseT], request: RequestT, info: RequestInfo, error: OpenRouterError
) -> ResponseT:
    failure = site.answers.failure_of(info, error)
    if isinstance(error, UnknownLoginError):
        failure = attrs.evolve(failure, status=404)
    return await site.answers.fail(request, info, failure, path=site.paths.status, as_json=True)


async def _events(
    site: LoginSite[RequestT, ResponseT], info: RequestInfo, login: str, binding: BrowserBinding
) -> AsyncGenerator[bytes, None]:
    """Yield the status as an event now, and again when it changes."""
    clock = site.statuses.clock
    with site.waiting() as waiting:
        end_at = clock.monotonic() + (MAX_STREAM if waiting <= MAX_WAITING else 0.0)
        beat_at = clock.monotonic() + _HEARTBEAT
        sent = ""
        while True:
            try:
                status = await _find(site, info, login, binding)
            except OpenRouterError:
                # The browser opens the stream again, and gets the failure as the answer.
                return
            if status.status != sent:
                sent = status.status
                yield f"event: status\ndata: {json.dumps(_document(login, status))}\n\n".encode()
            if sent != "pending" or clock.monotonic() >= end_at or not site.is_running:
                return
            if clock.monotonic() >= beat_at:
                # Send an SSE comment: it keeps proxies from closing an idle connection, and fails if the browser has
                # left.
                beat_at = clock.monotonic() + _HEARTBEAT
                yield b":\n\n"
            await clock.sleep(_INTERVAL)
