"""The counters of a client."""

from __future__ import annotations

from openrouter_async.errors import Outcome


class Counters:
    """The counters of a client, shared by all clients that share its pool.

    Attributes:
        calls: Calls that were started; an exchange that joined another does not count.
        attempts: Attempts to send a request.
        retries: Attempts that were followed by another.
        waiting: Calls that currently wait, for a backoff or for the end of a pause.
        succeeded: Calls that succeeded.
        failed: Calls that failed, by outcome.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.attempts = 0
        self.retries = 0
        self.waiting = 0
        self.succeeded = 0
        self.failed = dict.fromkeys(Outcome, 0)
