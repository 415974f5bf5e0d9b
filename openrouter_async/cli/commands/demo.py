"""``demo``: what ``make demo`` shows."""

from __future__ import annotations


async def demo() -> int:
    """Show the whole job against an embedded fake OpenRouter.

    It creates a code, exchanges it, and exchanges many more. It needs neither
    an account nor the network.
    """
    from openrouter_async.testing.demo import demonstrate

    await demonstrate()
    return 0
