"""The names of log events: the ``event`` of each record, for filters and metrics."""

from __future__ import annotations

import enum

__all__ = ["Event"]


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
    RATE = "rate"
    """A server refused requests of a batch as too many, so the rate was reduced. DEBUG, with the ``rate`` per
    second."""
    HOOK_FAILED = "hook_failed"
    """``on_retry`` or ``on_progress`` raised. ERROR."""
    KEY_LOST = "key_lost"
    """A key was issued, every caller was cancelled, and ``on_key`` is not set or failed. ERROR."""
    UNSEEN_FAILURE = "unseen_failure"
    """An exchange failed after every caller was cancelled. WARNING."""
    LOGIN_FAILED = "login_failed"
    """A login of a web app failed. INFO, or WARNING if the user can do nothing about it; one record for each failure,
    with its ``error_class``, ``outcome`` and ``path``."""
    RETURN_PATH_IGNORED = "return_path_ignored"
    """A login started with a ``next`` that is not a path of the app, and will return to its default path. WARNING."""
    HOST_MISMATCH = "host_mismatch"
    """A login started at a host other than that of its callback, where its cookie will be missing. WARNING."""
    CUT_OFF = "cut_off"
    """An exchange was sent and ended before its response came: the client was closed, or the loop ended. WARNING, one
    record for each exchange, with its ``code_digest``."""
