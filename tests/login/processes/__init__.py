"""Programs that tests run beside themselves: the workers of an app, and the OpenRouter that they talk to."""

from __future__ import annotations

import asyncio
import signal


async def until_terminated() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
