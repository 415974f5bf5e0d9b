"""``login``: sign in with this computer's browser, or with a pasted code."""

from __future__ import annotations

import asyncio
import shutil
import sys
from typing import TYPE_CHECKING, Final

import attrs

from openrouter_async.cli._exit import UsageError, explain
from openrouter_async.cli._input import StdinReader, ask, can_open_browser, no_echo
from openrouter_async.cli._options import Connection, Output, Storage
from openrouter_async.cli._storage import KeySaver, location_for_new_key
from openrouter_async.errors import OpenRouterError
from openrouter_async.login import (
    AuthorizationFlow,
    InvalidCallbackError,
    LoginTimeoutError,
    LoopbackUnavailableError,
    StateMismatchError,
)

if TYPE_CHECKING:
    from openrouter_async._client.client import OpenRouter

_APP: Final = "openrouter-async"
_MISTAKES: Final = (InvalidCallbackError, StateMismatchError)


async def login(
    *,
    headless: bool = False,
    no_browser: bool = False,
    port: int = 0,
    wait: float = 300.0,
    key_label: str = _APP,
    limit: float | None = None,
    auth_url: str | None = None,
    storage: Storage = Storage(),
    connection: Connection = Connection(),
    output: Output = Output(),
) -> int:
    """Sign in with OpenRouter in the browser, and store the key.

    If no browser can be opened, for example over SSH, it shows the address
    of the page and a QR code, and asks for the code that the page shows.

    To have the key only in a variable of the shell:
    export OPENROUTER_API_KEY="$(openrouter-async login --store print)"

    Args:
        headless: Ask for a code, even if a browser could be opened.
        no_browser: Only show the address of the page. Open it in a browser on this computer.
        port: The local port that the browser returns to; by default a free one.
        wait: Seconds to wait for the sign-in.
        key_label: The name that the key will have, at most 100 characters.
        limit: The credit limit that the page proposes, in US dollars.
        auth_url: The page on which you consent; by default that of --base-url.
    """
    saver = KeySaver(await location_for_new_key(storage, connection, output), storage, connection, output)
    async with connection.open_client(on_key=saver) as client:
        attempt = _Attempt(
            client=client,
            output=output,
            wait=wait,
            key_label=key_label,
            limit=limit,
            auth_url=connection.auth_url(auth_url),
        )
        with no_echo(output):
            if headless or not (no_browser or can_open_browser()):
                await attempt.by_code()
            else:
                await attempt.by_browser(port=port, opens=not no_browser)
    return saver.status


class _NoBrowserError(Exception):
    pass


@attrs.frozen(kw_only=True)
class _Attempt:
    client: OpenRouter
    output: Output
    wait: float
    key_label: str
    limit: float | None
    auth_url: str
    stdin: StdinReader = attrs.field(factory=StdinReader)

    async def by_browser(self, *, port: int, opens: bool) -> None:
        """Wait for the browser to return; ask for a code if that turns out to be impossible."""
        try:
            await self._by_browser(port, opens=opens)
        except LoopbackUnavailableError:
            if port:
                raise
        except _NoBrowserError:
            pass
        else:
            return
        self.output.tell("No browser opened.\n")
        await self.by_code()

    async def _by_browser(self, port: int, *, opens: bool) -> None:
        from openrouter_async.login._loopback import LoopbackLogin

        async with LoopbackLogin(
            self.client,
            port=port,
            key_label=self.key_label,
            limit=self.limit,
            app_name=_APP,
            auth_url=self.auth_url,
            lifetime=self.wait,
            on_tls=self._report_tls,
        ) as login:
            how = "If no browser opens, open" if opens else "Open"
            self.output.tell(f"{how} this page on this computer:\n\n{login.url}\n")
            prompt = self._ask_for_address if self.stdin.is_terminal else None
            waiting = asyncio.ensure_future(login.wait(timeout=self.wait, prompt=prompt))
            try:
                if opens:
                    opening = login.open_browser()
                    await asyncio.wait((waiting, opening), return_when=asyncio.FIRST_COMPLETED)
                    if not waiting.done() and not opening.result():
                        raise _NoBrowserError
                await waiting
            finally:
                waiting.cancel()
                await asyncio.wait((waiting,))

    def _report_tls(self) -> None:
        self.output.tell("The browser asks for https: the address on this computer starts with http://.")

    async def by_code(self) -> None:
        """Show the address of the page, and ask for the code that the page shows."""
        flow = AuthorizationFlow(self.client, auth_url=self.auth_url, lifetime=self.wait)
        pending = await flow.start(headless=True, key_label=self.key_label, limit=self.limit)
        if self.output.is_terminal and not self.output.json:
            self._show_qr_code(pending.url)
        self.output.tell(f"Open this page on any device, and allow the access:\n\n{pending.url}\n")
        error: OpenRouterError | None = None
        while True:
            try:
                async with asyncio.timeout(self.wait):
                    text = await self._ask("Paste the code that the page shows; it stays hidden: ", error)
            except TimeoutError:
                raise LoginTimeoutError("nobody finished the login in time") from None
            try:
                await flow.finish_code(pending.state, text)
            except OpenRouterError as failure:
                is_over = failure.restart_login and not isinstance(failure, _MISTAKES)
                if is_over or not self.stdin.is_terminal:
                    raise
                error = failure
            else:
                return

    async def _ask(self, question: str, error: OpenRouterError | None) -> str:
        if isinstance(error, _MISTAKES):
            self.output.tell(f"\nThat was not it: {error}.")
        elif error is not None:
            self.output.tell(f"\n{explain(error)}")
        text = await ask(question, self.stdin, self.output)
        if text is None:
            raise UsageError("No code was given on the standard input.")
        return text

    async def _ask_for_address(self, error: OpenRouterError | None) -> str:
        try:
            return await self._ask("Waiting for the browser, or for the address that it ended on: ", error)
        except UsageError:
            # Nobody answers the prompt, but the browser may still return.
            never: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            return await never

    def _show_qr_code(self, url: str) -> None:
        import segno

        code = segno.make(url, error="l", micro=False)
        columns, rows = shutil.get_terminal_size()
        width, height = code.symbol_size(border=2)
        # Half blocks show two rows of the QR code in one line; the address and the prompt need a few more lines.
        if width <= columns and height / 2 + 8 <= rows:
            code.terminal(sys.stderr, border=2, compact=True)
            self.output.tell("")
