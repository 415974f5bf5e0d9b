"""Sign in with OpenRouter in a Textual app: a modal screen that closes itself when the browser comes back.

Run it::

    pip install textual
    python examples/textual_app.py

Without an account, run ``openrouter-async sandbox`` beside it, and set ``OPENROUTER_BASE_URL`` to the
address of the API that it prints.
"""

from typing import ClassVar

from textual import on, work
from textual.app import App, ComposeResult
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label

from openrouter_async import OpenRouter
from openrouter_async.login import Grant, LoginSession, LoopbackLogin


class SignIn(ModalScreen[Grant | None]):
    """Shows a login, and is dismissed with its grant; with None if the user cancels it."""

    DEFAULT_CSS = """
    SignIn { align: center middle; }
    SignIn > Vertical { width: 72; height: auto; border: round $primary; padding: 1 2; }
    """
    BINDINGS: ClassVar = [("escape", "cancel", "Cancel")]

    def __init__(self, login: LoginSession) -> None:
        super().__init__()
        self.login = login

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Label("Your browser shows a page of OpenRouter. If it does not, open:")
            yield Label(self.login.url, id="url", markup=False)
            yield Input(placeholder="Or paste the code, or the address that the browser ended on", password=True)
            yield Label("", id="message", markup=False)
            yield Button("Cancel", id="cancel")

    def on_mount(self) -> None:
        self.login.open_browser()
        self.follow()

    @work
    async def follow(self) -> None:
        async for state in self.login.events():
            self.query_one("#message", Label).update(state.message or "")
            if state.is_over:
                self.dismiss(state.grant)

    @on(Input.Submitted)
    async def submit(self, event: Input.Submitted) -> None:
        event.input.clear()
        await self.login.submit(event.value)

    @on(Button.Pressed, "#cancel")
    def action_cancel(self) -> None:
        self.login.cancel()


class MyApp(App[None]):
    def compose(self) -> ComposeResult:
        yield Label("You are not signed in.", id="account", markup=False)
        yield Button("Sign in with OpenRouter", id="sign-in")

    @on(Button.Pressed, "#sign-in")
    @work(exclusive=True)
    async def sign_in(self) -> None:
        async with OpenRouter() as client, LoopbackLogin(client, key_label="My app", app_name="My app") as login:
            grant = await self.push_screen_wait(SignIn(login))
        if grant is not None:
            self.query_one("#account", Label).update(f"Your key ends in {grant.key[-4:]}.")


if __name__ == "__main__":
    MyApp().run()
