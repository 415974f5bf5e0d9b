"""``completion``: for shells."""

from __future__ import annotations

from typing import Literal


def completion(shell: Literal["bash", "zsh", "fish", "powershell"], /) -> int:
    """Print the script with which a shell completes commands.

    For bash, with COMPLETIONS=~/.local/share/bash-completion/completions:
    openrouter-async completion bash >$COMPLETIONS/openrouter-async

    Args:
        shell: Which one.
    """
    from openrouter_async.cli._app import make_app

    print(make_app().generate_completion(shell=shell))  # noqa: T201
    return 0
