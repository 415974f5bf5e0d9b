"""The source of time and randomness, which tests can replace."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

import attrs


@attrs.frozen(kw_only=True)
class Clock:
    """The library's source of time and randomness.

    Attributes:
        monotonic: Seconds from an arbitrary start; never decreases.
        time: Seconds since the epoch, for dates that a server names.
        sleep: Waits for this many seconds.
        random: A float from 0 up to, not including, 1.
    """

    monotonic: Callable[[], float] = time.monotonic
    time: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    random: Callable[[], float] = random.random


SYSTEM_CLOCK = Clock()
"""The clock of the operating system."""
