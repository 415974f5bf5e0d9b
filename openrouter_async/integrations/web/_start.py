"""The start of a login: a redirect for links, JSON for pages that go on by themselves."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from openrouter_async.errors import RequestValidationError
from openrouter_async.events import Event
from openrouter_async.integrations.web._answers import Refusal
from openrouter_async.integrations.web._browser import DISPLAYS, BrowserBinding, Display
from openrouter_async.integrations.web._framework import RequestInfo, RequestT, ResponseT, StartOptions
from openrouter_async.integrations.web._guards import is_other_host, move_url, network_of
from openrouter_async.integrations.web._site import LoginSite
from openrouter_async.integrations.web._statuses import format_time
from openrouter_async.login._models import LoginCookie, PendingLogin
from openrouter_async.login._pages import render
from openrouter_async.login._records import login_id
from openrouter_async.login.errors import LoginError

logger = logging.getLogger("openrouter_async.integrations.web")


async def start(site: LoginSite[RequestT, ResponseT], request: RequestT, options: StartOptions) -> ResponseT:
    """Start a login, and return a redirect to OpenRouter; see `WebLogin.start`."""
    info = site.framework.read_request(request)
    answers = site.answers
    if info.method == "HEAD":
        return answers.refuse(405, {"Allow": "GET"})
    if info.is_prefetch:
        return answers.refuse(503)
    if info.is_forced:
        # Otherwise another site could start so many logins that the cookies of pending ones are dropped.
        return answers.page(200, render("Sign in", "Another site sent you here.", [("Sign in with OpenRouter", "")]))
    if is_other_host(info, site.callback_url):
        _warn_of_other_host(site)
        if (url := move_url(info, site.callback_url)) is not None:
            return answers.see_other(url)
    return_to = find_return_to(site, info, options.get("return_to"))
    binding = BrowserBinding(display=_display(info, options))
    try:
        pending = await _start(site, info, options, binding, return_to)
    except LoginError as error:
        failure = answers.failure_of(info, error, return_to=return_to)
        return await answers.fail(request, info, failure, path=site.paths.login)
    return answers.see_other(pending.url, _cookies(site, info, pending, binding))


async def start_json(site: LoginSite[RequestT, ResponseT], request: RequestT, options: StartOptions) -> ResponseT:
    """Start a login, and return its addresses as JSON; see `WebLogin.start_json`."""
    info = site.framework.read_request(request)
    site.check_origin(info)
    if is_other_host(info, site.callback_url):
        _warn_of_other_host(site)
    return_to = find_return_to(site, info, options.get("return_to"))
    binding = BrowserBinding(display=_display(info, options))
    try:
        pending = await _start(site, info, options, binding, return_to)
        login = login_id(pending.state)
        binding = BrowserBinding(value=binding.value, display=binding.display, state=pending.state)
        await site.statuses.begin(login, binding, pending.expires_at.timestamp(), return_to)
    except LoginError as error:
        failure = site.answers.failure_of(info, error, return_to=return_to)
        return await site.answers.fail(request, info, failure, path=site.paths.login, as_json=True)
    path = site.paths.status
    return site.answers.json(
        {
            "authorization_url": pending.url,
            "expires_at": format_time(pending.expires_at.timestamp()),
            "login": login,
            "status_url": None if path is None else info.root_path + path.replace("{login}", login),
        },
        cookies=_cookies(site, info, pending, binding),
    )


async def _start(
    site: LoginSite[RequestT, ResponseT],
    info: RequestInfo,
    options: StartOptions,
    binding: BrowserBinding,
    return_to: str | None,
) -> PendingLogin:
    return await site.flow.start(
        key_label=options.get("key_label", site.key_label),
        limit=options.get("limit", site.limit),
        context=options.get("context"),
        return_to=return_to,
        binding=binding.value,
        source=network_of(info.address),
        headless=options.get("headless", False),
    )


def _cookies(
    site: LoginSite[RequestT, ResponseT], info: RequestInfo, pending: PendingLogin, binding: BrowserBinding
) -> Sequence[LoginCookie]:
    return site.cookies.issue(info.cookies, login_id(pending.state), binding, pending.cookie)


def _display(info: RequestInfo, options: StartOptions) -> Display:
    """Return the display that the app or the query asks for."""
    given = options.get("display")
    if given is not None:
        if given not in DISPLAYS:
            raise RequestValidationError("display", f"must be one of {', '.join(DISPLAYS)}")
        return given
    values = info.parameters("display") or ("redirect",)
    if len(values) > 1 or values[0] not in DISPLAYS:
        raise Refusal(400, "invalid-display", "This link is not valid. Please go back to the app, and sign in there.")
    return DISPLAYS[values[0]]


def find_return_to(site: LoginSite[RequestT, ResponseT], info: RequestInfo, given: str | None = None) -> str | None:
    """Return the path to which the user returns, or None, with a warning, if it cannot be used.

    Args:
        site: The login of the app.
        info: The parts of the request.
        given: The path that the app gives; None for ``next`` in the query.
    """
    try:
        return info.return_to(given)
    except RequestValidationError as error:
        # A bad link must not lock the user out.
        logger.warning(
            "a login will return to %s: %s",
            site.default_return_to,
            error,
            extra={"event": Event.RETURN_PATH_IGNORED, "path": site.paths.login},
        )
        return None


def _warn_of_other_host(site: LoginSite[RequestT, ResponseT]) -> None:
    logger.warning(
        "a login started at a host other than that of its callback, %s, where its cookie will be missing",
        site.callback_url.host,
        extra={"event": Event.HOST_MISMATCH, "path": site.paths.login},
    )
