"""The login of a web app, independent of its framework; the module of each framework is a thin layer on it.

A GET starts a login, because a link is enough for it: nothing changes before the user consents on OpenRouter's page,
and an app's own ``form-action 'self'`` would block the redirect of a form. Prefetching browsers are refused.

Each login has its own cookie, so that logins in two tabs do not interfere. The cookie binds the login to the browser,
so that a callback of somebody else is refused (login CSRF).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Generic, TypeAlias, TypeVar, Unpack
from urllib.parse import quote

from yarl import URL

from openrouter_async._client.client import OpenRouter
from openrouter_async._http.retry_policy import check_number
from openrouter_async._values.models import UNSET, Unset
from openrouter_async._values.tasks import ShieldedTasks
from openrouter_async.errors import APIError, OpenRouterError, Outcome, RequestValidationError
from openrouter_async.events import Event
from openrouter_async.integrations._hooks import call_hook, check_hook
from openrouter_async.integrations.web._cookies import surplus_cookies
from openrouter_async.integrations.web._failures import NOT_SIGNED_IN, LoginFailure, describe
from openrouter_async.integrations.web._framework import (
    FlowOptions,
    Framework,
    OnError,
    OnLogin,
    RequestInfo,
    RequestT,
    ResponseT,
    Route,
    StartOptions,
)
from openrouter_async.integrations.web._guards import RejectionLimit, is_other_host, move_url, network_of
from openrouter_async.login._flow import AuthorizationFlow
from openrouter_async.login._models import Grant, LoginCookie, PendingLogin
from openrouter_async.login._pages import PAGE_HEADERS, PRIVACY_HEADERS, render
from openrouter_async.login._records import login_id
from openrouter_async.login._store import LoginStore
from openrouter_async.login._urls import CallbackTemplate, validate_return_to
from openrouter_async.login.errors import CodeRejectedError, LoginBindingError, LoginError, UnknownLoginError
from openrouter_async.redaction import SecretFilter

logger = logging.getLogger("openrouter_async.integrations.web")

_Part = TypeVar("_Part")
Handlers: TypeAlias = Mapping[str, Callable[[RequestT], Awaitable[ResponseT]]]

# aiohttp's gunicorn worker logs to gunicorn.access.
_ACCESS_LOGS: Final = ("aiohttp.access", "gunicorn.access", "hypercorn.access", "uvicorn.access")
_BINDING: Final = re.compile(r"[\w-]{43}", re.ASCII)
_COOKIE: Final = "openrouter-browser-"
# Longer than any login, so that a missing cookie never means an expired one.
_COOKIE_LIFETIME: Final = 24 * 3600


class WebLogin(Generic[RequestT, ResponseT]):
    """The sign-in of a web app.

    Args:
        framework: The adapter to the framework's requests and responses.
        callback_url: The URL to which OpenRouter sends the browser: https, or http on a loopback host in development.
            Its path should contain ``{state}``. Over https cookies are ``Secure`` and have the prefix ``__Host-``.
        on_login: See `openrouter_async.integrations.web.OnLogin`.
        on_error: See `OnError`.
        client: A borrowed client, or a callable that makes one; the latter is closed when the app ends.
        store: A borrowed store of pending logins, or a callable that makes one; the latter is closed when the app ends.
            By default a `MemoryStore`, for one process.
        login_path: The path that starts a login; None adds no route.
        callback_path: The path of the callback as the app sees it, if a proxy rewrites paths or the app is mounted; by
            default that of ``callback_url``. None adds no route.
        default_return_to: The path on the app's own site to which users return when the login had no ``next``.
        key_label: The name of the keys, at most 100 characters.
        limit: The credit limit that OpenRouter's page proposes, in US dollars.
        drain_timeout: Seconds for which the end of the app waits for pending exchanges.
        max_rejections: The most codes of one client address that OpenRouter may reject within ten minutes; further
            callbacks from there get a 429, and nothing is sent. Ten times as many for an address that is not public.
        options: The arguments of `AuthorizationFlow`.

    Raises:
        RequestValidationError: An argument is not valid.

    See Also:
        RFC 9700, sections 2.1, 4.2.4, 4.7 and 4.11; RFC 6265bis, section 4.1.3.
    """

    def __init__(
        self,
        framework: Framework[RequestT, ResponseT],
        *,
        callback_url: str | URL,
        on_login: OnLogin[RequestT, ResponseT],
        on_error: OnError[RequestT, ResponseT] | None = None,
        client: OpenRouter | Callable[[], OpenRouter] = OpenRouter,
        store: LoginStore | Callable[[], LoginStore] | None = None,
        login_path: str | None = "/login",
        callback_path: str | None | Unset = UNSET,
        default_return_to: str = "/",
        key_label: str | None = None,
        limit: float | None = None,
        drain_timeout: float = 10.0,
        max_rejections: int = 20,
        **options: Unpack[FlowOptions],
    ) -> None:
        self._template = CallbackTemplate(callback_url)
        url = URL(self._template.callback_url)
        check_number("drain_timeout", drain_timeout, least=0)
        if isinstance(max_rejections, bool) or not isinstance(max_rejections, int) or max_rejections < 1:
            raise RequestValidationError("max_rejections", "must be an integer of at least 1")
        check_hook("on_login", on_login, 2)
        if on_error is not None:
            check_hook("on_error", on_error, 2)
        self._framework = framework
        self._on_login = on_login
        self._on_error = on_error
        self._client = client
        self._store = store
        self._default_return_to = validate_return_to("default_return_to", default_return_to)
        self._key_label = key_label
        self._limit = limit
        self._drain_timeout = drain_timeout
        self._options = options
        self._callback_url = url
        self._rejections = RejectionLimit(max_rejections)
        # Only on the user's own computer is http accepted, and some browsers keep no secure cookie there.
        self._is_secure = url.scheme == "https"
        self._prefix = "__Host-" + _COOKIE if self._is_secure else _COOKIE
        self.login_path = login_path
        self.callback_path = url.path if isinstance(callback_path, Unset) else callback_path
        self._flow: AuthorizationFlow | None = None
        self._running_client: OpenRouter | None = None
        self._under_way: ShieldedTasks[ResponseT] = ShieldedTasks(_log_abandoned)

    @property
    def routes(self) -> tuple[Route[RequestT, ResponseT], ...]:
        """Return the routes of the login, those without a path left out."""
        table: tuple[tuple[str, str | None, Handlers[RequestT, ResponseT]], ...] = (
            ("login", self.login_path, {"GET": self.start}),
            ("callback", self.callback_path, {"GET": self.finish}),
        )
        return tuple(
            Route(name=name, path=path, handlers=handlers, refuse=self._refuse_method)
            for name, path, handlers in table
            if path is not None
        )

    def _refuse_method(self, methods: Sequence[str]) -> ResponseT:
        return self._refuse(405, {"Allow": ", ".join(methods)})

    @property
    def client(self) -> OpenRouter:
        """Return the client of the running app."""
        return self._check_running(self._running_client)

    @property
    def flow(self) -> AuthorizationFlow:
        """Return the flow of the running app."""
        return self._check_running(self._flow)

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Run the login while the app runs, and wait for pending exchanges at the end.

        Meanwhile codes and states are removed from the access logs of aiohttp, gunicorn, hypercorn and uvicorn.
        """
        async with contextlib.AsyncExitStack() as cleanup:
            secret_filter = SecretFilter()
            for access_log in map(logging.getLogger, _ACCESS_LOGS):
                access_log.addFilter(secret_filter)
                cleanup.callback(access_log.removeFilter, secret_filter)
            client = self._client
            if not isinstance(client, OpenRouter):
                client = await cleanup.enter_async_context(client())
            client.bind()
            store = self._store
            if callable(store):
                store = store()
                if (close := getattr(store, "aclose", None)) is not None:
                    cleanup.push_async_callback(close)
            flow = AuthorizationFlow(client, callback_url=self._template.callback_url, store=store, **self._options)
            self._running_client, self._flow = client, flow
            cleanup.push_async_callback(self._stop, flow)
            yield

    async def _stop(self, flow: AuthorizationFlow) -> None:
        if late := await self._under_way.drain(self._drain_timeout):
            logger.warning("the app ended with %d pending exchange(s)", late)
        await flow.aclose(timeout=self._drain_timeout)
        self._running_client = self._flow = None

    async def start(self, request: RequestT, **options: Unpack[StartOptions]) -> ResponseT:
        """Start a login, and return a redirect to OpenRouter.

        Args:
            request: The request.
            options: As for `StartOptions`.

        Raises:
            RequestValidationError: ``key_label``, ``limit`` or ``context`` is not valid.
        """
        info = self._framework.read_request(request)
        if info.method == "HEAD":
            return self._refuse(405, {"Allow": "GET"})
        if info.is_prefetch:
            return self._refuse(503)
        if info.is_forced:
            # Other sites could otherwise fill the browser's cookies, and push pending logins out.
            page = render("Sign in", "Another site sent you here.", [("Sign in with OpenRouter", "")])
            return self._show(200, page)
        if is_other_host(info, self._callback_url):
            logger.warning(
                "a login started at another host than that of its callback, %s, where its cookie will be missing",
                self._callback_url.host,
                extra={"event": Event.HOST_MISMATCH, "path": self.login_path},
            )
            if (url := move_url(info, self._callback_url)) is not None:
                return self._see_other(url)
        return_to = self._return_to(info, options.get("return_to"))
        try:
            pending, binding_cookie = await self._start_flow(return_to, info.address, options)
        except LoginError as error:
            return await self._fail(request, info, error, path=self.login_path, return_to=return_to)
        added = [binding_cookie]
        prefixes: tuple[str, ...] = (self._prefix,)
        if pending.cookie is not None:
            added.append(pending.cookie)
            prefixes += (pending.cookie.name[:-16],)
        size = sum(len(cookie.name) + len(cookie.value) + 3 for cookie in added)
        surplus = surplus_cookies(info.cookies, prefixes, size)
        return self._see_other(pending.url, [*map(self._cookie, surplus), *added])

    async def _start_flow(
        self, return_to: str | None, address: str | None, options: StartOptions
    ) -> tuple[PendingLogin, LoginCookie]:
        """Start a login of the flow, and return it with the cookie that binds it to the browser."""
        binding = secrets.token_urlsafe(32)
        try:
            pending = await self.flow.start(
                key_label=options.get("key_label", self._key_label),
                limit=options.get("limit", self._limit),
                context=options.get("context"),
                return_to=return_to,
                binding=binding,
                source=network_of(address),
            )
            return pending, self._cookie(self._cookie_name(pending.state), binding)
        finally:
            # A traceback that shows local variables would show it.
            del binding

    def _return_to(self, info: RequestInfo, given: str | None) -> str | None:
        try:
            return info.return_to(given)
        except RequestValidationError as error:
            # A bad link must not lock the user out.
            logger.warning(
                "a login will return to %s: %s",
                self._default_return_to,
                error,
                extra={"event": Event.RETURN_PATH_IGNORED, "path": self.login_path},
            )
            return None

    async def finish(self, request: RequestT) -> ResponseT:
        """Finish a login with the callback that a browser requested.

        The work goes on if the caller is cancelled, as some servers do when the browser disconnects: a code that was
        sent cannot be sent again.
        """
        return await self._under_way.run(self._finish(request))

    def redirect(self, grant: Grant) -> ResponseT:
        """Return the redirect of a signed-in user back into the app, to a URL without a code."""
        return self._see_other(grant.return_to or self._default_return_to)

    async def _finish(self, request: RequestT) -> ResponseT:
        info = self._framework.read_request(request)
        if info.method == "HEAD":
            return self._refuse(405, {"Allow": "GET"})
        wait = self._rejections.retry_after(info.address, self.client.clock)
        if wait is not None:
            return await self._show_failure(request, self._describe_throttled(info, wait))
        try:
            grant = await self.flow.finish(self._callback(info), binding=self._binding(info), cookies=info.cookies)
        except OpenRouterError as error:
            if isinstance(error, CodeRejectedError) or (isinstance(error, APIError) and error.is_code_rejected):
                self._rejections.note(info.address, self.client.clock)
            lacks_cookie = self._binding(info) is None and isinstance(error, (LoginBindingError, UnknownLoginError))
            return await self._fail(request, info, error, path=self.callback_path, lacks_cookie=lacks_cookie)
        response = await call_hook(self._on_login, request, grant)
        if response is None:
            response = self.redirect(grant)
        self._framework.add_headers(response, PRIVACY_HEADERS, () if grant.cookie is None else (grant.cookie,))
        return response

    def _binding(self, info: RequestInfo) -> str | None:
        state = info.path_params.get("state") or next(iter(info.parameters("state")), None)
        binding = None if state is None else info.cookies.get(self._cookie_name(state))
        return None if binding is None or not _BINDING.fullmatch(binding) else binding

    def _callback(self, info: RequestInfo) -> str:
        if (state := info.path_params.get("state")) is None:
            return f"?{info.query}"
        # The flow expects the public path, which a proxy or a mount may have rewritten.
        path = URL(self._template.fill(quote(state, safe=""))).raw_path
        return f"{path}?{info.query}"

    async def _fail(
        self,
        request: RequestT,
        info: RequestInfo,
        error: OpenRouterError,
        *,
        path: str | None,
        return_to: str | None = None,
        lacks_cookie: bool = False,
    ) -> ResponseT:
        failure = describe(
            error,
            login_url=self._login_url(info),
            return_to=getattr(error, "return_to", return_to),
            home_url=self._default_return_to,
            lacks_cookie=lacks_cookie,
        )
        logger.log(
            logging.WARNING if failure.status >= 500 else logging.INFO,
            "a login failed: %s",
            error,
            extra={
                "event": Event.LOGIN_FAILED,
                "error_class": type(error).__name__,
                "outcome": str(error.outcome),
                "path": path,
            },
        )
        return await self._show_failure(request, failure)

    def _login_url(self, info: RequestInfo) -> str | None:
        return None if self.login_path is None else info.root_path + self.login_path

    def _describe_throttled(self, info: RequestInfo, wait: float) -> LoginFailure:
        logger.info(
            "a login failed: OpenRouter rejected too many codes of this address",
            extra={
                "event": Event.LOGIN_FAILED,
                "error_class": None,
                "outcome": str(Outcome.NOT_SENT),
                "path": self.callback_path,
            },
        )
        return LoginFailure(
            status=429,
            title=NOT_SIGNED_IN,
            message="Too many sign-ins failed. Please try again later.",
            login_url=self._login_url(info),
            home_url=self._default_return_to,
            retry_after=wait,
        )

    async def _show_failure(self, request: RequestT, failure: LoginFailure) -> ResponseT:
        response = None if self._on_error is None else await call_hook(self._on_error, request, failure)
        if response is None:
            return self._show(failure.status, failure.page, failure.headers)
        self._framework.add_headers(response, PRIVACY_HEADERS, ())
        return response

    def _show(self, status: int, page: str, headers: Mapping[str, str] | None = None) -> ResponseT:
        response = self._framework.respond(status, page)
        self._framework.add_headers(response, PAGE_HEADERS | dict(headers or {}), ())
        return response

    def _refuse(self, status: int, headers: Mapping[str, str] | None = None) -> ResponseT:
        response = self._framework.respond(status, "")
        self._framework.add_headers(response, PRIVACY_HEADERS | dict(headers or {}), ())
        return response

    def _see_other(self, url: str, cookies: Sequence[LoginCookie] = ()) -> ResponseT:
        response = self._framework.respond(303, "")
        self._framework.add_headers(response, PRIVACY_HEADERS | {"Location": url}, cookies)
        return response

    def _cookie_name(self, state: str) -> str:
        return self._prefix + login_id(state)[:16]

    def _cookie(self, name: str, value: str = "") -> LoginCookie:
        return LoginCookie(name=name, value=value, max_age=_COOKIE_LIFETIME if value else 0, secure=self._is_secure)

    def _check_running(self, part: _Part | None) -> _Part:
        if part is None:
            raise RuntimeError(
                "the login is not running: the lifespan of its app has not begun, or is over. "
                "The lifespan of a mounted app runs only if the outer app enters it."
            )
        return part


def _log_abandoned(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (failure := task.exception()) is not None:
        logger.error("a login failed after its browser had disconnected: %s", type(failure).__name__, exc_info=failure)
