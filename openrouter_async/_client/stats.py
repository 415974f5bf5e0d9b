"""Statistics of a client, for health checks."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from openrouter_async.errors import Outcome


@attrs.frozen(kw_only=True)
class ClientStats:
    """A snapshot of the calls of a client, in progress and finished.

    Attributes:
        is_closed: Whether the client is closed, or being closed.
        exchanges_in_flight: Exchanges under way; equal ones count once.
        attempts_in_flight: Requests under way: on a connection, or waiting for one.
        connection_limit: The maximum number of connections in the pool; 0 without a limit, and before the first use.
        waiting_to_retry: Calls that wait for a backoff, or for the end of a pause.
        paused: Seconds until the pause of each paused host ends, by origin.
        retry_budget: The tokens left for retries to each host that used some, by origin; empty without a budget.
        calls: Calls that were started; an exchange that joined another does not count.
        attempts: Attempts to send a request.
        retries: Attempts that were followed by another.
        succeeded: Calls that succeeded.
        failed: Calls that failed, by outcome.
    """

    is_closed: bool
    exchanges_in_flight: int
    attempts_in_flight: int
    connection_limit: int
    waiting_to_retry: int
    paused: Mapping[str, float]
    retry_budget: Mapping[str, float]
    calls: int
    attempts: int
    retries: int
    succeeded: int
    failed: Mapping[Outcome, int]

    @property
    def waiting_for_connection(self) -> int:
        """Requests that wait for a connection because of the limit, if all go to one host."""
        return max(0, self.attempts_in_flight - self.connection_limit) if self.connection_limit else 0
