"""``demo`` and ``completion``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from openrouter_async.batch import BatchProgress


async def demo() -> int:
    """Show the whole flow with an embedded fake OpenRouter.

    It creates a code, exchanges it, and then exchanges many more. It needs
    neither an account nor the network.
    """
    from openrouter_async.cli._bar import Bar
    from openrouter_async.testing.demo import EXCHANGES, demonstrate

    bar = Bar(EXCHANGES)

    def show(progress: BatchProgress) -> None:
        bar.update(progress.finished, progress.failed, progress.rate)
        if progress.is_finished:
            bar.close()

    with bar:
        await demonstrate(show if bar.is_shown else None)
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
