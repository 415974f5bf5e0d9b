"""``demo``: what ``make demo`` shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openrouter_async.cli._bar import Bar

if TYPE_CHECKING:
    from openrouter_async.batch import BatchProgress


async def demo() -> int:
    """Show the whole job against an embedded fake OpenRouter.

    It creates a code, exchanges it, and exchanges many more. It needs neither
    an account nor the network.
    """
    from openrouter_async.testing.demo import EXCHANGES, demonstrate

    bar = Bar(EXCHANGES)

    def show(progress: BatchProgress) -> None:
        bar.update(progress.finished, progress.failed, progress.rate)
        if progress.is_finished:
            bar.close()

    with bar:
        await demonstrate(show if bar.is_shown else None)
    return 0
