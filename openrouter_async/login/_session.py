"""One login of the user in front of the app: a desktop app, a terminal, or a local server behind a page."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Final, Self, TypeAlias

from yarl import URL

from openrouter_async._client.client import OpenRouter
from openrouter_async._values.clock import Clock
from openrouter_async._values.models import UNSET, Unset
from openrouter_async._values.tasks import ShieldedTasks, cancel_and_wait
from openrouter_async.errors import KeyDeliveryError, OpenRouterError
from openrouter_async.events import Event
from openrouter_async.login._browser import open_in_thread
from openrouter_async.login._flow import AuthorizationFlow
from openrouter_async.login._models import Grant, PendingLogin
from openrouter_async.login._progress import LoginProgress, LoginState, LoginStatus
from openrouter_async.login.errors import InvalidCallbackError, LoginTimeoutError, StateMismatchError
from openrouter_async.login.stores._memory import MemoryStore

logger = logging.getLogger("openrouter_async.login")

Prompt: TypeAlias = Callable[[OpenRouterError | None], Awaitable[str]]
"""Asks the user for a code or the browser's final URL. Its argument is the error of the previous answer, or None."""

# The text belongs to no login or to another one, so this login stays pending.
_STRAY: Final = (InvalidCallbackError, StateMismatchError)


class LoginSession:
    """Sign in the user in front of the app with a code, which OpenRouter's page shows and the user pastes.

    ::

        async with LoginSession(client) as login:
            print("Open this page on any device:", login.url)
            state = await login.submit(input("The code: "))

    `LoopbackLogin` has the same methods, and its user need not paste anything. A session is one login. Any number of
    tasks may poll its state, wait for it, and iterate over it at the same time. `state`, `status`, `url` and `to_dict`
    may be read from other threads, too.

    Args:
        client: The client that exchanges the code.
        key_label: The name that the key will have, at most 100 characters.
        limit: The credit limit that the page proposes, in US dollars.
        auth_url: As for `AuthorizationFlow`.
        lifetime: Seconds until the login fails with a `LoginTimeoutError`. OpenRouter's codes are valid for 600.
        verify: As for `AuthorizationFlow`.
        opener: Opens a URL in a browser, in a thread; None opens the default browser in a process of its own, which
            inherits neither the standard input nor the outputs.
        clock: The source of time; by default the client's.

    Raises:
        RequestValidationError: An argument is not valid.
    """

    def __init__(
        self,
        client: OpenRouter,
        *,
        key_label: str | None = None,
        limit: float | None = None,
        auth_url: str | URL | Unset = UNSET,
        lifetime: float = 600.0,
        verify: bool = False,
        opener: Callable[[str], object] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._client = client
        self._key_label = key_label
        self._limit = limit
        self._auth_url = auth_url
        self._lifetime = lifetime
        self._verify = verify
        self._opener = opener
        self._clock = client.clock if clock is None else clock
        self._binding = secrets.token_urlsafe(16)
        self._pending: PendingLogin | None = None
        self._progress = LoginProgress()
        self._finishing: ShieldedTasks[LoginState] = ShieldedTasks()
        self._cleanup = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as cleanup:
            cleanup.callback(self._progress.cancel)
            callback_url = await self._listen(cleanup)
            self._flow = AuthorizationFlow(
                self._client,
                callback_url=callback_url,
                store=MemoryStore(max_logins=1),
                auth_url=self._auth_url,
                lifetime=self._lifetime,
                verify=self._verify,
                clock=self._clock,
            )
            self._pending = await self._flow.start(
                key_label=self._key_label,
                limit=self._limit,
                binding=self._binding,
                headless=callback_url is None,
            )
            expiring = asyncio.get_running_loop().create_task(self._expire())
            cleanup.push_async_callback(cancel_and_wait, expiring)
            self._cleanup = cleanup.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self, *, timeout: float = 10.0) -> None:
        """Wait for a code that is being exchanged, then cancel the login unless it is finished, and stop listening.

        A second call does nothing.

        Args:
            timeout: The maximum number of seconds to wait. An exchange that takes longer continues until the client is
                closed; the client's ``on_key`` gets its key.
        """
        self._progress.is_closing = True
        await self._finishing.drain(timeout)
        await self._cleanup.aclose()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.status}>"

    async def _listen(self, cleanup: contextlib.AsyncExitStack) -> str | None:
        """Listen for the browser.

        Returns:
            The callback URL; None if there is none, so that OpenRouter's page shows the code.
        """
        return None

    @property
    def pending(self) -> PendingLogin:
        """Return the login."""
        if self._pending is None:
            raise RuntimeError("the login has not begun: enter it with `async with`")
        return self._pending

    @property
    def url(self) -> str:
        """Return the page that the user opens."""
        return self.pending.url

    @property
    def state(self) -> LoginState:
        """Return the current state."""
        return self._progress.state

    @property
    def status(self) -> LoginStatus:
        """Return the status of the current state."""
        return self.state.status

    def to_dict(self) -> dict[str, Any]:
        """Return the login as values for JSON: its ``url`` while it is open, ``expires_at``, and `LoginState.to_dict`.

        It holds neither the code nor the key. Whoever can read the URL can finish the login in the user's place, so
        give it to the user alone.
        """
        state, pending = self.state, self.pending
        return {
            **state.to_dict(),
            "url": None if state.is_over else pending.url,
            "expires_at": pending.expires_at.isoformat(),
        }

    async def events(self) -> AsyncIterator[LoginState]:
        """Yield the current state, and each new one, until the login is over.

        A consumer that is slower than the login skips states, but never the last one.
        """
        seen: LoginState | None = None
        while seen is None or not seen.is_over:
            seen = await self._progress.next(seen)
            yield seen

    async def submit(self, text: str) -> LoginState:
        """Finish the login with the text that the user pasted. The exchange continues if the caller is cancelled.

        Args:
            text: The code, ``code=…``, or the URL that the browser ended on.

        Returns:
            The state afterwards. If it is pending, the text did not finish the login, its ``error`` says why, and
            another text can be submitted. A login that is over does not change, and nothing is sent.
        """
        finishing = self._flow.finish_code(self.pending.state, text, binding=self._binding)
        # A traceback that shows local variables would show the code.
        del text
        with self._progress.listening():
            return await self._finish(finishing)

    def cancel(self) -> bool:
        """Cancel the login: callbacks and codes are refused from now on, and `wait` raises.

        If a key is already on its way, the client's ``on_key`` still gets it.

        Returns:
            Whether the login was still open.
        """
        return self._progress.cancel()

    def open_browser(self) -> asyncio.Future[bool]:
        """Open the page in the user's browser, without waiting for it: some browsers return when they are closed.

        Returns:
            A future that tells whether a browser opened, as far as that is known. It never raises, and may be ignored.
        """
        return open_in_thread(self.url, self._opener, self._cleanup)

    async def wait(self, *, timeout: float | None = 300.0, prompt: Prompt | None = None) -> Grant:
        """Wait until the user is signed in.

        Args:
            timeout: Seconds to wait; None waits until the login's lifetime is over. An exchange that is under way is
                not cut off.
            prompt: Asks for a code, or for the URL on which a browser on another computer ended, such as a
                `TerminalPrompt`. The answer or the callback counts, whichever comes first. An ``EOFError`` means that
                nobody can answer; where a browser may still come back, the login goes on without the prompt.

        Returns:
            The user's key.

        Raises:
            LoginTimeoutError: The user did not finish the login in time.
            LoginCancelledError: The login was cancelled.
            AuthorizationDeniedError: The user denied access.
            OpenRouterError: The login failed; see `AuthorizationFlow.finish`.
        """
        loop = asyncio.get_running_loop()
        racing = {loop.create_task(self._progress.end())}
        if prompt is not None:
            racing.add(loop.create_task(self._ask(prompt)))
        try:
            done, _ = await asyncio.wait(racing, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not self.state.is_over:
                await self._finishing.drain()
            state = self.state
            if state.grant is not None:
                return state.grant
            if state.is_over and state.error is not None:
                raise state.error
            for task in done:
                # The prompt failed.
                task.result()
            raise LoginTimeoutError("nobody finished the login in time")
        finally:
            for task in racing:
                await cancel_and_wait(task)

    async def _ask(self, prompt: Prompt) -> LoginState:
        state = self.state
        while not state.is_over:
            error = state.error
            try:
                text = await prompt(error if isinstance(error, OpenRouterError) else None)
            except EOFError:
                if self.pending.headless:
                    raise
                # Nobody answers, but the browser may still come back.
                return await self._progress.end()
            state = await self.submit(text)
        return state

    async def _expire(self) -> None:
        await self._clock.sleep(self._lifetime)
        await self._finishing.drain()
        self._progress.fail(LoginTimeoutError("nobody finished the login in time"))

    async def _finish(self, finishing: Coroutine[Any, Any, Grant]) -> LoginState:
        """Finish the login, and return the state afterwards."""
        if self.state.is_over:
            finishing.close()
            return self.state
        return await self._finishing.run(self._finish_shielded(finishing))

    async def _finish_shielded(self, finishing: Coroutine[Any, Any, Grant]) -> LoginState:
        self._progress.advance(LoginStatus.EXCHANGING)
        try:
            grant = await finishing
        except Exception as failure:  # noqa: BLE001 - raised by `wait`
            if isinstance(failure, _STRAY) or (isinstance(failure, OpenRouterError) and not failure.restart_login):
                return self._go_on(failure)
            if not self._progress.fail(failure) and isinstance(failure, KeyDeliveryError):
                logger.error(  # noqa: TRY400 - the error holds the key
                    "a key is lost: nobody waited for the login any more, and on_key raised",
                    extra={"event": Event.KEY_LOST},
                )
        else:
            if not self._progress.deliver(grant) and self._client.on_key is None:
                logger.error(
                    "a key is lost: nobody waited for the login any more, and no on_key is set",
                    extra={"event": Event.KEY_LOST},
                )
        return self.state

    def _go_on(self, failure: OpenRouterError) -> LoginState:
        # Another code may still be exchanged.
        status = LoginStatus.PENDING if len(self._finishing) <= 1 else LoginStatus.EXCHANGING
        self._progress.advance(status, failure)
        return self.state if self.state.is_over else LoginState(status=status, error=failure)
