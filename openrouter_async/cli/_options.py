"""Options that several commands have in common."""

from __future__ import annotations

import contextlib
import enum
import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias

import attrs
from cyclopts import Group, Parameter
from yarl import URL

from openrouter_async._http.options import to_base_url
from openrouter_async._values.models import UNSET, CodeChallengeMethod, Unset
from openrouter_async.cli._exit import OutputError, UsageError
from openrouter_async.login._terminal import write_message
from openrouter_async.login._urls import AUTHORIZATION_URL

if TYPE_CHECKING:
    from openrouter_async._client.client import OpenRouter
    from openrouter_async._client.config import OnKey

STORAGE: Final = Group("Where the key is kept", sort_key=70)
CONNECTION: Final = Group("Connection", sort_key=80)
OUTPUT: Final = Group("Output", sort_key=90)

Text: TypeAlias = Annotated[str | None, Parameter(allow_leading_hyphen=True)]
"""A value on the command line that may start with a hyphen, as one in 64 verifiers and challenges does."""

Secret: TypeAlias = Text
"""A secret; "-" reads it from the standard input."""

SecretFile: TypeAlias = Annotated[Path | None, Parameter(allow_leading_hyphen=True)]
"""A file with a secret; "-" is the standard input."""

Method: TypeAlias = Literal["S256", "plain", "null"]
"""The derivation method of a challenge."""

_STORE: Final = (
    'The system\'s keyring; a file that only you can read; "env", the line OPENROUTER_API_KEY of a file .env; or'
    ' "print", the standard output and nowhere else. By default the keyring, and a file where there is none.'
)
_API_KEY_FILE: Final = 'A file with the API key to use, instead of OPENROUTER_API_KEY; "-" is the standard input.'


_CHECK_MARK: Final = "✓"


class StoreKind(enum.StrEnum):
    """The kinds of locations for a key."""

    KEYRING = "keyring"
    FILE = "file"
    ENV = "env"
    PRINT = "print"


def printable(text: str) -> str:
    """Escape the characters that would move the cursor, end the line or change its direction."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def write_result(text: str) -> None:
    """Print a line on the standard output.

    Raises:
        OutputError: The standard output cannot be written.
    """
    if sys.stdout is None:
        # The shell closed the standard output, and print() would drop the text silently.
        raise OutputError("The standard output is closed.")
    try:
        print(text, flush=True)  # noqa: T201
    except (OSError, ValueError) as failure:
        discard_stdout()
        reason = getattr(failure, "strerror", None) or type(failure).__name__
        raise OutputError(f"The standard output cannot be written: {reason}.") from failure


def discard_stdout() -> None:
    """Redirect the standard output to the null device, so that the interpreter's last flush cannot fail."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@Parameter(name="*", group=OUTPUT)
@attrs.define(kw_only=True)
class Output:
    """The output of a command: its result on the standard output, all else on the standard error.

    Attributes:
        json: Print one JSON object, for machines; an error is one on the standard error.
        debug: Show the traceback of an error, and the library's log.
    """

    json: bool = False
    debug: bool = False
    _is_asking: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        if self.debug:
            import logging

            logging.basicConfig(level=logging.DEBUG, format="%(name)s: %(message)s")
            logging.getLogger("asyncio").setLevel(logging.WARNING)

    def result(self, document: Mapping[str, Any], lines: Iterable[str], *, is_success: bool = False) -> None:
        """Print the result: the document for machines, or the lines for people.

        Args:
            document: The fields of a JSON object.
            lines: The lines.
            is_success: Show the first line in green and with a check mark, where a terminal can show them.

        Raises:
            OutputError: The standard output cannot be written.
        """
        self.end_question()
        if self.json:
            write_result(json.dumps(document))
            return
        shown = [printable(line) for line in lines]
        if is_success:
            shown[0] = self._highlight(shown[0])
        write_result("\n".join(shown))

    def _highlight(self, text: str) -> str:
        stream = sys.stdout
        if stream is None or not stream.isatty() or os.environ.get("TERM") == "dumb":
            return text
        with contextlib.suppress(UnicodeEncodeError):
            _CHECK_MARK.encode(stream.encoding or "ascii")
            text = f"{_CHECK_MARK} {text}"
        # https://no-color.org
        return text if os.environ.get("NO_COLOR") else f"\x1b[32m{text}\x1b[0m"

    def note(self, text: str) -> None:
        """Print a message for people, unless the output is JSON."""
        if not self.json:
            self.tell(text)

    @property
    def is_terminal(self) -> bool:
        """Whether messages are shown on a terminal."""
        return sys.stderr is not None and sys.stderr.isatty()

    def tell(self, text: str, *, end: str = "\n") -> None:
        """Print a message that the user needs in order to go on, even if the output is JSON."""
        self.end_question()
        write_message("\n".join(map(printable, text.split("\n"))) + end)

    def ask(self, question: str) -> None:
        """Print a question; the answer follows on the same line, without echo."""
        self.tell(question, end="")
        self._is_asking = True

    def end_question(self, *, answered: bool = False) -> None:
        """End the line of a question, unless the answer ended it."""
        if self._is_asking and not answered:
            write_message("\n")
        self._is_asking = False


@Parameter(name="*", group=CONNECTION)
@attrs.frozen(kw_only=True)
class Site:
    """The OpenRouter server to use.

    Attributes:
        base_url: The API, such as that of a sandbox; by default OPENROUTER_BASE_URL, or https://openrouter.ai/api/v1.
    """

    base_url: str | None = None

    @property
    def name(self) -> str | None:
        """A name that distinguishes the keys of different servers; None for the real OpenRouter."""
        url = self.url
        return None if url.host == URL(AUTHORIZATION_URL).host else f"{url.host}-{url.port}".replace(":", "-")

    @property
    def url(self) -> URL:
        """The address of the API: the given one, else that of the environment, else OpenRouter's."""
        from openrouter_async._client.config import base_url_from_environment

        return to_base_url("base_url", self.base_url or base_url_from_environment())


@Parameter(name="*", group=CONNECTION)
@attrs.frozen(kw_only=True)
class Connection(Site):
    """The connection to OpenRouter.

    Attributes:
        timeout: Seconds for one attempt.
    """

    timeout: float = 30.0

    def open_client(self, api_key: str | None = None, *, on_key: OnKey | None = None, **settings: Any) -> OpenRouter:
        """Return a client for the server."""
        from openrouter_async._client.client import OpenRouter

        base_url = self.url
        return OpenRouter(
            api_key,
            base_url=base_url,
            timeout=self.timeout,
            # Plain http is allowed only to this computer, which a proxy cannot reach.
            trust_env=base_url.scheme == "https",
            on_key=on_key,
            **settings,
        )


@Parameter(name="*", group=STORAGE)
@attrs.frozen(kw_only=True)
class Storage:
    """The location of the key."""

    store: Annotated[StoreKind | None, Parameter(help=_STORE)] = None
    file: Annotated[Path | None, Parameter(help="Another path for the file of --store file or env.")] = None

    def __attrs_post_init__(self) -> None:
        if self.file is not None and self.store in (StoreKind.KEYRING, StoreKind.PRINT):
            raise UsageError("--file goes with --store file or --store env.")


@Parameter(name="*", group=CONNECTION)
@attrs.frozen(kw_only=True)
class AppKey:
    """The app's own API key, which is never given on the command line."""

    api_key_file: Annotated[SecretFile, Parameter(help=_API_KEY_FILE)] = None


def to_method(method: Method | None) -> CodeChallengeMethod | None | Unset:
    """Return the challenge method for a request, given the option's value."""
    if method is None:
        return UNSET
    return None if method == "null" else CodeChallengeMethod(method)
