"""Dispatch of the commands, and the output of their errors."""

from __future__ import annotations

import io
import json
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Final

from cyclopts import App, CycloptsError, Parameter, UnknownCommandError

from openrouter_async import __version__
from openrouter_async.redaction._masks import scrub

_PROGRAM: Final = "openrouter-async"
_USAGE: Final = 2
# Keys and codes have prefixes; verifiers, and codes without one, are long runs of letters and digits.
_LIKE_A_SECRET: Final = re.compile(r"sk-|auth_code|(?=\D*\d)(?=[^A-Za-z]*[A-Za-z])[\w.~-]{20,}$", re.ASCII)
# The exit status of a program that SIGPIPE ends (128 + 13). Python ignores the signal and raises BrokenPipeError.
_BROKEN_PIPE: Final = 141

_HELP: Final = """Sign users in with OpenRouter, and exchange authorization codes for API keys.

Without an account: "openrouter-async demo" shows what it does, and
"openrouter-async sandbox" serves a fake OpenRouter to play with."""

_EPILOGUE: Final = """Exit status:
  0    done
  1    something on this computer failed, or there is no key
  2    wrong usage
  3    refused, by OpenRouter or by you
  4    unknown: it may have been carried out
  5    no connection
  130  interrupted"""

COMMANDS: Final = {
    "login": "Sign in with OpenRouter in the browser, and store the key.",
    "logout": "Remove the key from this computer.",
    "status": "Show which keys are stored, and where, without the keys.",
    "token": "Print the key that login stored, for other programs.",
    "exchange": "Exchange an authorization code for a user's API key.",
    "create-code": "Create an authorization code; needs a management key.",
    "batch": "Exchange many codes; an interrupted batch can be resumed.",
    "journal": "Show the journal of a batch, with masked keys.",
    "sandbox": "Serve a fake OpenRouter on this computer, with its pages.",
    "demo": "Show the whole flow with an embedded fake OpenRouter.",
    "completion": "Print a shell's completion script.",
}
"""The commands, and the first lines of their docstrings, repeated so that the help need not import them."""

_MODULES: Final = {"status": "keys", "token": "keys", "logout": "keys", "demo": "misc", "completion": "misc"}


def target_of(command: str) -> str:
    """Return the module and the function of a command, as ``module:function``."""
    function = command.replace("-", "_")
    return f"openrouter_async.cli._commands.{_MODULES.get(command, function)}:{function}"


def make_app(command: str | None = None) -> App:
    """Return the cyclopts app.

    A command is imported only when it is needed, so that its imports slow down neither other commands nor the help.

    Args:
        command: The command that is called; it is registered with its full help.
    """
    app = App(
        name=_PROGRAM,
        help=_HELP,
        help_epilogue=None if command in COMMANDS else _EPILOGUE,
        # Importing the renderer of the default, Markdown, would double the time to show the help.
        help_format="plaintext",
        version=__version__,
        default_parameter=Parameter(negative=(), show_default=_show_default),
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    for position, (name, summary) in enumerate(COMMANDS.items()):
        app.command(
            target_of(name),
            name=name,
            help=None if name == command else summary,
            sort_key=position,
        )
    app["--help"].sort_key = app["--version"].sort_key = len(COMMANDS)
    return app


def _show_default(value: object) -> str | None:
    return f"{value:g}" if isinstance(value, float) else str(value) if value else None


def run(arguments: Sequence[str]) -> int:
    """Run a command, and print its error, if any, in one line.

    Args:
        arguments: The arguments after the program's name.

    Returns:
        The exit status.
    """
    arguments = _with_command_first(arguments)
    _replace_unprintable_characters()
    try:
        app = make_app(arguments[0] if arguments else None)
        status = app(list(arguments), exit_on_error=False, print_error=False) or 0
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        from openrouter_async.cli._options import discard_stdout

        discard_stdout()
        return _BROKEN_PIPE
    except CycloptsError as error:
        return _refuse(error, arguments)
    except (ModuleNotFoundError, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - this is where all of them end, also a cancellation by a signal
        return _fail(error, arguments)
    return int(status)


def _with_command_first(arguments: Sequence[str]) -> list[str]:
    """Move the options that may precede the command behind it."""
    leading = next((n for n, argument in enumerate(arguments) if argument not in ("--json", "--debug")), 0)
    return [*arguments[leading:], *arguments[:leading]]


def _replace_unprintable_characters() -> None:
    """Keep a character that a Latin-1 or ASCII terminal lacks from failing the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _refuse(error: CycloptsError, arguments: Sequence[str]) -> int:
    error.verbose = False
    text = str(error)
    if not isinstance(error, UnknownCommandError):
        text = _mask_values(text, arguments)
    command = f" {arguments[0]}" if arguments and arguments[0] in COMMANDS else ""
    text = scrub(f"{' '.join(text.split())} See `{_PROGRAM}{command} --help`.", ())
    _tell(text, {"type": "UsageError", "message": text, "exit_status": _USAGE}, error, arguments)
    return _USAGE


def _mask_values(text: str, arguments: Sequence[str]) -> str:
    """Mask values: one that was given to one option may have been meant for another one, and may be a secret."""
    for argument in arguments:
        value = argument.partition("=")[2] if argument.startswith("--") else argument
        # Show other values, because they help to find a typo. Each value of `exchange` may be a code.
        is_secret = _LIKE_A_SECRET.match(value) is not None or "exchange" in arguments
        if value and is_secret and value not in COMMANDS:
            for quoted in (f'"{value}"', f"'{value}'", f"={value}"):
                text = text.replace(quoted, f"{quoted[0]}***{quoted[0].strip('=')}")
    return text


def _fail(error: BaseException, arguments: Sequence[str]) -> int:
    # Imported here, because the help does not need these modules. A failed command has imported them already.
    import asyncio

    from openrouter_async.cli._exit import OutputError, as_document, exit_status, explain

    if isinstance(error, OutputError) and isinstance(error.__cause__, BrokenPipeError):
        return _BROKEN_PIPE
    if isinstance(error, asyncio.CancelledError):
        # The command handles the signal itself, by cancelling its task.
        error = KeyboardInterrupt()
    command = arguments[0] if arguments else None
    _tell(explain(error, command), as_document(error, command), error, arguments)
    return exit_status(error)


def _tell(text: str, document: Mapping[str, object], error: BaseException, arguments: Sequence[str]) -> None:
    if "--debug" in arguments:
        traceback.print_exception(error)
    text = json.dumps({"error": document}) if "--json" in arguments else f"{_PROGRAM}: {text}"
    from openrouter_async.cli._options import printable
    from openrouter_async.login._terminal import write_message

    write_message(printable(text) + "\n")
