"""``status`` and ``logout``: the keys that are stored on this computer."""

from __future__ import annotations

import os

import attrs

from openrouter_async.cli._exit import ExitCode
from openrouter_async.cli._options import Output, Site, Storage
from openrouter_async.cli._storage import VARIABLE, describe, locations_to_search
from openrouter_async.login._models import Grant
from openrouter_async.sinks._base import KeySinkError


@attrs.frozen
class _Found:
    where: str
    grant: Grant
    kept_since: str | None = None


async def status(
    *,
    storage: Storage = Storage(),
    site: Site = Site(),
    output: Output = Output(),
) -> int:
    """Show which key is kept, and where; never the key itself.

    The first one is the one that is used. The exit status is 1 without any.
    """
    found: list[_Found] = []
    if storage.store is None and storage.file is None and (key := os.environ.get(VARIABLE)):
        found.append(_Found(VARIABLE, Grant(key=key)))
    for place in locations_to_search(storage, site):
        try:
            stored = await place.vault.load()
        except KeySinkError as failure:
            output.tell(f"{place.where}: {failure}.")
            continue
        if stored is not None:
            grant = Grant(key=stored.key, user_id=stored.user_id)
            found.append(_Found(place.where, grant, f"{stored.created_at:%Y-%m-%d %H:%M} UTC"))
    document = {
        "keys": [describe(one.grant) | {"where": one.where, "kept_since": one.kept_since} for one in found],
    }
    output.result(document, _lines(found) or ["There is no key. Sign in with `openrouter-async login`."])
    return ExitCode.DONE if found else ExitCode.FAILED


def _lines(found: list[_Found]) -> list[str]:
    lines: list[str] = []
    for one in found:
        shown = describe(one.grant)
        rows = {
            "Key": shown["key"],
            "Where": one.where,
            "Kept since": one.kept_since,
            "User": one.grant.user_id,
            "SHA-256": one.grant.key_hash,
            "Limits": one.grant.settings_url,
            "Requests": one.grant.logs_url,
        }
        lines += ["", *(f"{name:<11} {value}" for name, value in rows.items() if value is not None)]
    return lines[1:]


async def logout(
    *,
    storage: Storage = Storage(),
    site: Site = Site(),
    output: Output = Output(),
) -> int:
    """Remove the key from this computer.

    It stays valid for whoever has a copy: delete it on OpenRouter's page,
    whose address is shown.
    """
    removed: list[str] = []
    pages: list[str] = []
    for place in locations_to_search(storage, site):
        try:
            stored = await place.vault.load()
        except KeySinkError as failure:
            # What cannot be read can still be removed.
            output.note(f"What is in {place.where} cannot be read: {failure}.")
            stored = None
        if await place.vault.delete():
            removed.append(place.where)
        if stored is not None:
            pages.append(Grant(key=stored.key).settings_url)
    lines = [f"The key was removed from {where}." for where in removed] or ["There was no key."]
    lines += [f"To delete it on OpenRouter: {page}" for page in dict.fromkeys(pages)]
    if os.environ.get(VARIABLE):
        lines.append(f"{VARIABLE} is still set in this shell.")
    output.result({"removed_from": removed, "settings_urls": list(dict.fromkeys(pages))}, lines)
    return 0
