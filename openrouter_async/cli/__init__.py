"""The command line: ``openrouter-async``, or ``python -m openrouter_async``; needs the extra ``cli``."""

import os
import signal
import sys
from typing import Final

__all__ = ["main"]

_PACKAGES: Final = frozenset({"cyclopts", "keyring", "platformdirs", "rich", "segno"})


def main() -> int:
    """Run the command that the program's arguments name.

    Returns:
        The exit status.
    """
    if os.getpid() == 1:
        # The kernel discards a SIGTERM for PID 1, as which a container runs its program, unless there is a handler.
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        from openrouter_async.cli._app import run

        return run(sys.argv[1:])
    except KeyboardInterrupt:
        # During the import; `run` handles it afterwards.
        return 130
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.partition(".")[0] not in _PACKAGES:
            raise
    print(  # noqa: T201
        "openrouter-async: the command line needs more packages: pip install 'openrouter-async[cli]'", file=sys.stderr
    )
    return 2
