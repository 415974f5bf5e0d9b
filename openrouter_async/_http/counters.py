"""The counters of a client."""

from __future__ import annotations

from openrouter_async.errors import Outcome


class Counters:
    """The counters of a client, shared by all clients that share its pool.

    Attributes:
        calls: Calls that reached the retries: an exchange that joined another is not one.
        attempts: Requests that were sent, or tried to be.
        retries: Those of them that were tried again.
        waiting: Calls that wait now, for a backoff or for the end of a pause.
        succeeded: Calls that gave what was asked for.
        failed: Calls that failed, by what became of them.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.attempts = 0
        self.retries = 0
        self.waiting = 0
        self.succeeded = 0
        self.failed = dict.fromkeys(Outcome, 0)
