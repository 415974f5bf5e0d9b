"""Signing users in from a chat: what all bots have in common."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Final, TypeAlias
from weakref import WeakValueDictionary

import attrs
from yarl import URL

from openrouter_async._values.clock import SYSTEM_CLOCK, Clock
from openrouter_async._values.models import ExchangeAuthCodeForAPIKeyResponse
from openrouter_async._values.tasks import ShieldedTasks
from openrouter_async.errors import KeyDeliveryError, OpenRouterError, RequestValidationError
from openrouter_async.integrations.bots._prompts import LoginPrompt, looks_like_code
from openrouter_async.integrations.bots._sessions import TICKET, ChatLogin, ChatLogins, to_name
from openrouter_async.integrations.bots._storage import MemoryShelf, Shelf
from openrouter_async.login._callbacks import CallbackInput
from openrouter_async.login._flow import AuthorizationFlow
from openrouter_async.login._models import Grant
from openrouter_async.login.errors import (
    InvalidCallbackError,
    LoginBindingError,
    StateMismatchError,
    UnknownLoginError,
)
from openrouter_async.sinks._base import KeySinkError

logger = logging.getLogger("openrouter_async.integrations.bots")

UserId: TypeAlias = int | str
"""Who uses the bot. One `BotLogin` for several networks needs ids that tell them apart, such as ``"telegram:7"``."""

OnLogin: TypeAlias = Callable[[Any, Grant], Awaitable[object]]
"""Puts the key of (user id, grant) into its safe place. Doing it twice has to be doing it once."""

OnLogout: TypeAlias = Callable[[Any], Awaitable[object]]
"""Takes the key of a user id out of its place."""

_CALLBACK_LENGTH: Final = 4096


class BotLogin:
    """Signs the users of a bot in.

    ::

        login = BotLogin(AuthorizationFlow(client), on_login=store_key)
        prompt = await login.begin(user_id)  # show prompt.url to this user alone
        grant = await login.complete(user_id, text)  # what the user pasted

    The login is bound to the user's id: a code that somebody else brings is of no use. What the bot has to see to is
    that neither the URL nor the code is posted where others read: use private chats, or answers that one user sees.

    A user has one login at a time. Beginning again gives the same URL, so that it does not matter which of the two was
    opened, until half its time is over. What a user does comes one after the other: of a code that was pasted twice
    one exchange is made, and ``on_login`` is called once, in this process.

    Finishing goes on when its caller is cancelled, and ``on_login`` gets the key.

    Args:
        flow: What the logins are made by. Its store must not be a `CookieStore`: chats have no cookies.
        on_login: See `bots.OnLogin`; it is awaited before the caller gets the key. If it raises, the caller gets a
            `KeyDeliveryError`, which has the key, and the same paste tries again while the flow keeps the result.
        on_logout: See `OnLogout`.
        notify: Tells a user of (user id, grant) in the chat that a login is finished which was finished elsewhere, by
            `finish`. If it raises, that is logged.
        headless: Whether the page shows a code to paste, instead of sending the browser back to the flow's callback
            URL; see `finish` and `hold` for that.
        key_label: The name that the keys will have, at most 100 characters.
        limit: The credit limit that the page proposes, in US dollars.
        shelf: Where it is kept which login a user has under way; by default a `MemoryShelf`, for one process. Logins
            outlive a restart when both this and the flow's store do.
        clock: Where time comes from.

    Raises:
        RequestValidationError: A hook is not callable.
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
        shelf: Shelf | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        for field, hook in (("on_login", on_login), ("on_logout", on_logout), ("notify", notify)):
            if not callable(hook) and (hook is not None or field == "on_login"):
                raise RequestValidationError(field, "must be callable")
        self._flow = flow
        self._on_login = on_login
        self._on_logout = on_logout
        self._notify = notify
        self._headless = headless
        self._key_label = key_label
        self._limit = limit
        self._logins = ChatLogins(MemoryShelf() if shelf is None else shelf, clock)
        self._clock = clock
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._under_way: ShieldedTasks[Grant] = ShieldedTasks()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._flow!r} {self._logins!r}>"

    async def begin(self, user_id: UserId) -> LoginPrompt:
        """Begin a login, or go on with the one that this user has just begun.

        Args:
            user_id: Who signs in.

        Raises:
            RequestValidationError: An argument is not valid, or the flow's store needs cookies.
            LoginStoreError: The store or the shelf cannot be reached.
        """
        name = to_name(user_id)
        async with self._alone(name):
            entry = await self._logins.find(name)
            if entry is None or entry.finished is not None or entry.renew_at <= self._clock.time():
                entry = await self._start(user_id)
                await self._logins.keep(name, entry)
        return entry.prompt

    async def is_pending(self, user_id: UserId) -> bool:
        """Whether this user has begun a login, and neither finished it nor let its time go by.

        Raises:
            RequestValidationError: The user's id is not valid.
            LoginStoreError: The shelf cannot be reached.
        """
        entry = await self._logins.find(to_name(user_id))
        return entry is not None and entry.finished is None and entry.expires_at > self._clock.time()

    async def expects(self, user_id: UserId, text: str) -> bool:
        """Whether what this user wrote is meant for the login, and not for the rest of the bot.

        It looks like a code or is a ticket, and the user has begun a login not long ago. A code that comes twice is
        meant for it, too, although the login is finished by then.

        Args:
            user_id: Who wrote it.
            text: What was written.

        Raises:
            RequestValidationError: The user's id is not valid.
            LoginStoreError: The shelf cannot be reached.
        """
        name = to_name(user_id)
        if TICKET.fullmatch(text.strip()):
            return True
        return looks_like_code(text) and await self._logins.find(name) is not None

    async def complete(self, user_id: UserId, text: str) -> Grant:
        """Finish a login by what the user wrote.

        Args:
            user_id: Who wrote it.
            text: The code, ``code=…``, the URL that the browser ended on, or what `hold` gave.

        Raises:
            InvalidCallbackError: It is none of these; the login goes on.
            UnknownLoginError: This user has no login under way.
            KeyDeliveryError: ``on_login`` raised; the error holds the key.
            OpenRouterError: As `AuthorizationFlow.finish_code` tells; where ``restart_login`` is true, the user has to
                begin again.
        """
        name = to_name(user_id)
        if not isinstance(text, str):
            raise InvalidCallbackError("what was pasted must be a string")
        finishing = self._complete(name, user_id, text)
        # A traceback that shows local variables would show the code.
        del text
        return await self._under_way.run(finishing)

    async def finish(self, callback: CallbackInput, *, user_id: UserId) -> Grant:
        """Finish a login by a callback in a web app that knows who its user is, and ``notify`` the user in the chat.

        Args:
            callback: As for `AuthorizationFlow.finish`.
            user_id: Who the browser belongs to, which the web app has to *know*: by a session, by Telegram's login
                widget, by Discord's OAuth. Never take it from the login itself. Else somebody could send the URL of a
                login of their own to a victim, who consents, and have the victim's key. A web app that does not
                know uses `hold`.

        Raises:
            OpenRouterError: As `AuthorizationFlow.finish` tells, and `complete`.
        """
        name = to_name(user_id)
        finishing = self._finish(name, user_id, callback)
        # A traceback that shows local variables would show the code.
        del callback
        grant = await self._under_way.run(finishing)
        if self._notify is not None:
            try:
                await self._notify(user_id, grant)
            except Exception as failure:  # noqa: BLE001 - the user is signed in all the same
                logger.warning("a user could not be notified: %s", type(failure).__name__)
        return grant

    async def hold(self, callback: str | URL) -> str:
        """Hold a callback that came to a web app until its user shows up in the chat, and give a ticket for it.

        The page that the web app answers with hands the ticket to the user, who brings it to the bot: as a link
        ``https://t.me/the_bot?start=TICKET``, or to paste. `complete` takes it, and only from the user who has begun
        the login: that is how it is known that the browser and the chat are the same person's.

        Args:
            callback: Its full URL, its path and query, or its query.

        Raises:
            InvalidCallbackError: It is not a string or a URL of at most 4,096 characters.
            LoginStoreError: The shelf cannot be reached.
        """
        if not isinstance(callback, str | URL) or len(str(callback)) > _CALLBACK_LENGTH:
            raise InvalidCallbackError(f"the callback must be a URL of at most {_CALLBACK_LENGTH} characters")
        return await self._logins.hold(str(callback))

    async def logout(self, user_id: UserId) -> None:
        """Forget the login that this user has under way, and take the user's key out of its place.

        Args:
            user_id: Who signs out.

        Raises:
            RequestValidationError: The user's id is not valid.
            LoginStoreError: The shelf cannot be reached.
            KeySinkError: ``on_logout`` raised.
        """
        name = to_name(user_id)
        async with self._alone(name):
            await self._logins.remove(name)
            if self._on_logout is None:
                return
            try:
                await self._on_logout(user_id)
            except Exception as failure:
                raise KeySinkError(f"on_logout raised {type(failure).__name__}") from failure

    async def drain(self, *, timeout: float = 10.0) -> None:
        """Wait for the logins that are still being finished although their callers were cancelled.

        Call it before the client is closed.

        Args:
            timeout: Seconds to wait at the most.
        """
        await self._under_way.drain(timeout)

    @contextlib.asynccontextmanager
    async def _alone(self, name: str) -> AsyncIterator[None]:
        # It is there as long as somebody holds it or waits for it.
        lock = self._locks.setdefault(name, asyncio.Lock())
        async with lock:
            yield

    async def _start(self, user_id: UserId) -> ChatLogin:
        pending = await self._flow.start(
            key_label=self._key_label, limit=self._limit, binding=user_id, headless=self._headless
        )
        if pending.cookie is not None:
            raise RequestValidationError("flow", "must have a store that needs no cookies")
        expires_at = pending.expires_at.timestamp()
        return ChatLogin(
            state=pending.state,
            url=pending.url,
            renew_at=(self._clock.time() + expires_at) / 2,
            expires_at=expires_at,
            headless=pending.headless,
        )

    async def _complete(self, name: str, user_id: UserId, text: str) -> Grant:
        async with self._alone(name):
            text = text.strip()
            held = await self._logins.held(text)
            entry = await self._logins.find(name)
            if held is not None:
                finishing = self._flow.finish(held, binding=user_id)
            elif entry is not None:
                finishing = self._flow.finish_code(entry.state, text, binding=user_id)
            else:
                raise UnknownLoginError("this user has no login under way")
            del text, held
            return await self._settle(name, user_id, entry, finishing)

    async def _finish(self, name: str, user_id: UserId, callback: CallbackInput) -> Grant:
        async with self._alone(name):
            entry = await self._logins.find(name)
            finishing = self._flow.finish(callback, binding=user_id)
            del callback
            return await self._settle(name, user_id, entry, finishing)

    async def _settle(
        self, name: str, user_id: UserId, entry: ChatLogin | None, finishing: Coroutine[Any, Any, Grant]
    ) -> Grant:
        try:
            grant = await finishing
        except (InvalidCallbackError, StateMismatchError, LoginBindingError):
            # What came was not of this login, which goes on.
            raise
        except KeyDeliveryError as failure:
            # The client's on_key failed; on_login is another place that may keep the key.
            logger.warning("a login goes on without the client's on_key: %s", failure)
            grant = Grant(key=failure.response.key, user_id=failure.response.user_id)
        except OpenRouterError as failure:
            if failure.restart_login:
                await self._logins.mark(name, None)
            raise
        if entry is None or entry.finished != grant.key_hash:
            await self._deliver(user_id, grant)
        if entry is not None:
            await self._logins.mark(name, attrs.evolve(entry, finished=grant.key_hash))
        return grant

    async def _deliver(self, user_id: UserId, grant: Grant) -> None:
        try:
            await self._on_login(user_id, grant)
        except Exception as failure:
            # Also for a caller that is gone.
            logger.warning("on_login raised %s", type(failure).__name__)
            raise KeyDeliveryError(
                f"on_login raised {type(failure).__name__}; the key is in .response",
                response=ExchangeAuthCodeForAPIKeyResponse(key=grant.key, user_id=grant.user_id),
            ) from failure
