"""Programs that tests run beside themselves: the workers of an app, and the OpenRouter that they talk to."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

from aiohttp import web


async def listen(app: web.Application) -> tuple[web.AppRunner, str]:
    """Serve an app on a free port; gives where."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    address: Any = runner.addresses[0]
    return runner, f"http://127.0.0.1:{address[1]}"


async def until_terminated() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
