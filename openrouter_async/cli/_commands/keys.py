"""``status``, ``token`` and ``logout``: the keys that are stored on this computer."""

from __future__ import annotations

import os
from typing import Any, Final

import attrs

from openrouter_async._client.config import from_environment
from openrouter_async._http.retry_policy import RetryPolicy
from openrouter_async.cli._env_file import VARIABLE
from openrouter_async.cli._exit import ExitCode
from openrouter_async.cli._options import Connection, Output, Site, Storage
from openrouter_async.cli._storage import describe, load_keys, other_servers
from openrouter_async.errors import OpenRouterError, UnauthorizedResponseError
from openrouter_async.login._models import Grant
from openrouter_async.redaction._masks import scrub
from openrouter_async.sinks._base import KeySinkError, StoredKey

_NO_KEY: Final = "There is no key. Sign in with `openrouter-async login`."


@attrs.frozen
class _Found:
    where: str
    grant: Grant
    kept_since: str | None = None
    state: str | None = None


async def status(
    *,
    offline: bool = False,
    storage: Storage = Storage(),
    connection: Connection = Connection(),
    output: Output = Output(),
) -> int:
    """Show which keys are stored, and where, without the keys.

    The first one is used. Without any, the exit status is 1.

    Args:
        offline: Do not ask OpenRouter whether the keys are valid.
    """
    found = await _find(storage, connection, output)
    if found and not offline:
        found = await _ask(found, connection)
    document: dict[str, Any] = {
        "keys": [
            describe(one.grant) | {"where": one.where, "kept_since": one.kept_since, "state": one.state}
            for one in found
        ],
        "other_servers": other_servers(connection),
    }
    hints = [_hint(server) for server in document["other_servers"]]
    output.result(document, [*(_lines(found) or [_NO_KEY]), *hints])
    return ExitCode.DONE if found else ExitCode.FAILED


def _hint(server: str) -> str:
    return f"There is a key for {server}: give its address with --base-url."


async def _find(storage: Storage, connection: Connection, output: Output) -> list[_Found]:
    found: list[_Found] = []
    if storage.store is None and storage.file is None and (key := from_environment(VARIABLE)):
        found.append(_Found(VARIABLE, Grant(key=key)))
    async for location, stored in load_keys(storage, connection, output):
        if isinstance(stored, KeySinkError):
            output.tell(f"{location.where}: {stored}.")
        elif stored is not None:
            grant = Grant(key=stored.key, user_id=stored.user_id)
            found.append(_Found(location.where, grant, f"{stored.created_at:%Y-%m-%d %H:%M} UTC"))
    return found


async def _ask(found: list[_Found], connection: Connection) -> list[_Found]:
    answered: list[_Found] = []
    async with connection.open_client(None, retry=RetryPolicy.none()) as client:
        for one in found:
            try:
                key = (await client.keys.current(one.grant.key)).data
            except UnauthorizedResponseError:
                state = "no longer valid: sign in again"
            except OpenRouterError as failure:
                state = f"unknown: {scrub(str(failure), (one.grant.key,))}"
            else:
                credit = "" if key.limit_remaining is None else f"; {key.limit_remaining:g} US dollars left"
                state = f"valid{credit}"
            answered.append(attrs.evolve(one, state=state))
    return answered


async def token(
    *,
    storage: Storage = Storage(),
    site: Site = Site(),
    output: Output = Output(),
) -> int:
    """Print the key that login stored, for other programs.

    For example: export OPENROUTER_API_KEY="$(openrouter-async token)"
    """
    async for location, stored in load_keys(storage, site, output):
        if isinstance(stored, KeySinkError):
            output.tell(f"{location.where}: {stored}.")
        elif stored is not None:
            output.result({"key": stored.key, "where": location.where}, (stored.key,))
            return ExitCode.DONE
    output.tell("\n".join([_NO_KEY, *map(_hint, other_servers(site))]))
    return ExitCode.FAILED


def _lines(found: list[_Found]) -> list[str]:
    lines: list[str] = []
    for one in found:
        shown = describe(one.grant)
        rows = {
            "Key": shown["key"],
            "Where": one.where,
            "State": one.state,
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

    Copies of it stay valid until you delete the key on OpenRouter's page,
    whose address is shown.
    """
    removed: list[str] = []
    pages: list[str] = []
    status = ExitCode.DONE
    async for location, stored in load_keys(storage, site, output):
        if isinstance(stored, KeySinkError):
            # A key that cannot be read can still be deleted.
            output.note(f"The key in {location.where} cannot be read: {stored}.")
        try:
            if await location.vault.delete():
                removed.append(location.where)
        except KeySinkError as failure:
            output.tell(f"{location.where}: {failure}.")
            status = ExitCode.FAILED
        if isinstance(stored, StoredKey):
            pages.append(Grant(key=stored.key).settings_url)
    lines = [f"The key was removed from {where}." for where in removed] or ["There was no key."]
    lines += [f"To delete it on OpenRouter: {page}" for page in dict.fromkeys(pages)]
    if os.environ.get(VARIABLE, "").strip():
        lines.append(f"{VARIABLE} is still set in this shell.")
    output.result({"removed_from": removed, "settings_urls": list(dict.fromkeys(pages))}, lines)
    return status
