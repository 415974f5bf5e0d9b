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
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any, Generic, TypeAlias, Unpack

from yarl import URL

from openrouter_async._client.client import OpenRouter
from openrouter_async._values.models import LOOPBACK_HOSTS, UNSET, Unset
from openrouter_async._values.tasks import ShieldedTasks
from openrouter_async._values.validation import check_hook, check_integer, check_number
from openrouter_async.errors import RequestValidationError
from openrouter_async.events import Event
from openrouter_async.integrations._parts import open_client, open_store
from openrouter_async.integrations.web import _callback, _exchange, _logout, _start, _status
from openrouter_async.integrations.web._access_logs import filter_access_logs
from openrouter_async.integrations.web._answers import Answers, Refusal
from openrouter_async.integrations.web._browser import BrowserCookies
from openrouter_async.integrations.web._framework import (
    FlowOptions,
    Framework,
    OnError,
    OnLogin,
    OnLogout,
    RequestT,
    ResponseT,
    Route,
    StartOptions,
)
from openrouter_async.integrations.web._guards import AddressLimit
from openrouter_async.integrations.web._results import RenderPage
from openrouter_async.integrations.web._site import LoginSite, Paths
from openrouter_async.integrations.web._statuses import Statuses, values_beside
from openrouter_async.login._flow import AuthorizationFlow
from openrouter_async.login._models import Grant
from openrouter_async.login._store import LoginStore
from openrouter_async.login._urls import CallbackTemplate, validate_return_to
from openrouter_async.login.stores._memory import MemoryStore
from openrouter_async.sinks._base import KeyVault

logger = logging.getLogger("openrouter_async.integrations.web")

Handlers: TypeAlias = Mapping[str, Callable[[RequestT], Awaitable[ResponseT]]]


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
        login_path: The path that starts a login, for a link by GET, and for a script by POST, which returns JSON. None
            adds no route.
        callback_path: The path of the callback as the app sees it, if a proxy rewrites paths or the app is mounted; by
            default that of ``callback_url``. None adds no route.
        status_path: The path of the status of a login that a script started, with ``{login}``; by default
            ``/status/{login}`` below ``login_path``. None adds no route.
        complete_path: The path to which a page sends a code that the user pasted; by default ``/complete`` below
            ``login_path``. None adds no route.
        exchange_path: The path to which a page that does PKCE itself sends its code and verifier; by default there is
            none.
        logout_path: The path to which a page sends a user who signs out, by a POST; by default there is none.
        on_logout: See `OnLogout`; it needs ``logout_path``.
        render_page: The app's own template for the pages at which logins in popups and tabs end; see `ResultPage`.
        default_return_to: The path on the app's own site to which users return when the login had no ``next``.
        key_label: The name of the keys, at most 100 characters.
        limit: The credit limit that OpenRouter's page proposes, in US dollars.
        drain_timeout: Seconds to wait for pending exchanges when the app ends.
        max_rejections: The maximum number of codes from one client address that OpenRouter may reject within ten
            minutes; further codes from there get a 429, and nothing is sent. Ten times as many for an address that is
            not public.
        max_exchanges: The maximum number of requests from one client address to ``exchange_path`` within ten minutes,
            in each process; ten times as many for an address that is not public.
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
        status_path: str | None | Unset = UNSET,
        complete_path: str | None | Unset = UNSET,
        exchange_path: str | None = None,
        logout_path: str | None = None,
        on_logout: OnLogout[RequestT, ResponseT] | None = None,
        render_page: RenderPage | None = None,
        default_return_to: str = "/",
        key_label: str | None = None,
        limit: float | None = None,
        drain_timeout: float = 10.0,
        max_rejections: int = 20,
        max_exchanges: int = 20,
        **options: Unpack[FlowOptions],
    ) -> None:
        template = CallbackTemplate(callback_url)
        url = URL(template.callback_url)
        check_number("drain_timeout", drain_timeout, least=0)
        check_integer("max_rejections", max_rejections)
        check_integer("max_exchanges", max_exchanges)
        check_hook("on_login", on_login, "request", "grant", optional=False)
        check_hook("on_error", on_error, "request", "failure")
        check_hook("on_logout", on_logout, "request")
        check_hook("render_page", render_page, "page")
        if on_logout is not None and logout_path is None:
            raise RequestValidationError("on_logout", "needs logout_path")
        home_url = validate_return_to("default_return_to", default_return_to)
        self._client = client
        self._store = store
        self._drain_timeout = drain_timeout
        self._options = options
        self._site = LoginSite(
            framework=framework,
            answers=Answers(
                framework=framework,
                on_error=on_error,
                render_page=render_page,
                login_path=login_path,
                home_url=home_url,
                local_origin=str(url.origin()) if url.host in LOOPBACK_HOSTS else None,
            ),
            cookies=BrowserCookies(is_secure=url.scheme == "https"),
            template=template,
            paths=Paths(
                login=login_path,
                callback=url.path if isinstance(callback_path, Unset) else callback_path,
                status=_check_status_path(_below(login_path, "/status/{login}", status_path)),
                complete=_below(login_path, "/complete", complete_path),
                exchange=exchange_path,
                logout=logout_path,
            ),
            on_login=on_login,
            on_logout=on_logout,
            default_return_to=home_url,
            key_label=key_label,
            limit=limit,
            rejections=AddressLimit(max_rejections),
            exchanges=AddressLimit(max_exchanges),
        )
        self._under_way: ShieldedTasks[ResponseT] = ShieldedTasks(_log_abandoned)

    @property
    def routes(self) -> tuple[Route[RequestT, ResponseT], ...]:
        """Return the routes of the login that have a path."""
        paths = self._site.paths
        table: tuple[tuple[str, str | None, Handlers[RequestT, ResponseT]], ...] = (
            ("login", paths.login, {"GET": self.start, "POST": self.start_json}),
            ("callback", paths.callback, {"GET": self.finish}),
            ("status", paths.status, {"GET": self.status, "DELETE": self.cancel}),
            ("complete", paths.complete, {"POST": self.complete}),
            ("exchange", paths.exchange, {"POST": self.exchange}),
            ("logout", paths.logout, {"POST": self.logout}),
        )
        return tuple(
            Route(name=name, path=path, handlers=handlers, refuse=self._site.answers.refuse_method)
            for name, path, handlers in table
            if path is not None
        )

    @property
    def client(self) -> OpenRouter:
        """Return the client of the running app."""
        return self._site.client

    @property
    def flow(self) -> AuthorizationFlow:
        """Return the flow of the running app."""
        return self._site.flow

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Run the login while the app runs, and wait for pending exchanges at the end.

        Meanwhile codes and states are removed from the logs of aiohttp, Granian, gunicorn, Hypercorn and uvicorn.
        """
        async with contextlib.AsyncExitStack() as cleanup:
            cleanup.enter_context(filter_access_logs(self._site.secret_paths))
            client = await open_client(cleanup, self._client)
            store = MemoryStore() if self._store is None else open_store(cleanup, self._store)
            site = self._site
            flow = AuthorizationFlow(client, callback_url=site.template.callback_url, store=store, **self._options)
            site.running_client, site.running_flow = client, flow
            site.running_statuses = Statuses(values_beside(store), self._options.get("clock") or client.clock)
            cleanup.push_async_callback(self._stop, flow)
            yield

    async def _stop(self, flow: AuthorizationFlow) -> None:
        if late := await self._under_way.drain(self._drain_timeout):
            logger.warning("the app ended with %d pending exchange(s)", late, extra={"event": Event.CUT_OFF})
        await flow.aclose(timeout=self._drain_timeout)
        self._site.running_client = self._site.running_flow = self._site.running_statuses = None

    async def start(self, request: RequestT, **options: Unpack[StartOptions]) -> ResponseT:
        """Start a login, and return a redirect to OpenRouter.

        Args:
            request: The request.
            options: As for `StartOptions`.

        Raises:
            RequestValidationError: ``key_label``, ``limit``, ``display`` or ``context`` is not valid.
        """
        return await self._answer(request, self._site.paths.login, _start.start(self._site, request, options))

    async def start_json(self, request: RequestT, **options: Unpack[StartOptions]) -> ResponseT:
        """Start a login for a page of the app, and return its addresses as JSON.

        The members are ``authorization_url``, which the page opens, ``expires_at``, ``login``, the login's id, and
        ``status_url``, null if there is no route for it. The page must be of the app's own origin.

        Args:
            request: The request.
            options: As for `StartOptions`.

        Raises:
            RequestValidationError: ``key_label``, ``limit``, ``display`` or ``context`` is not valid.
        """
        starting = _start.start_json(self._site, request, options)
        return await self._answer(request, self._site.paths.login, starting, as_json=True)

    async def finish(self, request: RequestT) -> ResponseT:
        """Finish a login with the callback that a browser requested.

        The work goes on if the caller is cancelled, as some servers do when the browser disconnects: a code that was
        sent cannot be sent again.
        """
        finishing = _callback.finish(self._site, request)
        return await self._under_way.run(self._answer(request, self._site.paths.callback, finishing))

    async def status(self, request: RequestT) -> ResponseT:
        """Return the status of a login to the browser that started it by `start_json`.

        The members are ``status``, which is ``pending``, ``finished`` or ``failed``, and ``login``; ``expires_at`` of a
        pending login, ``return_to`` of a finished one, and ``error`` of a failed one, a problem (RFC 9457) with the
        members ``outcome``, ``restart_login`` and ``retry_after``. With ``wait`` in the query, the answer comes when
        the login ends, or after ``wait`` seconds, at most 25. A client that accepts ``text/event-stream`` gets events.
        """
        return await self._answer(request, self._site.paths.status, _status.show(self._site, request), as_json=True)

    async def cancel(self, request: RequestT) -> ResponseT:
        """Cancel a login that the same browser started by `start_json`, and return its status.

        A login whose code is being exchanged cannot be cancelled; the answer is a 409 then.
        """
        return await self._answer(request, self._site.paths.status, _status.cancel(self._site, request), as_json=True)

    async def complete(self, request: RequestT) -> ResponseT:
        """Finish a login with a code that the user pasted into a page of the app.

        The body is a JSON object of ``login``, the id that `start_json` gave, and ``code``, the bare code or the URL
        that the browser ended on. A refused code leaves the login open.
        """
        completing = _exchange.complete(self._site, request)
        return await self._under_way.run(self._answer(request, self._site.paths.complete, completing, as_json=True))

    async def exchange(self, request: RequestT) -> ResponseT:
        """Exchange the code of a page that does PKCE itself, once across all workers.

        The body is a JSON object of ``code``, ``code_verifier``, and ``code_challenge_method``, by default ``S256``.
        """
        exchanging = _exchange.exchange(self._site, request)
        return await self._under_way.run(self._answer(request, self._site.paths.exchange, exchanging, as_json=True))

    async def logout(self, request: RequestT) -> ResponseT:
        """Sign a user out with the app's ``on_logout``, at the request of a page of the app."""
        return await self._answer(request, self._site.paths.logout, _logout.log_out(self._site, request), as_json=True)

    async def sign_out(
        self, request: RequestT, *, key: str | None = None, vaults: Iterable[KeyVault] = ()
    ) -> ResponseT:
        """Forget a user's key, and return an answer that says where the user can delete it.

        The browser's pending logins are forgotten as well. A script gets JSON with ``status`` and ``settings_url``, a
        form a page with the link.

        Args:
            request: The request.
            key: The key that the app held for the user; it is not sent anywhere.
            vaults: The sinks to delete the key from.

        Raises:
            KeySinkError: A sink could not delete the key; the other sinks were still asked to.
        """
        signing_out = _logout.sign_out(self._site, request, key=key, vaults=vaults)
        # A traceback that shows local variables would show the key.
        del key
        return await signing_out

    def redirect(self, request: RequestT, grant: Grant) -> ResponseT:
        """Return the answer that leads a signed-in user back into the app, for ``on_login`` to add cookies to.

        Depending on how the login was started, that is a redirect to a URL without a code, the page that ends a popup
        or a tab, or JSON for a page of the app.

        Args:
            request: The request that ``on_login`` received.
            grant: The grant that ``on_login`` received.
        """
        return _callback.lead_back(self._site, request, grant)

    async def _answer(
        self, request: RequestT, path: str | None, work: Coroutine[Any, Any, ResponseT], *, as_json: bool = False
    ) -> ResponseT:
        """Return the answer of a route, or the one to a request that it refuses.

        Args:
            request: The request.
            path: The path of the route.
            work: Makes the answer.
            as_json: Whether a client that prefers neither JSON nor HTML gets a refusal as JSON.
        """
        try:
            return await work
        except Refusal as refusal:
            answers = self._site.answers
            info = answers.framework.read_request(request)
            failure = answers.complete_failure(info, refusal.failure)
            return await answers.fail(request, info, failure, path=path, as_json=as_json)


def _below(login_path: str | None, suffix: str, given: str | None | Unset) -> str | None:
    if not isinstance(given, Unset):
        return given
    return None if login_path is None else login_path.rstrip("/") + suffix


def _check_status_path(path: str | None) -> str | None:
    if path is not None and "{login}" not in path:
        raise RequestValidationError("status_path", "must have {login} in it")
    return path


def _log_abandoned(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (failure := task.exception()) is not None:
        logger.error(
            "a login failed after its browser had disconnected: %s",
            type(failure).__name__,
            exc_info=failure,
            extra={"event": Event.UNSEEN_FAILURE},
        )
