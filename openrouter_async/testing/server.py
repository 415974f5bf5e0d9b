"""The fake OpenRouter: a server on a local port."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime
from types import TracebackType
from typing import Final, Self

from aiohttp import web

from openrouter_async.clock import SYSTEM_CLOCK, Clock
from openrouter_async.login.ports import listen
from openrouter_async.models import UNSET, CodeChallengeMethod, Unset, UsageLimitType
from openrouter_async.testing.api import API, Operation
from openrouter_async.testing.authority import Authority, IssuedKey, KeyOptions, to_method, to_user_id
from openrouter_async.testing.browser import Pages
from openrouter_async.testing.clock import MovableClock
from openrouter_async.testing.consent import Authorization
from openrouter_async.testing.dialects import Answer, Dialect, error
from openrouter_async.testing.faults import Fault
from openrouter_async.testing.misbehaviour import misbehave
from openrouter_async.testing.records import History, RecordedRequest
from openrouter_async.testing.scripts import RateLimit, Script

TOKEN: Final = f"sk-or-v1-{'5a' * 32}"
"""The bearer token of an app that is known by default."""

_MOST_CODES: Final = 200_000
_MOST_REQUESTS: Final = 10_000
_BACKLOG: Final = 1024
_SHUTDOWN: Final = 1.0


class FakeOpenRouter:
    """A fake OpenRouter on a local port: the API, the pages, and faults on demand.

    It can be entered as an async context manager, which listens on 127.0.0.1 and, where there is one, on ::1; or
    its ``app`` can be put into another server.

    Args:
        port: The port to listen on; 0 takes a free one.
        tokens: The bearer tokens that may create codes; by default one, which ``token`` gives.
        dialect: How refusals are worded.
        clock: Where time comes from; `advance` moves ahead of it.
        code_lifetime: Seconds for which a code can be redeemed.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        tokens: Collection[str] | None = None,
        dialect: Dialect = Dialect.DOCUMENTED,
        clock: Clock = SYSTEM_CLOCK,
        code_lifetime: float = 600.0,
    ) -> None:
        self._port = port
        self._tokens = [TOKEN] if tokens is None else list(tokens)
        self._clock = MovableClock(clock)
        self._script = Script()
        self._requests: History[RecordedRequest] = History(_MOST_REQUESTS)
        self._authority = Authority(self._clock.time, code_lifetime=code_lifetime, capacity=_MOST_CODES)
        self._api = API(
            authority=self._authority,
            tokens=frozenset(self._tokens),
            dialect=Dialect(dialect),
            issued_keys=History(_MOST_CODES),
            redeemed_codes=History(_MOST_CODES),
            counters=Counter(),
        )
        self._cleanup = contextlib.AsyncExitStack()
        self._app = self._make_app()

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as cleanup:
            sockets = listen(self._port)
            for listener in sockets:
                cleanup.callback(listener.close)
            runner = web.AppRunner(
                self._app, access_log=None, handler_cancellation=True, shutdown_timeout=_SHUTDOWN, tcp_keepalive=False
            )
            await runner.setup()
            cleanup.push_async_callback(runner.cleanup)
            for listener in sockets:
                await web.SockSite(runner, listener, backlog=_BACKLOG).start()
            self._port = sockets[0].getsockname()[1]
            self._cleanup = cleanup.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._cleanup.aclose()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._port or 'not listening'}>"

    @property
    def app(self) -> web.Application:
        """What serves it, to be put into another server."""
        return self._app

    @property
    def url(self) -> str:
        """Where it is."""
        if not self._port:
            raise RuntimeError("the fake OpenRouter does not listen yet: use `async with`")
        return f"http://127.0.0.1:{self._port}"

    @property
    def base_url(self) -> str:
        """The address of its API."""
        return f"{self.url}/api/v1"

    @property
    def auth_url(self) -> str:
        """The page on which users consent."""
        return f"{self.url}/auth"

    @property
    def token(self) -> str:
        """A bearer token that it accepts."""
        return self._tokens[0]

    @property
    def issued_keys(self) -> Sequence[IssuedKey]:
        """The keys that it issued."""
        return self._api.issued_keys

    @property
    def redeemed_codes(self) -> Sequence[str]:
        """The codes that were redeemed."""
        return self._api.redeemed_codes

    @property
    def requests(self) -> Sequence[RecordedRequest]:
        """The requests to its API."""
        return self._requests

    @property
    def counters(self) -> Counter[str]:
        """How often each operation came, and each of its answers: ``exchange``, ``exchange 200``."""
        return self._api.counters

    def issue_code(
        self,
        *,
        code_challenge: str | None = None,
        code_challenge_method: CodeChallengeMethod | str | None = None,
        callback_url: str | None = None,
        user_id: str | None | Unset = UNSET,
        key_label: str | None = None,
        limit: float | None = None,
        usage_limit_type: UsageLimitType | None = None,
        expires_at: datetime | None = None,
        workspace_id: str | None = None,
    ) -> str:
        """Issue a code, as if a user had consented.

        Args:
            code_challenge: The challenge that it answers to; None for none.
            code_challenge_method: How it was derived; None means ``plain`` (RFC 7636, section 4.3).
            callback_url: Where the code is sent.
            user_id: Who consented; None is a user whom OpenRouter does not name.
            key_label: The name of the key.
            limit: The credit limit of the key in US dollars.
            usage_limit_type: When the limit resets.
            expires_at: When the key expires.
            workspace_id: The workspace of the key.
        """
        issued = self._authority.issue(
            code_challenge=code_challenge,
            code_challenge_method=to_method(code_challenge_method),
            callback_url=callback_url,
            key=KeyOptions(
                user_id=to_user_id(user_id),
                label=key_label,
                limit=limit,
                usage_limit_type=usage_limit_type,
                expires_at=expires_at,
                workspace_id=workspace_id,
            ),
        )
        return issued.code

    def consent(self, url: str, *, user_id: str | None | Unset = UNSET) -> str:
        """What a browser brings back when the user consents on an authorization page.

        Args:
            url: The page's URL; its host does not matter.
            user_id: Who consents.

        Returns:
            The callback's URL with the code and the state; in a headless login the bare code.

        Raises:
            BadAuthorizationError: The page would not be shown. It is a ValueError.
        """
        asked = Authorization.from_url(url)
        self.counters["consent"] += 1
        return asked.granted(self._issue_for(asked, to_user_id(user_id)))

    def deny(self, url: str) -> str:
        """What a browser brings back when the user says no on an authorization page.

        Args:
            url: The page's URL; its host does not matter.

        Returns:
            The callback's URL with an error, and without the state.

        Raises:
            BadAuthorizationError: The page would not be shown, or the login is headless. It is a ValueError.
        """
        denied = Authorization.from_url(url).denied()
        self.counters["denial"] += 1
        return denied

    def advance(self, seconds: float) -> None:
        """Move its clock forward."""
        self._clock.advance(seconds)

    def script(self, *faults: Fault) -> None:
        """Let the next requests to the API meet these faults, one each."""
        self._script.add(*faults)

    def rate_limit(self, per_second: float | None) -> None:
        """Answer 429 with an honest ``Retry-After`` to more requests than that; None ends it."""
        self._api.limit = None if per_second is None else RateLimit(per_second, self._clock.monotonic)

    def _issue_for(self, asked: Authorization, user_id: str | None) -> str:
        issued = self._authority.issue(
            code_challenge=asked.code_challenge,
            code_challenge_method=asked.code_challenge_method,
            callback_url=asked.callback_url,
            key=KeyOptions(user_id=user_id, label=asked.key_label, limit=asked.limit),
        )
        return issued.code

    def _make_app(self) -> web.Application:
        app = web.Application()
        for path, (name, method, operation) in self._api.routes.items():
            app.router.add_route("*", f"/api/v1{path}", self._endpoint(name, method, operation))
        app.router.add_route("*", "/api/{path:.*}", self._nowhere)
        Pages(self._authority, self._issue_for, self.counters).add_routes(app)
        app.on_startup.append(self._open)
        app.on_shutdown.append(self._let_go)
        return app

    async def _open(self, _app: web.Application) -> None:
        self._closing = asyncio.Event()

    async def _let_go(self, _app: web.Application) -> None:
        self._closing.set()

    def _endpoint(
        self, name: str, method: str, operation: Operation
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            record = await self._record(request)
            self.counters[name] += 1
            refused = self._api.refuse_early(record, method)
            if refused is not None:
                return self._finish(record, name, refused)
            fault = self._script.next()
            if fault is None:
                return self._finish(record, name, operation(record))
            self.counters[f"fault {fault.kind}"] += 1
            answer = self._finish(record, name, operation(record)) if fault.after else None
            response = await misbehave(fault, request, answer, clock=self._clock, closing=self._closing)
            if response is not answer:
                record.status = None
            return response

        return handle

    async def _nowhere(self, request: web.Request) -> web.StreamResponse:
        return self._finish(await self._record(request), "other", error(404, "Not Found"))

    async def _record(self, request: web.Request) -> RecordedRequest:
        record = RecordedRequest(method=request.method, path=request.path, headers=request.headers)
        self._requests.add(record)
        record.content = await request.read()
        with contextlib.suppress(ValueError, RecursionError):
            record.body = json.loads(record.content)
        return record

    def _finish(self, record: RecordedRequest, name: str, answer: Answer) -> web.Response:
        record.status = answer.status
        self.counters[f"{name} {answer.status}"] += 1
        return web.json_response(answer.body, status=answer.status, headers=answer.headers)
