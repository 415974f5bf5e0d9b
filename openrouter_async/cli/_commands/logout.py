"""``logout``: the key leaves this computer."""

from __future__ import annotations

import os

from openrouter_async.cli._options import Output, Site, Storage
from openrouter_async.cli._storage import VARIABLE, places_of
from openrouter_async.login._models import Grant
from openrouter_async.sinks._base import KeySinkError


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
    for place in places_of(storage, site):
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
