"""The fake OpenRouter: a server on a local port."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Final, Self

from aiohttp import web

from openrouter_async._http.pace import LeakyBucket
from openrouter_async._values.clock import SYSTEM_CLOCK, Clock
from openrouter_async._values.models import UNSET, CodeChallengeMethod, Unset, UsageLimitType, to_code_challenge_method
from openrouter_async._values.validation import check_number, check_port
from openrouter_async.errors import RequestValidationError
from openrouter_async.login._sockets import listen
from openrouter_async.testing._api import API
from openrouter_async.testing._app import Adapter, FaultQueue
from openrouter_async.testing._authority import USER_ID, Authority, IssuedKey, KeyOptions, hash_key
from openrouter_async.testing._clock import MovableClock
from openrouter_async.testing._consent import Authorization
from openrouter_async.testing._dialects import Dialect
from openrouter_async.testing._pages import Pages, fault_prefix
from openrouter_async.testing._records import BoundedHistory, RecordedRequest
from openrouter_async.testing._threads import in_thread
from openrouter_async.testing.faults import Fault

TOKEN: Final = f"sk-or-v1-{'5a' * 32}"
"""The bearer token that is accepted by default."""

# Bound the memory of servers that run for a long time.
_MAX_CODES: Final = 200_000
_MAX_REQUESTS: Final = 10_000
_BACKLOG: Final = 1024
_SHUTDOWN: Final = 1.0


class FakeOpenRouter:
    """A fake OpenRouter on a local port: the API, the pages, and faults on demand.

    ::

        async with FakeOpenRouter() as fake, OpenRouter(fake.token, base_url=fake.base_url) as client:
            pending = await AuthorizationFlow(client, callback_url="https://app.example/callback").start()
            callback = fake.consent(pending.url)

    While it is entered, it listens on 127.0.0.1 and, where there is one, on ::1. Entered with ``async with``, it runs
    in the same loop; with ``with``, in a thread, for tests that have no loop. Or serve ``app`` by a server of your own.
    It remembers the last 200,000 codes and keys, and the last 10,000 requests.

    Args:
        port: The port to listen on; 0 means any free port.
        tokens: The bearer tokens that may create codes; by default a single one, which ``token`` returns.
        dialect: The wording of refusals.
        clock: The source of time; `advance` moves the fake ahead of it.
        code_lifetime: Seconds for which a code can be redeemed.

    Raises:
        RequestValidationError: An argument is not valid.
        LoopbackUnavailableError: On entering: the port is in use.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        tokens: Collection[str] | None = None,
        dialect: Dialect | str = Dialect.DOCUMENTED,
        clock: Clock = SYSTEM_CLOCK,
        code_lifetime: float = 600.0,
    ) -> None:
        check_port(port)
        if dialect not in list(Dialect):
            raise RequestValidationError("dialect", f"must be one of {', '.join(Dialect)}")
        check_number("code_lifetime", code_lifetime, least=0, exclusive=True)
        self._wanted_port = port
        self._port = 0
        self._tokens = (TOKEN,) if tokens is None else _to_tokens(tokens)
        self._clock = MovableClock(clock)
        self._script = FaultQueue()
        self._requests: BoundedHistory[RecordedRequest] = BoundedHistory(_MAX_REQUESTS)
        self._authority = Authority(self._clock.time, code_lifetime=code_lifetime, capacity=_MAX_CODES)
        self._api = API(
            authority=self._authority,
            tokens=frozenset(self._tokens),
            dialect=Dialect(dialect),
            issued_keys=BoundedHistory(_MAX_CODES),
            redeemed_codes=BoundedHistory(_MAX_CODES),
            counters=Counter(),
            monotonic=self._clock.monotonic,
        )
        self._pages = Pages(self._authority, self._api.issued_keys, self._api.counters)
        self._app = self._make_app()
        self._cleanup = contextlib.AsyncExitStack()
        self._thread = contextlib.ExitStack()

    def _make_app(self) -> web.Application:
        adapter = Adapter(
            api=self._api, pages=self._pages, script=self._script, clock=self._clock, requests=self._requests
        )
        return adapter.make_app()

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as cleanup:
            sockets = listen(self._wanted_port)
            for listener in sockets:
                cleanup.callback(listener.close)
            # An aiohttp app can be run only once, so the next entry needs a new one.
            app, self._app = self._app, self._make_app()
            # Cancel a hanging handler when its client disconnects.
            runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=_SHUTDOWN)
            cleanup.push_async_callback(runner.cleanup)
            await runner.setup()
            for listener in sockets:
                await web.SockSite(runner, listener, backlog=_BACKLOG).start()
            self._port = sockets[0].getsockname()[1]
            self._cleanup = cleanup.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._port = 0
        await self._cleanup.aclose()

    def __enter__(self) -> Self:
        self._thread.enter_context(in_thread(self))
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url if self._port else 'not listening'}>"

    @property
    def app(self) -> web.Application:
        """The aiohttp application, to be served by another server."""
        return self._app

    @property
    def url(self) -> str:
        """The URL of the home page, which describes the fake and lists recent events."""
        if not self._port:
            raise RuntimeError("the fake OpenRouter is not listening: enter it first")
        return f"http://127.0.0.1:{self._port}"

    @property
    def base_url(self) -> str:
        """The base URL of the API."""
        return f"{self.url}/api/v1"

    @property
    def auth_url(self) -> str:
        """The URL of the page on which users consent."""
        return f"{self.url}/auth"

    @property
    def token(self) -> str:
        """A bearer token that the API accepts."""
        return self._tokens[0]

    @property
    def issued_keys(self) -> Sequence[IssuedKey]:
        """The issued keys."""
        return self._api.issued_keys

    @property
    def redeemed_codes(self) -> Sequence[str]:
        """The redeemed codes."""
        return self._api.redeemed_codes

    @property
    def requests(self) -> Sequence[RecordedRequest]:
        """The requests to the API."""
        return self._requests

    @property
    def counters(self) -> Counter[str]:
        """The number of events by name.

        ``exchange``, ``create``, ``key``, ``chat``, ``revoke`` and ``other`` count requests and, followed by a status,
        as in ``exchange 200``, their answers; ``redeemed`` counts the keys; ``fault drop`` and so on the faults;
        ``consent``, ``denial`` and ``refusal`` the outcomes of authorization pages.
        """
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
        usage_limit_type: UsageLimitType | str | None = None,
        expires_at: datetime | None = None,
        workspace_id: str | None = None,
        fault: str | None = None,
    ) -> str:
        """Issue a code, as if a user had consented.

        Args:
            code_challenge: The PKCE challenge; None if there is none.
            code_challenge_method: How the challenge was derived; None means ``plain`` (RFC 7636, section 4.3).
            callback_url: The URL that the code is sent to.
            user_id: The id of the user; by default the sandbox's user. None for a user whom OpenRouter does not name.
            key_label: The name of the key.
            limit: The credit limit of the key in US dollars; None for no limit.
            usage_limit_type: When the limit resets; None for never.
            expires_at: When the key expires, with a time zone; None for never.
            workspace_id: The id of the key's workspace.
            fault: The fault of its exchange, in the syntax of `Fault.from_spec`; None for none.

        Raises:
            RequestValidationError: An argument is not valid.
        """
        if expires_at is not None and expires_at.utcoffset() is None:
            raise RequestValidationError("expires_at", "must be a datetime with a time zone")
        if usage_limit_type not in (None, *UsageLimitType):
            raise RequestValidationError("usage_limit_type", f"must be one of {', '.join(UsageLimitType)}")
        issued = self._authority.issue(
            code_challenge=code_challenge,
            code_challenge_method=(
                None if code_challenge_method is None else to_code_challenge_method(code_challenge_method)
            ),
            callback_url=callback_url,
            key=KeyOptions(
                user_id=USER_ID if isinstance(user_id, Unset) else user_id,
                label=key_label,
                limit=limit,
                usage_limit_type=None if usage_limit_type is None else UsageLimitType(usage_limit_type),
                expires_at=None if expires_at is None else expires_at.astimezone(UTC),
                workspace_id=workspace_id,
            ),
            prefix=fault_prefix(fault),
        )
        return issued.code

    def consent(self, url: str, *, user_id: str | None | Unset = UNSET, fault: str | None = None) -> str:
        """Consent on an authorization page, as a user would in a browser.

        Args:
            url: The page's URL; its host does not matter.
            user_id: The id of the user; by default the sandbox's user.
            fault: The fault of the code's exchange, in the syntax of `Fault.from_spec`; None for none.

        Returns:
            The callback URL with the code and the state; in a headless login, the bare code.

        Raises:
            RequestValidationError: OpenRouter would not show the page, or the fault is not valid.
        """
        asked = Authorization.from_url(url)
        user = USER_ID if isinstance(user_id, Unset) else user_id
        return asked.granted(self._pages.consent(asked, user_id=user, fault=fault))

    def deny(self, url: str) -> str:
        """Deny access on an authorization page, as a user would in a browser.

        Args:
            url: The page's URL; its host does not matter.

        Returns:
            The callback URL with an error, without the state.

        Raises:
            RequestValidationError: OpenRouter would not show the page, or the login is headless.
        """
        return self._pages.deny(Authorization.from_url(url))

    def revoke(self, key: str) -> None:
        """Revoke a key, as its user does in OpenRouter's settings.

        Requests with a revoked key get a 401, ``User not found.`` A client in another process can revoke a key with
        ``DELETE /api/v1/keys/{hash}`` and the bearer token of the app.

        Args:
            key: A key that was issued here.

        Raises:
            RequestValidationError: The key is not known.
        """
        digest = hash_key(key)
        # A traceback that shows local variables would show the key.
        del key
        if not self._authority.revoke(digest):
            raise RequestValidationError("key", "must be a key that was issued here and is not revoked")

    def advance(self, seconds: float) -> None:
        """Move the fake's clock forward.

        Raises:
            RequestValidationError: The number of seconds is negative or not finite.
        """
        self._clock.advance(seconds)

    def queue_faults(self, *faults: Fault) -> None:
        """Apply these faults to the next requests to the API, one each."""
        self._script.add(*faults)

    def rate_limit(self, per_second: float | None) -> None:
        """Limit the rate of requests to the API; the others get a 429 with an accurate ``Retry-After``.

        Args:
            per_second: The number of requests per second; None ends the limit.

        Raises:
            RequestValidationError: The number is not finite, or not above 0.
        """
        if per_second is not None:
            check_number("per_second", per_second, least=0, exclusive=True)
        self._api.limit = None if per_second is None else LeakyBucket(per_second, max(per_second, 1.0))


def _to_tokens(tokens: Collection[str]) -> tuple[str, ...]:
    known = tuple(tokens)
    if isinstance(tokens, str) or not known or not all(isinstance(token, str) and token for token in known):
        raise RequestValidationError("tokens", "must be one or more strings that are not empty")
    return known
