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
    """A hook raised, and its exception goes no further: ``on_retry``, ``on_progress``, ``notify``, or ``on_key`` if the
    key has another way to the app. ERROR, or WARNING if all that a user needs was done."""
    KEY_LOST = "key_lost"
    """A key was issued, every caller was cancelled, and ``on_key`` is not set or failed. ERROR."""
    UNSEEN_FAILURE = "unseen_failure"
    """An exchange failed after every caller was cancelled. WARNING."""
    LOGIN_FAILED = "login_failed"
    """A login of a web app or a bot failed. INFO, or WARNING if the user can do nothing about it; one record for each
    failure, with its ``error_class``, ``outcome`` and ``path``, which is None for a bot."""
    RETURN_PATH_IGNORED = "return_path_ignored"
    """A login started with a ``next`` that is not a path of the app, and will return to its default path. WARNING."""
    HOST_MISMATCH = "host_mismatch"
    """A login started at a host other than that of its callback, where its cookie will be missing. WARNING."""
    LOGIN_ABANDONED = "login_abandoned"
    """A login finished after its caller was cancelled, and without ``on_key``: only a reload gets its key. WARNING."""
    REQUEST_REFUSED = "request_refused"
    """The local server of a login refused a request: of another user of this computer, or by https. INFO."""
    KEY_NOT_VERIFIED = "key_not_verified"
    """OpenRouter did not tell whether a new key is valid. INFO."""
    STORE_FAILED = "store_failed"
    """A login store failed in an operation that a login survives. WARNING."""
    MESSAGE_FAILED = "message_failed"
    """A chat network rejected a bot's message, or its deletion. WARNING."""
    CUT_OFF = "cut_off"
    """An exchange was sent and ended before its response came: the client was closed, or the loop ended. WARNING, one
    record for each exchange, with its ``code_digest``."""
