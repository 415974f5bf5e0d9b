"""Use each extra by itself, in a fresh environment with the wheel: ``python -m tests.extras [EXTRA…]``.

Each extra has to bring all that its modules need, and without it their use has to name it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.support import ROOT

_QR_CODE: Final = """
import asyncio
from openrouter_async import OpenRouter
from openrouter_async.integrations.bots import BotLogin
from openrouter_async.login import AuthorizationFlow
async def on_login(user_id, grant): ...
async def main():
    async with OpenRouter(None) as client:
        prompt = await BotLogin(AuthorizationFlow(client), on_login=on_login).start(7)
        await prompt.qr_code()
asyncio.run(main())
"""
USES: Final[Mapping[str, str]] = {
    "cookie": """
from openrouter_async.encryption import generate_encryption_key
from openrouter_async.login import CookieStore
CookieStore(generate_encryption_key())
""",
    "journal": """
import asyncio
from openrouter_async import Journal
async def main():
    async with Journal("journal.db", encryption_keys="A" * 43 + "="):
        pass
asyncio.run(main())
""",
    "redis": """
import asyncio
from openrouter_async.login import RedisStore
async def main():
    await RedisStore.from_url("redis://127.0.0.1:9", encryption_keys="A" * 43 + "=").aclose()
asyncio.run(main())
""",
    "keyring": """
from openrouter_async.sinks import KeyringSink, NoKeyringError
try:
    KeyringSink("app")
except NoKeyringError:
    pass
""",
    "bots": _QR_CODE,
    "aiogram": f"from openrouter_async.integrations.aiogram import create_router\n{_QR_CODE}",
    "discord": f"from openrouter_async.integrations.discord import add_commands\n{_QR_CODE}",
    "starlette": """
from openrouter_async.integrations import starlette as openrouter
from starlette.applications import Starlette
app = Starlette()
async def on_login(request, grant): ...
openrouter.setup(app, callback_url="https://app.example/callback/{state}", on_login=on_login)
""",
    "fastapi": """
from openrouter_async.integrations import fastapi as openrouter
from fastapi import FastAPI
app = FastAPI()
async def on_login(request, grant): ...
openrouter.setup(app, callback_url="https://app.example/callback/{state}", on_login=on_login)
""",
    "cli": """
import sys
from openrouter_async.cli import main
sys.argv = ["openrouter-async", "demo"]
sys.exit(main())
""",
    "taskiq": """
from openrouter_async.integrations.taskiq import ExchangeQueue
from openrouter_async.encryption import generate_encryption_key
from taskiq_redis import RedisAsyncResultBackend
generate_encryption_key()
""",
    "otel": """
from openrouter_async.integrations.opentelemetry import OpenTelemetryMiddleware
OpenTelemetryMiddleware()
""",
    "speed": """
import asyncio, uvloop
from openrouter_async import OpenRouter
async def main():
    async with OpenRouter(None):
        pass
uvloop.run(main())
""",
}
"""The shortest program that uses an extra."""

# It is for an app's event loop; no module of the library imports it.
_WITHOUT_HINT: Final = frozenset({"speed"})

# What needs aiogram, which has no release for these Pythons.
_LEFT_OUT: Final = frozenset({"aiogram"} if sys.version_info >= (3, 15) else ())


def main(chosen: Sequence[str]) -> int:
    """Try the extras, and return an exit status."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    if extras.keys() != USES.keys():
        print("not tried, or not an extra:", *sorted(extras.keys() ^ USES.keys()))
        return 1
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        _run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(place), str(ROOT))
        (wheel,) = place.glob("*.whl")
        bare = _make_environment(place / "bare", str(wheel))
        for extra in chosen or sorted(USES):
            if extra in _LEFT_OUT:
                print(f"{extra:10} left out: it has no release for this Python", flush=True)
                continue
            problems = [
                problem
                for problem in (_use_without(bare, extra, place), _use(place, wheel, extra))
                if problem is not None
            ]
            print(f"{extra:10}", *problems or ["ok"], flush=True)
            failures += bool(problems)
    return 1 if failures else 0


def _use_without(bare: Path, extra: str, place: Path) -> str | None:
    result = subprocess.run([bare, "-c", USES[extra]], capture_output=True, text=True, check=False, cwd=place)
    if result.returncode == 0:
        return "works without the extra"
    if extra in _WITHOUT_HINT or f"pip install 'openrouter-async[{extra}]'" in result.stderr:
        return None
    return f"without it: {result.stderr.strip()[-300:]}"


def _use(place: Path, wheel: Path, extra: str) -> str | None:
    python = _make_environment(place / extra, f"{wheel}[{extra}]")
    result = subprocess.run(
        [python, "-W", "error::ImportWarning", "-c", USES[extra]],
        capture_output=True,
        text=True,
        check=False,
        cwd=place,
        timeout=60,
    )
    return None if result.returncode == 0 else f"with it: {result.stderr.strip()[-300:]}"


def _make_environment(folder: Path, *packages: str) -> Path:
    """Make a virtual environment, and return its Python. uv is used if there is one, since it is quicker."""
    python = folder / "bin" / "python"
    if uv := shutil.which("uv"):
        _run(uv, "venv", "--quiet", "--python", sys.executable, str(folder))
        _run(uv, "pip", "install", "--quiet", "--python", str(python), *packages)
    else:
        _run(sys.executable, "-m", "venv", str(folder))
        _run(str(python), "-m", "pip", "install", "--quiet", *packages)
    return python


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
