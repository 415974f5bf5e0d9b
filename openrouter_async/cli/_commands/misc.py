"""``demo`` and ``completion``."""

from __future__ import annotations

from typing import Literal


async def demo() -> int:
    """Show the whole flow with an embedded fake OpenRouter.

    It creates a code, exchanges it, and then exchanges many more. It needs
    neither an account nor the network.
    """
    from openrouter_async.testing.demo import demonstrate

    await demonstrate()
    return 0


def completion(shell: Literal["bash", "zsh", "fish", "powershell"], /) -> int:
    """Print a shell's completion script.

    For bash, with COMPLETIONS=~/.local/share/bash-completion/completions:
    openrouter-async completion bash >$COMPLETIONS/openrouter-async

    Args:
        shell: The shell.
    """
    from openrouter_async.cli._app import make_app

    print(make_app().generate_completion(shell=shell))  # noqa: T201
    return 0
