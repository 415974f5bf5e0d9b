"""The login flow: from the URL that the user opens to the user's key."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Self

import attrs
from yarl import URL

from openrouter_async._client.client import OpenRouter
from openrouter_async._http.options import to_base_url
from openrouter_async._values.clock import Clock
from openrouter_async._values.frames import hide_arguments
from openrouter_async._values.models import UNSET, CodeChallengeMethod, Unset, to_code_challenge_method
from openrouter_async._values.validation import check_number
from openrouter_async.errors import RequestValidationError
from openrouter_async.login._callbacks import CallbackInput, read_callback, read_pasted
from openrouter_async.login._completion import LoginCompleter
from openrouter_async.login._inputs import claim_request_for, to_binding, to_claim_request, to_context
from openrouter_async.login._lease import LeaseRunner
from openrouter_async.login._models import Grant, PendingLogin
from openrouter_async.login._records import LoginRecord, digest, exchange_state, login_id
from openrouter_async.login._store import LeaseItem, LoginStore
from openrouter_async.login._urls import CallbackTemplate, authorization_url, default_auth_url, validate_return_to
from openrouter_async.login.stores._memory import MemoryStore
from openrouter_async.pkce import PKCEPair


class AuthorizationFlow:
    """Signs users in with OpenRouter, using PKCE.

    ::

        flow = AuthorizationFlow(client, callback_url="https://app.example/callback/{state}")
        pending = await flow.start(binding=browser_id)  # send the user to pending.url
        grant = await flow.finish(str(request.url), binding=browser_id)

    A login can be finished once. It is claimed before its code is sent, finished when OpenRouter returns a key, and
    pending again when nothing was sent, or OpenRouter was busy or refused the request. Browsers reload and
    double-click: for ``result_lifetime`` seconds a repeated callback gets the same grant, provided that its binding
    shows that it comes from the browser that started the login. Finishing continues when its caller is cancelled, so
    that a reload gets the grant.

    Leaving ``async with`` waits for the logins under way. Leave it before the client is closed.

    Args:
        client: The client that exchanges the codes.
        callback_url: Where OpenRouter sends the user: https, or http on localhost or 127.0.0.1. ``{state}`` in its path
            is replaced by the login's state. Use it where you can: without it, a user who denies access comes back
            without a state. None allows only headless logins.
        store: Where pending logins are kept; by default in a `MemoryStore`, which serves a single process.
        auth_url: OpenRouter's page; by default ``/auth`` at the client's ``base_url``, without its ``/api/v1``.
        code_challenge_method: ``S256``, or ``plain`` for servers that do not support it.
        lifetime: Seconds within which a login has to be finished. OpenRouter's codes are valid for 600.
        result_lifetime: Seconds for which a second callback of a finished login gets the same grant; 0 turns it off.
        claim_ttl: Seconds until a login whose worker died can be taken over; renewed while the worker is alive.
        busy_timeout: Seconds that a second callback waits for the first.
        verify: Whether to ask OpenRouter for the state of each new key: an account's maximum lifetime of keys, or its
            list of allowed addresses, can forbid a key that was just issued. Such a key is kept all the same; the
            ``key_error`` of its `Grant` is set.
        clock: The source of time; by default the client's.

    Raises:
        RequestValidationError: An argument is not valid.

    See Also:
        RFC 6749, section 4.1; RFC 7636; RFC 9700, section 2.1.
    """

    def __init__(
        self,
        client: OpenRouter,
        *,
        callback_url: str | URL | None = None,
        store: LoginStore | None = None,
        auth_url: str | URL | Unset = UNSET,
        code_challenge_method: CodeChallengeMethod | str = CodeChallengeMethod.S256,
        lifetime: float = 600.0,
        result_lifetime: float = 60.0,
        claim_ttl: float = 15.0,
        busy_timeout: float = 30.0,
        verify: bool = False,
        clock: Clock | None = None,
    ) -> None:
        check_number("lifetime", lifetime, least=0, exclusive=True)
        check_number("result_lifetime", result_lifetime, least=0)
        check_number("claim_ttl", claim_ttl, least=0, exclusive=True)
        check_number("busy_timeout", busy_timeout, least=0)
        self._template = None if callback_url is None else CallbackTemplate(callback_url)
        self._store: LoginStore = MemoryStore() if store is None else store
        self._auth_url = (
            default_auth_url(client.base_url) if isinstance(auth_url, Unset) else to_base_url("auth_url", auth_url)
        )
        self._method = to_code_challenge_method(code_challenge_method)
        self._lifetime = lifetime
        self._clock = client.clock if clock is None else clock
        leases = LeaseRunner(
            self._store, self._clock, claim_ttl=claim_ttl, result_ttl=result_lifetime, busy_timeout=busy_timeout
        )
        self._completer = LoginCompleter(client, leases, self._clock, verify=verify)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.callback_url} {self._store!r}>"

    @property
    def callback_url(self) -> str | None:
        """The callback URL, with ``{state}`` if it has that; None if only headless logins are possible."""
        return None if self._template is None else self._template.callback_url

    @property
    def auth_url(self) -> URL:
        """OpenRouter's page."""
        return self._auth_url

    @property
    def store(self) -> LoginStore:
        """The store of the pending logins."""
        return self._store

    @property
    def clock(self) -> Clock:
        """The source of time."""
        return self._clock

    async def start(
        self,
        *,
        key_label: str | None = None,
        limit: float | None = None,
        context: Any = None,
        return_to: str | None = None,
        binding: str | int | None = None,
        source: str | None = None,
        headless: bool = False,
    ) -> PendingLogin:
        """Start a login.

        Args:
            key_label: The name that the key will have, at most 100 characters.
            limit: The credit limit that the page proposes, in US dollars.
            context: Data of the app that comes back with the grant: any JSON value of at most 1,024 bytes. It cannot be
                altered on the way. Do not redirect the user to a URL in it; use ``return_to`` for that.
            return_to: The path to redirect the user to afterwards, which must be on the app's own site.
            binding: A value that only this browser or chat has, such as a random cookie value or a chat id. `finish`
                has to be given the same value. Without one, a user can be tricked into finishing an attacker's login
                (login CSRF), unless the store is a `CookieStore`, and a repeated callback gets no grant.
            source: The origin of the request, such as a browser's cookie or an address: a `MemoryStore` bounds the
                pending logins of each. None counts towards the bound of all logins alone.
            headless: Whether the page shows a code for the user to paste, instead of sending the browser back.

        Raises:
            RequestValidationError: An argument is not valid.
            LoginStoreError: The store cannot be reached.
        """
        try:
            item, pending = self._prepare(
                key_label=key_label,
                limit=limit,
                context=context,
                return_to=return_to,
                binding=binding,
                source=source,
                headless=headless,
            )
        finally:
            # A traceback that shows local variables would show it.
            del binding
        cookie = await self._store.put(item, now=self._clock.time())
        return pending if cookie is None else attrs.evolve(pending, cookie=cookie)

    @hide_arguments
    def _prepare(
        self,
        *,
        key_label: str | None,
        limit: float | None,
        context: Any,
        return_to: str | None,
        binding: str | int | None,
        source: str | None,
        headless: bool,
    ) -> tuple[LeaseItem, PendingLogin]:
        """Return a new login, for the store and for the caller."""
        if not headless and self._template is None:
            raise RequestValidationError("callback_url", "must be given to the flow for logins that are not headless")
        if return_to is not None:
            return_to = validate_return_to("return_to", return_to)
        state = secrets.token_urlsafe(32)
        pkce = PKCEPair.generate(self._method)
        url = authorization_url(
            callback_url=None if headless or self._template is None else self._template.fill(state),
            code_challenge=pkce.code_challenge,
            code_challenge_method=pkce.code_challenge_method,
            state=None if headless else state,
            key_label=key_label,
            limit=limit,
            auth_url=self._auth_url,
        )
        expires_at = self._clock.time() + self._lifetime
        record = LoginRecord(
            verifier=pkce.code_verifier,
            method=pkce.code_challenge_method,
            expires_at=expires_at,
            context=to_context(context),
            return_to=return_to,
        )
        item = LeaseItem(
            id=login_id(state),
            value=record.to_json(),
            binding=digest(state, "binding", to_binding(binding)),
            expires_at=expires_at,
            source=source,
        )
        pending = PendingLogin(
            url=str(url), state=state, expires_at=datetime.fromtimestamp(expires_at, UTC), headless=headless
        )
        return item, pending

    async def finish(
        self,
        callback: CallbackInput,
        *,
        binding: str | int | None = None,
        cookies: Mapping[str, str] | None = None,
    ) -> Grant:
        """Finish a login with the callback that the browser requested.

        Args:
            callback: Its full URL, its path and query, its query, or a mapping of its parameters. A state in the path
                is found only in a URL or path.
            binding: The value that was given to `start`.
            cookies: The cookies of the request, which a `CookieStore` needs.

        Raises:
            InvalidCallbackError: The callback is malformed.
            StateMismatchError: Its state is missing, malformed, or differs between path and query.
            UnknownLoginError: There is no such login.
            LoginBindingError: The login belongs to another browser or chat.
            InvalidCookieError: The cookie was not made here, or was altered.
            LoginExpiredError: The login took too long.
            LoginAlreadyUsedError: The login is finished already.
            LoginInProgressError: Another callback of the login is still being processed.
            LoginLostError: The worker that had claimed the login died.
            LoginStoreError: The store cannot be reached.
            AuthorizationDeniedError: The user denied access.
            AuthorizationError: OpenRouter sent the user back with another error.
            OpenRouterError: The exchange failed; see `OAuth.exchange_auth_code_for_api_key`.
        """
        try:
            read = read_callback(callback, self._template)
            claim_request = claim_request_for(read, binding, cookies)
        finally:
            # A traceback that shows local variables would show the code.
            del callback, binding, cookies
        return await self._completer.finish(read, claim_request)

    async def finish_code(
        self,
        state: str,
        text: str,
        *,
        binding: str | int | None = None,
        cookies: Mapping[str, str] | None = None,
    ) -> Grant:
        """Finish a login with the text that the user pasted.

        Args:
            state: The state of the `PendingLogin`.
            text: The bare code, ``code=…``, or the URL that the browser ended on.
            binding: The value that was given to `start`.
            cookies: The cookies of the request, which a `CookieStore` needs.

        Raises:
            OpenRouterError: As for `finish`.
        """
        try:
            read = read_pasted(text, self._template, state)
            claim_request = claim_request_for(read, binding, cookies)
        finally:
            del state, text, binding, cookies
        return await self._completer.finish(read, claim_request)

    async def cancel(
        self, state: str, *, binding: str | int | None = None, cookies: Mapping[str, str] | None = None
    ) -> None:
        """End a login that the user does not want to finish; its callback is refused from then on.

        Args:
            state: The state of the `PendingLogin`.
            binding: The value that was given to `start`.
            cookies: The cookies of the request, which a `CookieStore` needs.

        Raises:
            UnknownLoginError: There is no such login.
            LoginBindingError: The login belongs to another browser or chat.
            LoginInProgressError: The login's code is being exchanged.
            LoginAlreadyUsedError: The login is over.
            LoginStoreError: The store cannot be reached.
        """
        try:
            claim_request = to_claim_request(state, binding, cookies)
        finally:
            del state, binding, cookies
        await self._completer.cancel(claim_request)

    async def exchange(
        self,
        *,
        code: str,
        code_verifier: str,
        code_challenge_method: CodeChallengeMethod | str = CodeChallengeMethod.S256,
        return_to: str | None = None,
        context: Any = None,
    ) -> Grant:
        """Exchange a code whose verifier the caller has, once across all processes that share the store.

        This is for pages that do PKCE themselves. Nothing shows which browser the code belongs to, so the caller has to
        make sure that it comes from a page of the app itself.

        Args:
            code: The authorization code.
            code_verifier: Its verifier.
            code_challenge_method: The method by which the page derived the challenge.
            return_to: The path to lead the user to afterwards; see `start`.
            context: Data of the app that comes back with the grant; see `start`.

        Raises:
            RequestValidationError: The verifier or its method is not valid.
            InvalidCallbackError: The code is not valid.
            LoginAlreadyUsedError: The code was exchanged before, or is being exchanged.
            OpenRouterError: As for `finish`.
        """
        try:
            pkce = PKCEPair(code_verifier=code_verifier, code_challenge_method=code_challenge_method)
            # If the id were derived from the code alone, somebody without the verifier could claim the code first.
            state = exchange_state(code, code_verifier)
            callback = read_callback({"code": code, "state": state}, None)
        finally:
            # A traceback that shows local variables would show the code.
            del code, code_verifier
        claim_request = attrs.evolve(to_claim_request(state, None, None), single_use=True)
        del state
        now = self._clock.time()
        record = LoginRecord(
            verifier=pkce.code_verifier,
            method=pkce.code_challenge_method,
            expires_at=now + self._lifetime,
            context=to_context(context),
            return_to=None if return_to is None else validate_return_to("return_to", return_to),
        )
        item = LeaseItem(
            id=claim_request.id, value=record.to_json(), binding=claim_request.binding, expires_at=record.expires_at
        )
        cookie = await self._store.put(item, now=now)
        if cookie is not None:
            # The item is needed for this one call, so the browser does not have to carry it.
            claim_request = attrs.evolve(claim_request, cookies={cookie.name: cookie.value})
        return attrs.evolve(await self._completer.finish(callback, claim_request), cookie=None)

    async def aclose(self, *, timeout: float = 10.0) -> None:
        """Wait for logins that are being finished and whose callers were cancelled.

        Call it before the client is closed, or use ``async with``. The client and the store stay open.

        Args:
            timeout: The maximum number of seconds to wait.
        """
        await self._completer.drain(timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
