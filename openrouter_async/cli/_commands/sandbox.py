"""``sandbox``: serve a fake OpenRouter for experiments."""

from __future__ import annotations

import asyncio
import contextlib
import signal

from openrouter_async.cli._exit import UsageError
from openrouter_async.cli._options import Output
from openrouter_async.login.errors import LoopbackUnavailableError
from openrouter_async.testing._dialects import Dialect


async def sandbox(
    *,
    port: int = 4010,
    dialect: Dialect = Dialect.DOCUMENTED,
    code_lifetime: float = 600.0,
    rate_limit: float | None = None,
    api_key: str | None = None,
    output: Output = Output(),
) -> int:
    """Serve a fake OpenRouter on this computer, with its pages.

    Its codes and keys are worth nothing, and are forgotten when Ctrl-C ends
    it. Set OPENROUTER_BASE_URL to make the other commands use it.

    Args:
        port: The port to listen on; 0 chooses a free one.
        dialect: The wording of refusals.
        code_lifetime: Seconds for which a code is valid.
        rate_limit: The maximum number of requests per second; others get a 429.
        api_key: The API key that may create codes; by default one that is shown.
    """
    # Imported here, because only this command needs a server.
    from openrouter_async.testing import FakeOpenRouter

    fake = FakeOpenRouter(
        port=port, tokens=None if api_key is None else [api_key], dialect=dialect, code_lifetime=code_lifetime
    )
    fake.rate_limit(rate_limit)

    stop = _stop_on_sigterm()
    # Ctrl-C is the normal end, not a failure.
    with contextlib.suppress(asyncio.CancelledError):
        try:
            async with fake:
                output.result(
                    {"base_url": fake.base_url, "auth_url": fake.auth_url, "api_key": fake.token},
                    (
                        "A fake OpenRouter listens until you press Ctrl-C.",
                        "",
                        f"API           {fake.base_url}",
                        f"Consent page  {fake.auth_url}",
                        f"API key       {fake.token}",
                        "",
                        f"Try: OPENROUTER_BASE_URL={fake.base_url} openrouter-async login",
                    ),
                )
                await stop.wait()
        except LoopbackUnavailableError:
            raise UsageError(f"Port {port} is in use: give another one with --port.") from None
    return 0


def _stop_on_sigterm() -> asyncio.Event:
    """Return an event that SIGTERM sets, instead of ending the process.

    The kernel discards a SIGTERM for PID 1, as which a container runs its program, unless there is a handler.
    """
    stop = asyncio.Event()
    # NotImplementedError: on Windows. RuntimeError, ValueError: the loop runs in a thread that gets no signals.
    with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    return stop
