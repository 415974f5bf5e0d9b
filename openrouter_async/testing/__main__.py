"""The sandbox: ``python -m openrouter_async.testing`` serves the fake OpenRouter until interrupted."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from openrouter_async.errors import OpenRouterError
from openrouter_async.testing import Dialect, FakeOpenRouter
from openrouter_async.testing._signals import stop_on_sigterm


async def serve(fake: FakeOpenRouter) -> None:
    """Serve until cancelled, or until the process gets SIGTERM."""
    stop = stop_on_sigterm()
    async with fake:
        sys.stdout.write(
            "The fake OpenRouter listens. It is a sandbox: its codes and keys are worth nothing.\n"
            f"  API           {fake.base_url}\n"
            f"  consent page  {fake.auth_url}\n"
            f"  bearer token  {fake.token}\n"
        )
        sys.stdout.flush()
        await stop.wait()


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the arguments and serve."""
    parser = argparse.ArgumentParser(prog="python -m openrouter_async.testing", description="A fake OpenRouter.")
    parser.add_argument(
        "--port", type=int, default=4010, help="the port to listen on; 0 takes a free one (%(default)s)"
    )
    parser.add_argument("--token", action="append", help="a bearer token to accept; may be given more than once")
    parser.add_argument("--dialect", type=Dialect, choices=list(Dialect), default=Dialect.DOCUMENTED)
    options = parser.parse_args(arguments)
    try:
        asyncio.run(serve(FakeOpenRouter(port=options.port, tokens=options.token, dialect=options.dialect)))
    except OpenRouterError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
