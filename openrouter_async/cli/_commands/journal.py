"""``journal``: show the journal of a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from openrouter_async.cli._options import Output
from openrouter_async.redaction._masks import mask_key


async def journal(
    journal_file: Annotated[Path, Parameter(name="FILE")],
    /,
    *,
    output: Output = Output(),
) -> None:
    """Show the journal of a batch, with masked keys.

    Each line has the status, the time, the digest of the request, the user,
    the key and the error. With --json, it is a JSON object.

    Args:
        journal_file: The journal, such as OUTPUT.journal of a batch.
    """
    from openrouter_async.batch import Journal

    async for entry in Journal(journal_file).entries():
        document = {
            "request": entry.request,
            "status": entry.status.value,
            "at": entry.at.isoformat(timespec="milliseconds"),
            "user_id": entry.user_id,
            "key": None if entry.key is None else mask_key(entry.key),
            "key_hash": entry.key_hash,
            "error": entry.error,
        }
        columns = (entry.status.value, document["at"], entry.request, entry.user_id, document["key"], entry.error)
        output.result(document, [" ".join(filter(None, columns))])
