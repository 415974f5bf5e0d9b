"""Sign-in from a chat: the part that all bots share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Self, TypeAlias
from weakref import WeakValueDictionary

import attrs
from yarl import URL

from openrouter_async._values.clock import Clock
from openrouter_async._values.frames import without_secrets
from openrouter_async._values.models import ExchangeAuthCodeForAPIKeyResponse
from openrouter_async._values.tasks import ShieldedTasks
from openrouter_async._values.validation import check_hook
from openrouter_async.errors import KeyDeliveryError, OpenRouterError, RequestValidationError
from openrouter_async.events import Event
from openrouter_async.integrations._hooks import call_hook
from openrouter_async.integrations.bots._callbacks import CallbackReader
from openrouter_async.integrations.bots._prompts import LoginPrompt, looks_like_code
from openrouter_async.integrations.bots._sessions import TICKET, ChatLogin, ChatLogins, to_name
from openrouter_async.login._callbacks import CallbackInput, read_callback
from openrouter_async.login._flow import AuthorizationFlow
from openrouter_async.login._models import Grant
from openrouter_async.login._problems import kind_of, log_failure, status_of
from openrouter_async.login._store import LeaseStore
from openrouter_async.login.errors import (
    InvalidCallbackError,
    LoginBindingError,
    StateMismatchError,
    UnknownLoginError,
)
from openrouter_async.sinks._base import KeySinkError

logger = logging.getLogger("openrouter_async.integrations.bots")

UserId: TypeAlias = int | str
"""The id of a user of the bot. One `BotLogin` for several networks needs distinct ids, such as ``"telegram:7"``."""

OnLogin: TypeAlias = Callable[[Any, Grant], Awaitable[object] | object]
"""Stores the key of (user id, grant), sync or async. It must be idempotent, as it may be called twice."""

OnLogout: TypeAlias = Callable[[Any], Awaitable[object] | object]
"""Deletes the stored key of a user id, sync or async."""


class BotLogin:
    """Signs the users of a bot in.

    ::

        async with BotLogin(AuthorizationFlow(client), on_login=store_key) as login:
            prompt = await login.start(user_id)  # show prompt.url to this user alone
            grant = await login.finish_code(user_id, text)  # the text that the user pasted

    A login is bound to the user's id: a code that somebody else brings is useless. The bot must post neither the URL
    nor the code where others can read it: use private chats, or answers that only one user sees.

    A user has one login at a time. During the first half of its lifetime, starting again returns the same URL, so it
    does not matter which link the user opens. The actions of one user run one after the other: a code that was pasted
    twice is exchanged once, and ``on_login`` is called once, in this process.

    Finishing continues when its caller is cancelled, and ``on_login`` gets the key.

    Args:
        flow: The flow that makes the logins. Its store, which must be a `LeaseStore` such as a `MemoryStore` or a
            `RedisStore`, also keeps the latest login of each user. Logins outlive a restart if the store does.
        on_login: See `bots.OnLogin`; it is called before the caller gets the key. If it raises, the caller gets a
            `KeyDeliveryError`, which has the key, and the same paste tries again while the flow keeps the result.
        on_logout: See `OnLogout`.
        notify: Called with (user id, grant), sync or async, when a login was finished outside of the chat, by `finish`.
            If it raises, that is logged.
        headless: Whether the page shows a code to paste, instead of sending the browser back to the flow's callback
            URL; see `finish` and `park_callback` for that.
        key_label: The name of the keys, at most 100 characters.
        limit: The credit limit that the page proposes, in US dollars.
        clock: The source of time; by default the flow's.

    Raises:
        RequestValidationError: A hook cannot be called with its arguments.
    """

    def __init__(
        self,
        flow: AuthorizationFlow,
        *,
        on_login: OnLogin,
        on_logout: OnLogout | None = None,
        notify: OnLogin | None = None,
        headless: bool = True,
        key_label: str | None = None,
        limit: float | None = None,
        clock: Clock | None = None,
    ) -> None:
        check_hook("on_login", on_login, "user_id", "grant", optional=False)
        check_hook("on_logout", on_logout, "user_id")
        check_hook("notify", notify, "user_id", "grant")
        if not isinstance(flow.store, LeaseStore):
            raise RequestValidationError("flow", "must have a LeaseStore, such as a RedisStore: chats have no cookies")
        self._flow = flow
        self._on_login = on_login
        self._on_logout = on_logout
        self._notify = notify
        self._headless = headless
        self._key_label = key_label
        self._limit = limit
        self._clock = flow.clock if clock is None else clock
        self._callbacks = CallbackReader(flow)
        self._logins = ChatLogins(flow.store, self._clock)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._under_way: ShieldedTasks[Grant] = ShieldedTasks()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._flow!r}>"

    async def start(self, user_id: UserId) -> LoginPrompt:
        """Start a login, or return the prompt of one that this user has just started.

        Args:
            user_id: The user who signs in.

        Raises:
            RequestValidationError: An argument is not valid, or the flow's store needs cookies.
            LoginStoreError: A store cannot be reached.
        """
        name = to_name(user_id)
        async with self._alone(name):
            entry = await self._logins.find(name)
            if entry is None or entry.finished is not None or entry.renew_at <= self._clock.time():
                entry = await self._start(user_id)
                await self._logins.save(name, entry)
        return entry.prompt

    async def is_pending(self, user_id: UserId) -> bool:
        """Return whether this user has a login under way that has not expired.

        Raises:
            RequestValidationError: The user's id is not valid.
            LoginStoreError: The store cannot be reached.
        """
        entry = await self._logins.find(to_name(user_id))
        return entry is not None and entry.finished is None and entry.expires_at > self._clock.time()

    async def expects(self, user_id: UserId, text: str) -> bool:
        """Return whether a message of this user is meant for the login, and not for the rest of the bot.

        That is a ticket, or a text that can be a code or the callback's URL if the user has recently started a login. A
        code that is sent twice is also meant for the login, although that is finished by then.

        Args:
            user_id: The author of the message.
            text: The text of the message.

        Raises:
            RequestValidationError: The user's id is not valid.
            LoginStoreError: The store cannot be reached.
        """
        name = to_name(user_id)
        text = text.strip()
        if TICKET.fullmatch(text):
            return True
        return looks_like_code(text) and self._callbacks.is_own_url(text) and await self._logins.find(name) is not None

    async def finish_code(self, user_id: UserId, text: str) -> Grant:
        """Finish a login with a text that the user sent.

        Args:
            user_id: The author of the text.
            text: The code, ``code=…``, the URL that the browser ended on, or a ticket of `park_callback`.

        Raises:
            InvalidCallbackError: The text is none of these, or an API key; nothing is sent, and the login goes on.
            UnknownTicketError: There is no such ticket; the login goes on.
            UnknownLoginError: This user has no login under way.
            KeyDeliveryError: ``on_login`` raised; the error has the key.
            OpenRouterError: As for `AuthorizationFlow.finish_code`. If ``restart_login`` is true, the user has to
                start again.
        """
        name = to_name(user_id)
        if not isinstance(text, str):
            raise InvalidCallbackError("the pasted text must be a string")
        finishing = self._finish_text(name, user_id, text.strip())
        # A traceback that shows local variables would show the code.
        del text
        return await self._under_way.run(_finish_and_log(finishing))

    async def finish(self, callback: CallbackInput, *, user_id: UserId) -> Grant:
        """Finish a login with the callback to a web app that knows its user, and ``notify`` the user in the chat.

        Args:
            callback: As for `AuthorizationFlow.finish`.
            user_id: The user that the browser belongs to. The web app has to *know* that: by a session, by Telegram's
                login widget, by Discord's OAuth. Never take it from the login itself: an attacker could send the URL of
                their own login to a victim, who consents, and so get the victim's key. A web app that does not know
                its user calls `park_callback`.

        Raises:
            OpenRouterError: As for `AuthorizationFlow.finish` and `finish_code`.
        """
        name = to_name(user_id)
        finishing = self._finish(name, user_id, callback)
        # A traceback that shows local variables would show the code.
        del callback
        grant = await self._under_way.run(_finish_and_log(finishing))
        if self._notify is not None:
            try:
                await call_hook(self._notify, user_id, grant)
            except Exception as failure:  # noqa: BLE001 - the user is signed in all the same
                logger.warning(
                    "a user could not be notified: %s", type(failure).__name__, extra={"event": Event.HOOK_FAILED}
                )
        return grant

    async def park_callback(self, callback: str | URL) -> str:
        """Keep a callback that came to a web app until its user comes to the chat, and return a ticket for it.

        The page that the web app answers with gives the ticket to the user, who brings it to the bot: as a link
        ``https://t.me/the_bot?start=TICKET``, or to paste. `finish_code` takes it from the user who started the login,
        and from nobody else: this proves that the browser and the chat belong to the same person.

        A ticket is valid for ten minutes. A process keeps at most 1,000 of them; put a rate limit in front of the
        route, as anybody can call it.

        Args:
            callback: The full URL of the callback, its path and query, or its query.

        Raises:
            InvalidCallbackError: The callback is not a well-formed URL of at most 4,096 characters.
            StateMismatchError: It has a code but no well-formed state.
            LoginStoreError: The store cannot be reached.
        """
        try:
            parking = self._logins.park(self._callbacks.check(callback))
        finally:
            # Tracebacks that show local variables would show the code.
            del callback
        return await parking

    async def logout(self, user_id: UserId) -> None:
        """Forget the login that this user has under way, and delete the user's key with ``on_logout``.

        Args:
            user_id: The user who signs out.

        Raises:
            RequestValidationError: The user's id is not valid.
            LoginStoreError: The store cannot be reached.
            KeySinkError: ``on_logout`` raised.
        """
        name = to_name(user_id)
        async with self._alone(name):
            await self._logins.delete(name)
            if self._on_logout is None:
                return
            try:
                await call_hook(self._on_logout, user_id)
            except Exception as failure:
                raise KeySinkError(f"on_logout raised {type(failure).__name__}") from failure

    async def aclose(self, *, timeout: float = 10.0) -> None:
        """Wait for logins that are being finished and whose callers were cancelled.

        Call it before the client is closed, or use ``async with``.

        Args:
            timeout: The maximum number of seconds to wait.
        """
        await self._under_way.drain(timeout)

    def _alone(self, name: str) -> asyncio.Lock:
        # The dictionary drops a lock as soon as nothing holds it or waits for it.
        return self._locks.setdefault(name, asyncio.Lock())

    async def _start(self, user_id: UserId) -> ChatLogin:
        pending = await self._flow.start(
            key_label=self._key_label,
            limit=self._limit,
            binding=user_id,
            source=to_name(user_id),
            headless=self._headless,
        )
        expires_at = pending.expires_at.timestamp()
        return ChatLogin(
            state=pending.state,
            url=pending.url,
            renew_at=(self._clock.time() + expires_at) / 2,
            expires_at=expires_at,
            headless=pending.headless,
        )

    async def _finish_text(self, name: str, user_id: UserId, text: str) -> Grant:
        try:
            async with self._alone(name):
                if TICKET.fullmatch(text):
                    text = await self._logins.parked(text)
                    return await self._finish_callback(name, user_id, text)
                entry = await self._logins.find(name)
                if entry is None:
                    raise UnknownLoginError("this user has no login under way")
                self._callbacks.check_pasted(text, entry.state)
                finishing = self._flow.finish_code(entry.state, text, binding=user_id)
                return await self._complete(name, user_id, entry, finishing)
        finally:
            del text

    async def _finish(self, name: str, user_id: UserId, callback: CallbackInput) -> Grant:
        try:
            async with self._alone(name):
                return await self._finish_callback(name, user_id, callback)
        finally:
            del callback

    async def _finish_callback(self, name: str, user_id: UserId, callback: CallbackInput) -> Grant:
        try:
            entry = await self._logins.find(name)
            read = read_callback(callback, self._callbacks.template)
            finishing = self._flow.finish(callback, binding=user_id)
        finally:
            del callback
        # A callback of another login, such as a foreign denial, must not end this user's login.
        own = entry if entry is not None and entry.state == read.state else None
        return await self._complete(name, user_id, own, finishing)

    async def _complete(
        self, name: str, user_id: UserId, entry: ChatLogin | None, finishing: Coroutine[Any, Any, Grant]
    ) -> Grant:
        """Finish a login, deliver its key, and record that it is over.

        Args:
            name: The name of the user's login.
            user_id: The user.
            entry: The user's stored login; None if it is not the one that is finished.
            finishing: Finishes the login.
        """
        try:
            grant = await finishing
        except (InvalidCallbackError, StateMismatchError, LoginBindingError):
            # The callback belongs to another login, so this one stays pending.
            raise
        except KeyDeliveryError as failure:
            # The client's on_key failed; on_login is another place that may store the key.
            logger.warning(
                "a login goes on without the client's on_key: %s", failure, extra={"event": Event.HOOK_FAILED}
            )
            grant = Grant(key=failure.response.key, user_id=failure.response.user_id)
        except OpenRouterError as failure:
            if failure.restart_login and entry is not None:
                await self._logins.end(name, None)
            raise
        if entry is None or entry.finished != grant.key_hash:
            await self._deliver(user_id, grant)
        if entry is not None:
            await self._logins.end(name, attrs.evolve(entry, finished=grant.key_hash))
        return grant

    async def _deliver(self, user_id: UserId, grant: Grant) -> None:
        try:
            await call_hook(self._on_login, user_id, grant)
        except Exception as failure:  # noqa: BLE001 - it becomes the cause of the error
            error = KeyDeliveryError(
                f"on_login raised {type(failure).__name__}; the key is in .response",
                response=ExchangeAuthCodeForAPIKeyResponse(key=grant.key, user_id=grant.user_id),
            )
            error.__cause__ = without_secrets(failure, (grant.key,))
        else:
            return
        # Raised outside of the handler, so that `__context__` does not hold the hook's exception.
        raise error


async def _finish_and_log(finishing: Coroutine[Any, Any, Grant]) -> Grant:
    """Finish a login, and log an error, as the caller may have been cancelled."""
    try:
        return await finishing
    except OpenRouterError as failure:
        log_failure(logger, failure, status=status_of(failure), kind=kind_of(failure))
        raise
