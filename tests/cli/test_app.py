from __future__ import annotations

import ast
import hashlib
import inspect
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import openrouter_async
from openrouter_async.cli import main
from openrouter_async.cli._app import COMMANDS, make_app, target_of
from tests.cli.conftest import Here
from tests.cli.support import PROGRAM, Shell
from tests.support import PATIENCE, ROOT


def function_of(command: str) -> object:
    module, _, name = target_of(command).partition(":")
    return getattr(import_module(module), name)


@pytest.mark.parametrize("command", COMMANDS)
def test_command_summary_is_the_first_line_of_its_help(command: str) -> None:
    doc = function_of(command).__doc__
    assert doc is not None
    assert doc.splitlines()[0] == COMMANDS[command]


@pytest.mark.parametrize("command", ["", *COMMANDS])
async def test_help_fits_80_columns_and_explains_each_option_and_status(here: Here, command: str) -> None:
    ended = await here(*command.split(), "--help")
    assert (ended.status, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith(f"Usage: openrouter-async {command}".rstrip())
    for status in (
        ()
        if command
        else ("0    done", "2    wrong usage", "3    refused", "4    unknown", "5    no conn", "130  interrupted")
    ):
        assert f"  {status}" in ended.out
    for summary in COMMANDS.values() if not command else [COMMANDS[command]]:
        assert summary in ended.out
    for line in lines:
        # A row of an option without a text would end after its name and type.
        assert not line.startswith("│ --") or len(line.strip("│ ").split("  ")) > 1 or "CHOICE" not in line


async def test_cli_without_command_shows_help(here: Here) -> None:
    assert (await here()).out == (await here("--help")).out


@pytest.mark.unmeasured
async def test_version_is_that_of_the_package(shell: Shell, here: Here) -> None:
    assert (await here("--version")).out == f"{openrouter_async.__version__}\n"
    assert (await shell.run("--version")).out == f"{openrouter_async.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["logon"], 'Unknown command "logon". Did you mean "login"?'),
        (["login", "--jsn"], "Unknown option: --jsn. Did you mean --json?"),
        (["login", "--port", "many"], 'Invalid value for --port: unable to convert "many" into int.'),
        (["login", "--store", "cupboard"], 'Choose from: "keyring", "file", "env", "print".'),
        (["login", "--store", "print", "--file", "key"], "--file goes with --store file or --store env."),
        (["login", "--port", "70000"], "--port must be an integer from 0 to 65535."),
        (["login", "--wait", "0"], "--wait must be"),
        (["login", "--base-url", "ftp://x"], "--base-url must be an https URL"),
        (["login", "--auth-url", "ftp://x"], "--auth-url must be an https URL"),
        (["create-code"], 'Command "create-code" parameter CALLBACK_URL requires an argument.'),
        (["create-code", "https://x.example", "--limit", "ten-thousand-dollars"], '"ten-thousand-dollars"'),
        (["sandbox", "--dialect", "documented-and-observed"], '"documented-and-observed"'),
        (["completion", "csh"], 'Choose from: "bash", "zsh", "fish", "powershell".'),
    ],
)
async def test_wrong_usage_is_one_line_and_status_2(here: Here, arguments: list[str], complaint: str) -> None:
    ended = await here(*arguments, *(["--no-browser"] if arguments[0] == "login" else []))
    assert ended.status == 2
    assert complaint in ended.complaint


SECRET = "auth_code_that_nobody_may_see"


@pytest.mark.parametrize(
    "arguments",
    [
        ["exchange", "one", SECRET],
        ["exchange", f"--coed={SECRET}"],
        ["exchange", "one", "--code-challenge-method", SECRET],
        ["exchange", "one", f"--store={SECRET}"],
        ["exchange", "one", "--code-verifier", SECRET],
        ["sandbox", "--port", SECRET],
        ["sk-or-v1-" + SECRET],
        ["login", "--store", SECRET],
        ["login", "--port", "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"],
    ],
)
async def test_wrong_usage_does_not_show_the_value(here: Here, arguments: list[str]) -> None:
    ended = await here(*arguments)
    assert ended.status == 2
    assert SECRET not in ended.complaint
    assert "dBjftJeZ4CVP" not in ended.complaint


@pytest.mark.parametrize(
    "command", [("status",), ("create-code", "https://app.example/cb")], ids=lambda command: command[0]
)
async def test_api_key_variable_with_a_line_break_is_named(
    here: Here, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-or-v1-one\nsk-or-v1-two")
    ended = await here(*command)
    assert ended.status == 2
    assert ended.complaint == "OPENROUTER_API_KEY must not contain line breaks or other control characters."


async def test_api_key_variable_is_stripped(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENROUTER_API_KEY", "\n sk-or-v1-mine \r\n")
    ended = await here("status", "--offline", "--json")
    (key,) = ended.document["keys"]
    assert key["key_hash"] == hashlib.sha256(b"sk-or-v1-mine").hexdigest()
    monkeypatch.setenv("OPENROUTER_API_KEY", " \n")
    assert (await here("status", "--offline")).status == 1
    assert "still set" not in (await here("logout")).out


async def test_wrong_usage_with_json_is_an_object(here: Here) -> None:
    ended = await here("status", "--jason", "--json")
    assert ended.status == 2
    assert ended.failure["exit_status"] == 2
    assert ended.failure["type"] == "UsageError"
    assert "Did you mean --json?" in ended.failure["message"]


async def test_json_option_may_precede_the_command(here: Here) -> None:
    ended = await here("--json", "status")
    assert (ended.status, json.loads(ended.out)) == (1, {"keys": [], "other_servers": []})


async def test_error_has_a_traceback_with_debug_only(here: Here) -> None:
    command = ("exchange", "a-code", "--base-url", "http://127.0.0.1:9/api/v1", "--store", "print")
    ended = await here(*command)
    assert ended.status == 5
    assert "cannot connect" in ended.complaint
    ended = await here(*command, "--debug")
    assert ended.status == 5
    assert "Traceback (most recent call last)" in ended.err
    assert "TransportError" in ended.err
    assert "a-code" not in ended.err


async def test_unexpected_exception_is_reported_without_its_text(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    from openrouter_async.cli._commands import keys

    def fail(*_: object) -> None:
        raise ZeroDivisionError(SECRET)

    monkeypatch.setattr(keys, "load_keys", fail)
    ended = await here("status")
    assert ended.status == 1
    assert "ZeroDivisionError" in ended.complaint
    assert SECRET not in ended.err


def test_closed_output_pipe_ends_the_program_quietly(shell: Shell) -> None:
    with subprocess.Popen(
        [*PROGRAM, "completion", "bash"],
        env=dict(shell.environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(PATIENCE) == 141


@pytest.mark.parametrize("shell_name", ["bash", "zsh", "fish", "powershell"])
async def test_completion_offers_commands_and_options(here: Here, shell_name: str) -> None:
    ended = await here("completion", shell_name)
    assert ended.status == 0
    for word in (*COMMANDS, "code-verifier-file"):
        assert word in ended.out


def test_completion_in_bash_completes_a_command(shell: Shell, tmp_path: Path) -> None:
    script = tmp_path / "completion"
    script.write_text(make_app().generate_completion(shell="bash"))
    code = f"""
    source {script}
    COMP_WORDS=(openrouter-async ex); COMP_CWORD=1; COMP_LINE="openrouter-async ex"; COMP_POINT=${{#COMP_LINE}}
    _openrouter_async
    echo "${{COMPREPLY[@]}}"
    """
    result = subprocess.run(
        ["bash", "-c", code], env=dict(shell.environment), capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["exchange"]


def test_cli_without_its_extra_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "openrouter_async.cli._app")
    monkeypatch.setitem(sys.modules, "cyclopts", None)
    assert main() == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "openrouter-async: the command line needs more packages: pip install 'openrouter-async[cli]'\n"


def test_cli_with_another_missing_module_does_not_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "openrouter_async.cli._app")
    monkeypatch.setitem(sys.modules, "openrouter_async.redaction._masks", None)
    with pytest.raises(ModuleNotFoundError, match=r"openrouter_async\.redaction\._masks"):
        main()


def test_cli_extra_check_knows_every_package_of_the_extra() -> None:
    import tomllib

    from openrouter_async import cli

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = {requirement.partition(">=")[0] for requirement in project["optional-dependencies"]["cli"]}
    assert extra == cli._PACKAGES


@pytest.mark.unmeasured
def test_help_imports_no_command_and_none_of_its_extras() -> None:
    code = "import sys; from openrouter_async.cli._app import run; run(['--help']); print(*sorted(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(result.stdout.splitlines()[-1].split())
    assert loaded.isdisjoint({"keyring", "openrouter_async.cli._commands.login", "openrouter_async.login", "segno"})


def test_commands_print_only_through_the_output() -> None:
    """Everything goes through one place that knows what machines and terminals want."""
    paths = list(Path(inspect.getfile(main)).parent.rglob("*.py"))
    assert len(paths) > 10
    for path in paths:
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        printing = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
        assert not printing or path.name in ("__init__.py", "_app.py", "_options.py", "misc.py"), path


INTERRUPTED = """
import sys

class Finder:
    def find_spec(self, name, path, target=None):
        if name == "cyclopts":
            raise KeyboardInterrupt

from openrouter_async.cli import main
sys.meta_path.insert(0, Finder())
sys.exit(main())
"""


def test_command_interrupted_while_it_starts_shows_no_traceback() -> None:
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED, "status"], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")
