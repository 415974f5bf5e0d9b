"""``create-code``: create an authorization code with the app's own key."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Literal

from openrouter_async._client.config import from_environment
from openrouter_async._values.models import UNSET, CreateAuthKeysCodeRequest, Unset
from openrouter_async.cli._env_file import VARIABLE
from openrouter_async.cli._exit import UsageError
from openrouter_async.cli._input import StdinReader, read_secret
from openrouter_async.cli._options import AppKey, Connection, Method, Output, Text, to_method
from openrouter_async.pkce import PKCEPair
from openrouter_async.sinks._private_file import PrivateFile


async def create_code(
    callback_url: str,
    /,
    *,
    code_challenge: Text = None,
    code_challenge_method: Method | None = None,
    new_verifier: Path | None = None,
    limit: float | None = None,
    usage_limit_type: Literal["daily", "weekly", "monthly"] | None = None,
    expires_at: str | None = None,
    key_label: Text = None,
    workspace_id: str | None = None,
    key: AppKey = AppKey(),
    connection: Connection = Connection(),
    output: Output = Output(),
) -> int:
    """Create an authorization code; needs a management key.

    The standard output is the code alone, so these commands give a key:

      openrouter-async create-code URL --new-verifier verifier >code
      openrouter-async exchange --code-file code --code-verifier-file verifier

    Args:
        callback_url: Where the user is sent after consent: https, or http on localhost or 127.0.0.1.
        code_challenge: The PKCE challenge.
        code_challenge_method: How the challenge was derived; "null" sends null. By default it is left out.
        new_verifier: Generate a verifier, write it to this file with mode 0600, and send its challenge.
        limit: The credit limit of the key, in US dollars.
        usage_limit_type: When the limit resets; by default never.
        expires_at: When the key expires, such as 2027-12-31T23:59:59Z; "null" sends null.
        key_label: The name of the key, at most 100 characters.
        workspace_id: The UUID of the workspace that the key belongs to.
    """
    challenge, method = code_challenge, to_method(code_challenge_method)
    pair = None
    if new_verifier is not None:
        if challenge is not None or method:
            raise UsageError("--new-verifier derives the challenge: leave --code-challenge and its method out.")
        pair = PKCEPair.generate()
        challenge, method = pair.code_challenge, pair.code_challenge_method
    request = CreateAuthKeysCodeRequest(
        callback_url=callback_url,
        code_challenge=challenge,
        code_challenge_method=method,
        limit=limit,
        usage_limit_type=usage_limit_type,
        expires_at=_to_moment(expires_at),
        key_label=key_label,
        workspace_id=workspace_id,
    )
    bearer = await read_secret("API key", None, key.api_key_file, StdinReader()) or from_environment(VARIABLE)
    if bearer is None:
        raise UsageError("An API key is needed: set OPENROUTER_API_KEY, or use --api-key-file.")
    if pair is not None and new_verifier is not None:
        # Before the code is created: without its verifier, a code is useless.
        await asyncio.to_thread(PrivateFile(new_verifier).write, f"{pair.code_verifier}\n".encode())
    async with connection.open_client(bearer) as client:
        created = (await client.oauth.create_auth_code(request)).data
    output.result(
        {"id": created.id, "app_id": created.app_id, "created_at": created.created_at.isoformat()}, (created.id,)
    )
    output.note(f"Created at {created.created_at:%Y-%m-%d %H:%M:%S} UTC for app {created.app_id}.")
    return 0


def _to_moment(text: str | None) -> datetime | None | Unset:
    if text is None:
        return UNSET
    if text == "null":
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise UsageError("--expires-at must be a time such as 2027-12-31T23:59:59Z, or null.") from None
