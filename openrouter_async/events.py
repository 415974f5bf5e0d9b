"""The names of what the library logs: the ``event`` of each record, for filters and metrics."""

from __future__ import annotations

import enum


class Event(enum.StrEnum):
    """What a log record tells of."""

    ATTEMPT_ANSWERED = "attempt_answered"
    """An attempt ended with an HTTP answer, whatever its status. DEBUG."""
    ATTEMPT_FAILED = "attempt_failed"
    """An attempt ended without an HTTP answer. DEBUG."""
    RETRY = "retry"
    """A request is going to be tried again. INFO."""
    PAUSE = "pause"
    """A server asked all calls to wait. INFO, once for a pause."""
    PAUSED = "paused"
    """A call waits for the end of a pause. DEBUG."""
    HOOK_FAILED = "hook_failed"
    """``on_retry`` or ``on_progress`` raised. ERROR."""
    KEY_LOST = "key_lost"
    """Keys arrived, no caller was left to take them, and ``on_key`` is not set or failed. ERROR."""
    UNSEEN_FAILURE = "unseen_failure"
    """An exchange failed, and no caller was left to be told. WARNING."""
    CUT_OFF = "cut_off"
    """The client was closed before its exchanges had ended. WARNING."""
