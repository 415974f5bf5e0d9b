"""The end of a login: the callback, and the handover of a key, which other routes share."""

from __future__ import annotations

from urllib.parse import quote

from yarl import URL

from openrouter_async.errors import OpenRouterError
from openrouter_async.integrations._hooks import call_hook
from openrouter_async.integrations.web._browser import BrowserBinding
from openrouter_async.integrations.web._failures import NOT_SIGNED_IN, LoginFailure
from openrouter_async.integrations.web._framework import RequestInfo, RequestT, ResponseT
from openrouter_async.integrations.web._results import finished_page
from openrouter_async.integrations.web._site import LoginSite
from openrouter_async.login._models import Grant
from openrouter_async.login._pages import PRIVACY_HEADERS
from openrouter_async.login._records import login_id
from openrouter_async.login.errors import (
    InvalidCallbackError,
    InvalidCookieError,
    LoginAlreadyUsedError,
    LoginBindingError,
    LoginCancelledError,
    StateMismatchError,
    UnknownLoginError,
)

_APP_FAILED = "The app could not sign you in. Please sign in again."
# Errors that do not end the login whose cookie the browser has.
_OF_ANOTHER_LOGIN = (
    InvalidCallbackError,
    InvalidCookieError,
    LoginAlreadyUsedError,
    LoginBindingError,
    StateMismatchError,
    UnknownLoginError,
)


async def finish(site: LoginSite[RequestT, ResponseT], request: RequestT) -> ResponseT:
    """Finish a login with the callback that a browser requested; see `WebLogin.finish`."""
    info = site.framework.read_request(request)
    if info.method == "HEAD":
        return site.answers.refuse(405, {"Allow": "GET"})
    site.check_rejections(info)
    login, binding = _find_login(site, info)
    try:
        grant = await site.flow.finish(
            _callback(site, info), binding=None if binding is None else binding.value, cookies=info.cookies
        )
    except OpenRouterError as error:
        return await fail(site, request, info, error, path=site.paths.callback, login=login, binding=binding)
    return await hand_over(site, request, grant, login=login, binding=binding)


async def hand_over(
    site: LoginSite[RequestT, ResponseT],
    request: RequestT,
    grant: Grant,
    *,
    login: str | None = None,
    binding: BrowserBinding | None = None,
) -> ResponseT:
    """Give a key to the app, and return the app's answer to the browser.

    Args:
        site: The login of the app.
        request: The request that brought the code.
        grant: The grant.
        login: The id of the login; None if the code belongs to no login that was started here.
        binding: The binding of the login.
    """
    try:
        response = await call_hook(site.on_login, request, grant)
    except Exception as raised:
        if login is not None:
            await _record_raised(site, login, binding, grant, raised)
        raise
    if response is None:
        response = lead_back(site, request, grant)
    if login is not None:
        await site.statuses.end(login, binding, "finished", return_to=grant.return_to)
    site.framework.add_headers(response, PRIVACY_HEADERS, () if grant.cookie is None else (grant.cookie,))
    return response


async def _record_raised(
    site: LoginSite[RequestT, ResponseT],
    login: str,
    binding: BrowserBinding | None,
    grant: Grant,
    raised: Exception,
) -> None:
    """Record the end of a login whose hook raised an error or, as handlers of aiohttp may, a response."""
    status = getattr(raised, "status", None) or getattr(raised, "status_code", None)
    if isinstance(status, int) and status < 400:
        await site.statuses.end(login, binding, "finished", return_to=grant.return_to)
        return
    failure = LoginFailure(status=500, title=NOT_SIGNED_IN, message=_APP_FAILED, kind="app-failed")
    await site.statuses.end(login, binding, "failed", error=failure.problem | {"restart_login": True})


def lead_back(site: LoginSite[RequestT, ResponseT], request: RequestT, grant: Grant) -> ResponseT:
    """Return the answer to a browser whose user is signed in; see `WebLogin.redirect`."""
    info = site.framework.read_request(request)
    return_to = grant.return_to or site.default_return_to
    if info.method == "POST":
        return site.answers.json({"status": "finished", "return_to": return_to})
    login, binding = _find_login(site, info)
    if binding is None or binding.display == "redirect":
        return site.answers.see_other(return_to)
    return site.answers.result(200, finished_page(binding.display, login, return_to))


async def fail(
    site: LoginSite[RequestT, ResponseT],
    request: RequestT,
    info: RequestInfo,
    error: OpenRouterError,
    *,
    path: str | None,
    login: str | None = None,
    binding: BrowserBinding | None = None,
    as_json: bool = False,
) -> ResponseT:
    """Return the answer to a code that gave no key, and record it as the status of its login.

    Args:
        site: The login of the app.
        request: The request that brought the code.
        info: The parts of the request.
        error: The reason.
        path: The path of the route.
        login: The id of the login; None if unknown.
        binding: The binding of the login.
        as_json: Whether a client that prefers neither JSON nor HTML gets JSON.
    """
    site.note_rejection(info, error)
    if isinstance(error, LoginAlreadyUsedError) and login is not None and await _is_cancelled(site, login, binding):
        error = LoginCancelledError("the user cancelled the login", return_to=error.return_to)
    lacks_cookie = binding is None and isinstance(error, (LoginBindingError, UnknownLoginError))
    failure = site.answers.failure_of(info, error, lacks_cookie=lacks_cookie)
    if login is not None and error.restart_login and not isinstance(error, _OF_ANOTHER_LOGIN):
        await site.statuses.end(login, binding, "failed", error=failure.problem)
    display = "redirect" if binding is None else binding.display
    return await site.answers.fail(request, info, failure, path=path, as_json=as_json, display=display, login=login)


async def _is_cancelled(site: LoginSite[RequestT, ResponseT], login: str, binding: BrowserBinding | None) -> bool:
    try:
        status = await site.statuses.find(login, binding)
    except OpenRouterError:
        return False
    return status is not None and (status.error or {}).get("type", "").endswith("login-cancelled")


def _find_login(site: LoginSite[RequestT, ResponseT], info: RequestInfo) -> tuple[str | None, BrowserBinding | None]:
    """Return the id of the login of a callback, and its binding if the browser has it."""
    state = info.path_params.get("state") or next(iter(info.parameters("state")), None)
    if state is None:
        return None, None
    login = login_id(state)
    return login, site.find_binding(info, login)


def _callback(site: LoginSite[RequestT, ResponseT], info: RequestInfo) -> str:
    if (state := info.path_params.get("state")) is None:
        return f"?{info.query}"
    # The flow expects the public path, which a proxy or a mount may have rewritten.
    path = URL(site.template.fill(quote(state, safe=""))).raw_path
    return f"{path}?{info.query}"
