"""Exchange many codes concurrently: bounded, streaming, and optionally with a journal."""

from openrouter_async.batch._batch import Batch
from openrouter_async.batch._journal import Journal
from openrouter_async.batch._journal_entry import JournalEntry
from openrouter_async.batch._progress import BatchProgress
from openrouter_async.batch._results import ExchangeFailure, ExchangeResult, ExchangeSuccess
from openrouter_async.batch._status import RequestStatus, mark_outcome_unknown, request_digest

__all__ = [
    "Batch",
    "BatchProgress",
    "ExchangeFailure",
    "ExchangeResult",
    "ExchangeSuccess",
    "Journal",
    "JournalEntry",
    "RequestStatus",
    "mark_outcome_unknown",
    "request_digest",
]
