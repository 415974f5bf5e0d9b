"""What the login of any web framework needs; each framework's own module is a thin layer on it.

A login is started by a GET. It changes nothing that matters before the user consents on OpenRouter's page; a link does
it, and a form would be stopped by an app's own ``form-action 'self'``, for browsers apply that to redirects. Browsers
that only prefetch are turned away. Whoever wants a POST calls ``start`` from a handler of their own.

Each login has a cookie of its own, so that logins in two tabs do not disturb each other. It binds the login to the
browser: somebody else's callback is refused (login CSRF).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar, Unpack
from urllib.parse import quote

from yarl import URL

from openrouter_async._client.client import OpenRouter
from openrouter_async._http.retry_policy import check_number
from openrouter_async._values.models import UNSET, Unset
from openrouter_async._values.tasks import ShieldedTasks
from openrouter_async.errors import OpenRouterError, RequestValidationError
from openrouter_async.integrations.web._failures import describe
from openrouter_async.integrations.web._framework import (
    FlowOptions,
    Framework,
    OnError,
    OnLogin,
    RequestInfo,
    RequestT,
    ResponseT,
    StartOptions,
)
from openrouter_async.login._flow import AuthorizationFlow
from openrouter_async.login._models import Grant, LoginCookie
from openrouter_async.login._pages import PAGE_HEADERS, PRIVACY_HEADERS
from openrouter_async.login._records import LoginStore, login_id
from openrouter_async.login._urls import CallbackTemplate, validate_return_to
from openrouter_async.login.errors import LoginBindingError, LoginError, UnknownLoginError
from openrouter_async.redaction import SecretFilter

logger = logging.getLogger("openrouter_async.integrations.web")

_Part = TypeVar("_Part")

# The workers that gunicorn has of aiohttp write to the second.
_ACCESS_LOGS: Final = ("aiohttp.access", "gunicorn.access", "hypercorn.access", "uvicorn.access")
_BINDING: Final = re.compile(r"[\w-]{43}", re.ASCII)
_COOKIE: Final = "openrouter-browser-"
# Longer than any login, so that the lack of a cookie means something.
_COOKIE_LIFETIME: Final = 24 * 3600
# Servers refuse a request with too many of them.
_MOST_COOKIES: Final = 8


class WebLogin(Generic[RequestT, ResponseT]):
    """Signs the users of a web app in.

    Args:
        framework: How requests and responses look.
        callback_url: Where OpenRouter sends the browser: https, or http on localhost or 127.0.0.1 to try things out.
            ``{state}`` belongs into its path. Over https cookies are ``Secure`` and have the prefix ``__Host-``.
        on_login: See `openrouter_async.integrations.web.OnLogin`.
        on_error: See `OnError`.
        client: The client, which is borrowed; or what makes one, which is closed when the app ends.
        store: Where logins are between start and finish, which is borrowed; or what makes one, which is closed when the
            app ends. By default a `MemoryStore`, for one process.
        login_path: The path that starts a login; None adds no route.
        callback_path: The path of the callback, if something in front of the app alters paths, or the app is a part of
            another; by default that of ``callback_url``. None adds no route.
        home: The path on the app's own site to lead users to who came without ``next``.
        key_label: The name that keys will have, at most 100 characters.
        limit: The credit limit that OpenRouter's page proposes, in US dollars.
        drain_timeout: Seconds that logins under way have at the end of the app.
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
        home: str = "/",
        key_label: str | None = None,
        limit: float | None = None,
        drain_timeout: float = 10.0,
        **options: Unpack[FlowOptions],
    ) -> None:
        self._template = CallbackTemplate(callback_url)
        url = URL(self._template.callback_url)
        check_number("drain_timeout", drain_timeout, least=0)
        self._framework = framework
        self._on_login = on_login
        self._on_error = on_error
        self._client = client
        self._store = store
        self._home = validate_return_to("home", home)
        self._key_label = key_label
        self._limit = limit
        self._drain_timeout = drain_timeout
        self._options = options
        # Only on the user's own computer is http accepted, and some browsers keep no secure cookie there.
        self._is_secure = url.scheme == "https"
        self._prefix = "__Host-" + _COOKIE if self._is_secure else _COOKIE
        self.login_path = login_path
        self.callback_path = url.path if isinstance(callback_path, Unset) else callback_path
        self._flow: AuthorizationFlow | None = None
        self._running_client: OpenRouter | None = None
        self._under_way: ShieldedTasks[ResponseT] = ShieldedTasks(_log_abandoned)

    @property
    def client(self) -> OpenRouter:
        """The client, while the app runs."""
        return self._check_running(self._running_client)

    @property
    def flow(self) -> AuthorizationFlow:
        """The flow, while the app runs."""
        return self._check_running(self._flow)

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Be there as long as the app runs; at its end, let logins under way end.

        Codes are kept out of the access logs of aiohttp, hypercorn and uvicorn meanwhile.
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
            logger.warning("the app ended with %d login(s) still under way", late)
        await flow.drain(timeout=self._drain_timeout)
        self._running_client = self._flow = None

    async def start(self, request: RequestT, **options: Unpack[StartOptions]) -> ResponseT:
        """Start a login: a response that leads the browser to OpenRouter.

        Args:
            request: The request.
            options: As for `StartOptions`.

        Raises:
            RequestValidationError: ``key_label``, ``limit`` or ``context`` is not valid.
        """
        visit = self._framework.visit(request, self.login_path)
        if visit.method == "HEAD":
            return self._refuse(405, {"Allow": "GET"})
        if visit.is_prefetch:
            return self._refuse(503)
        try:
            return_to = visit.return_to(options.get("return_to"))
        except RequestValidationError as error:
            return await self._fail(request, visit, error)
        binding = secrets.token_urlsafe(32)
        try:
            pending = await self.flow.start(
                key_label=options.get("key_label", self._key_label),
                limit=options.get("limit", self._limit),
                context=options.get("context"),
                return_to=return_to,
                binding=binding,
            )
        except LoginError as error:
            return await self._fail(request, visit, error, return_to=return_to)
        cookies = [self._cookie(name) for name in self._surplus(visit.cookies)]
        cookies.append(self._cookie(self._cookie_name(pending.state), binding))
        if pending.cookie is not None:
            cookies.append(pending.cookie)
        return self._see_other(pending.url, cookies)

    async def finish(self, request: RequestT) -> ResponseT:
        """Finish a login by the callback that a browser brought.

        It goes on when the caller is cancelled, as some servers do when the browser has gone: a code that was sent
        cannot be sent again.
        """
        return await self._under_way.run(self._finish(request))

    def redirect(self, grant: Grant) -> ResponseT:
        """The response that leads a user who signed in back into the app, at an address without a code."""
        return self._see_other(grant.return_to or self._home)

    async def _finish(self, request: RequestT) -> ResponseT:
        visit = self._framework.visit(request, self.login_path)
        if visit.method == "HEAD":
            return self._refuse(405, {"Allow": "GET"})
        state = visit.state or next(iter(visit.parameters("state")), None)
        binding = None if state is None else visit.cookies.get(self._cookie_name(state))
        if binding is not None and not _BINDING.fullmatch(binding):
            binding = None
        try:
            grant = await self.flow.finish(self._callback(visit), binding=binding, cookies=visit.cookies)
        except OpenRouterError as error:
            lacks_cookie = binding is None and isinstance(error, (LoginBindingError, UnknownLoginError))
            return await self._fail(request, visit, error, lacks_cookie=lacks_cookie)
        response = await self._on_login(request, grant)
        if response is None:
            response = self.redirect(grant)
        self._framework.amend(response, PRIVACY_HEADERS, () if grant.cookie is None else (grant.cookie,))
        return response

    def _callback(self, visit: RequestInfo) -> str:
        if visit.state is None:
            return f"?{visit.query}"
        # As the flow knows it, whatever a proxy or the app did to the path.
        path = URL(self._template.fill(quote(visit.state, safe=""))).raw_path
        return f"{path}?{visit.query}"

    async def _fail(
        self,
        request: RequestT,
        visit: RequestInfo,
        error: OpenRouterError,
        *,
        return_to: str | None = None,
        lacks_cookie: bool = False,
    ) -> ResponseT:
        failure = describe(
            error,
            login_url=visit.login_url,
            return_to=getattr(error, "return_to", return_to),
            home_url=self._home,
            lacks_cookie=lacks_cookie,
        )
        if failure.status >= 500:
            logger.warning("a login failed: %s", error)
        response = None if self._on_error is None else await self._on_error(request, failure)
        if response is not None:
            self._framework.amend(response, PRIVACY_HEADERS, ())
            return response
        response = self._framework.respond(failure.status, failure.page)
        self._framework.amend(response, PAGE_HEADERS | failure.headers, ())
        return response

    def _refuse(self, status: int, headers: Mapping[str, str] | None = None) -> ResponseT:
        response = self._framework.respond(status, "")
        self._framework.amend(response, PRIVACY_HEADERS | dict(headers or {}), ())
        return response

    def _see_other(self, url: str, cookies: Sequence[LoginCookie] = ()) -> ResponseT:
        response = self._framework.respond(303, "")
        self._framework.amend(response, PRIVACY_HEADERS | {"Location": url}, cookies)
        return response

    def _cookie_name(self, state: str) -> str:
        return self._prefix + login_id(state)[:16]

    def _cookie(self, name: str, value: str = "") -> LoginCookie:
        return LoginCookie(name=name, value=value, max_age=_COOKIE_LIFETIME if value else 0, secure=self._is_secure)

    def _surplus(self, cookies: Mapping[str, str]) -> Sequence[str]:
        # Browsers send the oldest first (RFC 6265, section 5.4).
        names = [name for name in cookies if name.startswith(self._prefix)]
        return names[: max(0, len(names) + 1 - _MOST_COOKIES)]

    def _check_running(self, part: _Part | None) -> _Part:
        if part is None:
            raise RuntimeError(
                "the login is not running: the lifespan of its app has not begun, or is over. "
                "An app that is mounted in another one needs the other's help to have a lifespan at all."
            )
        return part


def _log_abandoned(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (failure := task.exception()) is not None:
        logger.error("a login whose browser had gone failed: %s", type(failure).__name__, exc_info=failure)
