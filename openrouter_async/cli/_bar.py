"""A progress bar."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress


class Bar:
    """A progress bar with the rate, the failures and the remaining time, shown only on a terminal.

    Args:
        total: The total number; None if unknown.
        is_shown: Whether to show it at all.

    Attributes:
        is_shown: Whether the bar is visible.
    """

    def __init__(self, total: int | None, *, is_shown: bool = True) -> None:
        self._total = total
        self.is_shown = is_shown and sys.stderr.isatty()
        self._progress: Progress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop updating the bar, and leave it on the screen."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        self.is_shown = False

    def update(self, completed: int, failed: int, rate: float) -> None:
        """Update the bar.

        Args:
            completed: The number of completed items, including failures.
            failed: The number of failures.
            rate: The number of completed items per second.
        """
        if not self.is_shown:
            return
        try:
            progress = self._progress or self._start()
        except OSError:
            # The terminal was closed.
            self.is_shown = False
            return
        left = "" if self._total is None or rate <= 0 else _duration((self._total - completed) / rate)
        progress.update(self._task, completed=completed, failed=failed, rate=rate, left=left)

    def _start(self) -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._progress = Progress(
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
        self._task = self._progress.add_task("", total=self._total, rate=0.0, failed=0, left="")
        self._progress.start()
        return self._progress


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02} left" if hours else f"{minutes}:{seconds:02} left"
