"""The lifespan of the logins of an ASGI app."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from openrouter_async.integrations._asgi import App, Message, Receive, Scope, Send
from openrouter_async.integrations.web._login import WebLogin


class Life:
    """Runs logins once in each event loop.

    Args:
        logins: The logins, by their names.
    """

    def __init__(self, logins: Mapping[str, WebLogin[Any, Any]]) -> None:
        self._logins = logins
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = asyncio.Lock()
        self._running: Sequence[contextlib.AbstractAsyncContextManager[None]] = ()

    async def begin(self) -> None:
        """Run the logins, unless they are running."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._starting, self._running = loop, asyncio.Lock(), ()
        async with self._starting:
            if self._running:
                return
            running = []
            async with contextlib.AsyncExitStack() as undo:
                for login in self._logins.values():
                    # Kept as an async generator, which the loop closes if nobody else does (`loop.shutdown_asyncgens`).
                    running.append(login.run())
                    await undo.enter_async_context(running[-1])
                undo.pop_all()
            self._running = running

    async def end(self) -> None:
        """End the logins, and wait for pending exchanges."""
        running, self._running = self._running, ()
        async with contextlib.AsyncExitStack() as stack:
            for login in running:
                stack.push_async_exit(login)

    async def serve(self, scope: Scope, receive: Receive, send: Send, app: App | None) -> None:
        """Handle the lifespan protocol for an app and the logins around it.

        Args:
            scope: The scope of the lifespan.
            receive: The server's ``receive``.
            send: The server's ``send``.
            app: The app, which is started before the logins and stopped after them; None if there is none.

        See Also:
            https://asgi.readthedocs.io/en/latest/specs/lifespan.html
        """
        protocol = _Protocol(self, receive, send)
        try:
            if app is not None:
                await app(scope, protocol.receive, protocol.send)
        except Exception:
            # An app without a lifespan raises, or returns, before it receives anything.
            if protocol.is_received:
                raise
        finally:
            if protocol.is_received:
                await self.end()
        if not protocol.is_received:
            await protocol.receive()
            await protocol.send({"type": "lifespan.startup.complete"})
            await protocol.receive()
            await protocol.send({"type": "lifespan.shutdown.complete"})


class _Protocol:
    def __init__(self, life: Life, receive: Receive, send: Send) -> None:
        self._life = life
        self._receive = receive
        self._send = send
        self._has_failed = False
        self.is_received = False

    async def receive(self) -> Message:
        message = await self._receive()
        self.is_received = True
        if message["type"] == "lifespan.shutdown":
            await self._life.end()
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "lifespan.startup.complete":
            try:
                await self._life.begin()
            except Exception as error:
                await self._send({"type": "lifespan.startup.failed", "message": f"{type(error).__name__}: {error}"})
                # The app will report the same failure, and servers accept only one report.
                self._has_failed = True
                raise
        if not self._has_failed:
            await self._send(message)
