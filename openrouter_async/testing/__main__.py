"""The sandbox: ``python -m openrouter_async.testing`` serves the fake OpenRouter until interrupted."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Sequence

from openrouter_async.errors import OpenRouterError
from openrouter_async.testing import Dialect, FakeOpenRouter
from openrouter_async.testing._signals import stop_on_sigterm


async def serve(fake: FakeOpenRouter, announce: Callable[[], object]) -> None:
    """Serve until cancelled, or until the process gets SIGTERM.

    Args:
        fake: The fake.
        announce: Called when it listens.

    Raises:
        LoopbackUnavailableError: The port is in use.
    """
    stop = stop_on_sigterm()
    async with fake:
        announce()
        await stop.wait()


def _announce(fake: FakeOpenRouter) -> None:
    print(  # noqa: T201
        "The fake OpenRouter listens. It is a sandbox: its codes and keys are worth nothing.\n"
        f"  API           {fake.base_url}\n"
        f"  consent page  {fake.auth_url}\n"
        f"  bearer token  {fake.token}",
        flush=True,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the arguments and serve."""
    parser = argparse.ArgumentParser(prog="python -m openrouter_async.testing", description="A fake OpenRouter.")
    parser.add_argument(
        "--port", type=int, default=4010, help="the port to listen on; 0 chooses a free one (%(default)s)"
    )
    parser.add_argument("--token", action="append", help="a bearer token to accept; may be given more than once")
    parser.add_argument("--dialect", type=Dialect, choices=list(Dialect), default=Dialect.DOCUMENTED)
    options = parser.parse_args(arguments)
    try:
        fake = FakeOpenRouter(port=options.port, tokens=options.token, dialect=options.dialect)
        asyncio.run(serve(fake, lambda: _announce(fake)))
    except OpenRouterError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
