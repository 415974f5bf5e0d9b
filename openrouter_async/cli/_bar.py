"""A progress bar."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TypeAlias

Update: TypeAlias = Callable[[int, int, float], object]
"""Updates the bar, given the numbers of completed items and of failures among them, and the items per second."""


@contextlib.contextmanager
def progress_bar(total: int | None, *, is_shown: bool = True) -> Iterator[Update]:
    """Show a progress bar with the rate, the failures and the remaining time, if there is a terminal.

    Args:
        total: The total number; None if unknown.
        is_shown: Whether to show it at all.
    """
    if not is_shown or not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    progress = Progress(
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.0f}/s"),
        TextColumn("{task.fields[failed]} failed"),
        TextColumn("{task.fields[left]}"),
        console=Console(stderr=True, highlight=False),
        # The standard output may be a pipe or a file, which must not get terminal control codes.
        redirect_stdout=False,
        expand=True,
    )
    task = progress.add_task("", total=total, rate=0.0, failed=0, left="")

    def update(completed: int, failed: int, rate: float) -> None:
        left = "" if total is None or rate <= 0 else _duration((total - completed) / rate)
        progress.update(task, completed=completed, failed=failed, rate=rate, left=left)

    # The terminal may have been closed.
    with contextlib.suppress(OSError):
        progress.start()
    try:
        yield update
    finally:
        progress.stop()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02} left" if hours else f"{minutes}:{seconds:02} left"
