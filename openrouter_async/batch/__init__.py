"""Many exchanges at once: bounded, streaming, and with a journal if wanted."""

from openrouter_async.batch.journal import Journal
from openrouter_async.batch.journal_file import JournalEntry
from openrouter_async.batch.plan import Plan
from openrouter_async.batch.progress import BatchProgress, OnProgress
from openrouter_async.batch.results import ExchangeResult, Requests, StopOn
from openrouter_async.batch.run import Run
from openrouter_async.batch.source import Source
from openrouter_async.batch.standing import Standing, cast_doubt, request_digest
from openrouter_async.batch.stream import Batch

__all__ = [
    "Batch",
    "BatchProgress",
    "ExchangeResult",
    "Journal",
    "JournalEntry",
    "OnProgress",
    "Plan",
    "Requests",
    "Run",
    "Source",
    "Standing",
    "StopOn",
    "cast_doubt",
    "request_digest",
]
