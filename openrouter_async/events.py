"""The names of log events: the ``event`` of each record, for filters and metrics."""

from __future__ import annotations

import enum


class Event(enum.StrEnum):
    """The kinds of log records."""

    ATTEMPT_ANSWERED = "attempt_answered"
    """An attempt got an HTTP response, whatever its status. DEBUG."""
    ATTEMPT_FAILED = "attempt_failed"
    """An attempt got no HTTP response. DEBUG."""
    RETRY = "retry"
    """A request will be retried. INFO."""
    PAUSE = "pause"
    """A server asked for a pause of all calls. INFO, once for each pause."""
    PAUSED = "paused"
    """A call waits for the end of a pause. DEBUG."""
    HOOK_FAILED = "hook_failed"
    """``on_retry`` or ``on_progress`` raised. ERROR."""
    KEY_LOST = "key_lost"
    """A key was issued, every caller was cancelled, and ``on_key`` is not set or failed. ERROR."""
    UNSEEN_FAILURE = "unseen_failure"
    """An exchange failed after every caller was cancelled. WARNING."""
    CUT_OFF = "cut_off"
    """An exchange was sent and ended before its response came: the client was closed, or the loop ended. WARNING, one
    record for each exchange, with its ``code_digest``."""
