"""``login``: sign in with this computer's browser, or with a pasted code."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
from typing import TYPE_CHECKING, Final, TypedDict

import attrs

from openrouter_async._values.models import UNSET, Unset
from openrouter_async.cli._exit import UsageError, explain
from openrouter_async.cli._input import StdinReader, ask, can_open_browser, hidden_input
from openrouter_async.cli._key_saver import KeySaver
from openrouter_async.cli._options import Connection, Output, Storage
from openrouter_async.cli._storage import location_for_new_key
from openrouter_async.errors import OpenRouterError
from openrouter_async.login import (
    Grant,
    InvalidCallbackError,
    LoginCancelledError,
    LoginSession,
    LoginStatus,
    LoopbackUnavailableError,
    StateMismatchError,
)
from openrouter_async.login._terminal import write_message

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
    no_verify: bool = False,
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
        no_verify: Do not ask OpenRouter whether the new key is valid.
    """
    saver = KeySaver(await location_for_new_key(storage, connection, output), storage, connection, output)
    options: _Options = {
        "key_label": key_label,
        "limit": limit,
        "auth_url": auth_url or UNSET,
        "lifetime": wait,
        "verify": not no_verify,
    }
    async with connection.open_client(on_key=saver) as client:
        attempt = _Attempt(client=client, output=output, options=options)
        with hidden_input(output):
            if headless or not (no_browser or can_open_browser()):
                grant = await attempt.by_code()
            else:
                grant = await attempt.by_browser(port=port, opens=not no_browser)
    if grant.key_error is not None:
        raise grant.key_error
    return saver.status


class _Options(TypedDict):
    key_label: str
    limit: float | None
    auth_url: str | Unset
    lifetime: float
    verify: bool


@attrs.frozen(kw_only=True)
class _Attempt:
    client: OpenRouter
    output: Output
    options: _Options
    stdin: StdinReader = attrs.field(factory=StdinReader)

    async def by_browser(self, *, port: int, opens: bool) -> Grant:
        """Wait for the browser to return; ask for a code if that turns out to be impossible."""
        from openrouter_async.login._loopback import LoopbackLogin

        login = LoopbackLogin(self.client, port=port, app_name=_APP, on_tls=self._report_tls, **self.options)
        how = "If no browser opens, open" if opens else "Open"
        prompt = self._ask_for_address if self.stdin.is_terminal else None

        def go_on_by_code(opened: asyncio.Future[bool]) -> None:
            if not opened.result() and login.status is LoginStatus.PENDING:
                login.cancel()

        try:
            async with login:
                self.output.tell(f"{how} this page on this computer:\n\n{login.url}\n")
                if opens:
                    login.open_browser().add_done_callback(go_on_by_code)
                return await login.wait(timeout=None, prompt=prompt)
        except LoopbackUnavailableError:
            if port:
                raise
        except LoginCancelledError:
            pass
        self.output.tell("No browser opened.\n")
        return await self.by_code()

    def _report_tls(self) -> None:
        self.output.tell("The browser asks for https: the address on this computer starts with http://.")

    async def by_code(self) -> Grant:
        """Show the address of the page, and ask for the code that the page shows."""
        async with LoginSession(self.client, **self.options) as login:
            if self.output.is_terminal and not self.output.json:
                self._show_qr_code(login.url)
            self.output.tell(f"Open this page on any device, and allow the access:\n\n{login.url}\n")
            return await login.wait(timeout=None, prompt=self._ask_for_code)

    async def _ask_for_code(self, error: OpenRouterError | None) -> str:
        if error is not None and not self.stdin.is_terminal:
            raise error
        text = await self._ask("Paste the code that the page shows; it stays hidden: ", error)
        if text is None:
            raise UsageError("No code was given on the standard input.")
        return text

    async def _ask_for_address(self, error: OpenRouterError | None) -> str:
        text = await self._ask("Waiting for the browser, or for the address that it ended on: ", error)
        if text is None:
            raise EOFError
        return text

    async def _ask(self, question: str, error: OpenRouterError | None) -> str | None:
        if isinstance(error, _MISTAKES):
            self.output.tell(f"\nThat was not it: {error}.")
        elif error is not None:
            self.output.tell(f"\n{explain(error)}")
        return await ask(question, self.stdin, self.output)

    def _show_qr_code(self, url: str) -> None:
        import segno

        code = segno.make(url, error="l", micro=False)
        columns, rows = shutil.get_terminal_size()
        width, height = code.symbol_size(border=2)
        # Half blocks show two rows of the QR code in one line; the address and the prompt need a few more lines.
        if width <= columns and height / 2 + 8 <= rows:
            drawn = io.StringIO()
            code.terminal(drawn, border=2, compact=True)
            # In the colours of a light terminal, the code would be inverted, which not every camera reads.
            start, end = ("", "") if os.environ.get("NO_COLOR") else ("\x1b[97;40m", "\x1b[0m")
            write_message("".join(f"{start}{line}{end}\n" for line in drawn.getvalue().splitlines()))
            self.output.tell("")
