"""Keep codes and states out of the access logs of servers."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from typing import Final

from openrouter_async.redaction import SecretFilter

# aiohttp's gunicorn worker logs to gunicorn.access.
# uvicorn.asgi and aiohttp.server log whole requests, and errors with them.
_ACCESS_LOGS: Final = (
    *("aiohttp.access", "aiohttp.server", "granian.access", "gunicorn.access", "hypercorn.access"),
    *("uvicorn.access", "uvicorn.asgi"),
)


@contextlib.contextmanager
def filter_access_logs(secret_paths: Iterable[str]) -> Iterator[None]:
    """Mask codes and states in the logs of servers while the block runs.

    Args:
        secret_paths: The parts of paths whose queries hold codes and states; see `LoginSite.secret_paths`.
    """
    secret_filter = SecretFilter(secret_paths)
    access_logs = [logging.getLogger(name) for name in _ACCESS_LOGS]
    for access_log in access_logs:
        access_log.addFilter(secret_filter)
    try:
        yield
    finally:
        for access_log in access_logs:
            access_log.removeFilter(secret_filter)
