"""What a client is doing, and has done, for health checks."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from openrouter_async.errors import Outcome


@attrs.frozen(kw_only=True)
class ClientStats:
    """What a client is doing, and has done, at one moment.

    Attributes:
        is_closed: Whether it is closed, or being closed.
        exchanges_in_flight: Exchanges under way; equal ones are one.
        attempts_in_flight: Requests under way: on a connection, or waiting for one.
        connection_limit: Connections that the pool may have; 0 when it has no limit, and before it is first used.
        waiting_to_retry: Calls that wait for a backoff, or for the end of a pause.
        paused: Seconds that each paused host must still be left alone, by its origin.
        retry_budget: Tokens that are left for retries to each host that needed some, by its origin.
        calls: Calls that were begun; an exchange that joined another is not one.
        attempts: Requests that were sent, or tried to be.
        retries: Those of them that were tried again.
        succeeded: Calls that gave what was asked for.
        failed: Calls that failed, by what became of them.
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
        """Requests that the limit keeps from having a connection, if all go to one host."""
        return max(0, self.attempts_in_flight - self.connection_limit) if self.connection_limit else 0
