"""``exchange``: exchange a code for a key."""

from __future__ import annotations

from openrouter_async._values.models import ExchangeAuthCodeForAPIKeyRequest
from openrouter_async.cli._exit import UsageError
from openrouter_async.cli._input import StdinReader, ask, hidden_input, read_secret
from openrouter_async.cli._key_saver import KeySaver
from openrouter_async.cli._options import Connection, Method, Output, Secret, SecretFile, Storage, to_method
from openrouter_async.cli._storage import location_for_new_key


async def exchange(
    code: str | None = None,
    /,
    *,
    code_file: SecretFile = None,
    code_verifier: Secret = None,
    code_verifier_file: SecretFile = None,
    code_challenge_method: Method | None = None,
    storage: Storage = Storage(),
    connection: Connection = Connection(),
    output: Output = Output(),
) -> int:
    """Exchange an authorization code for a user's API key.

    A command line stays in the shell's history, and other users of this
    computer can see it. The code and its verifier can therefore come from
    files, or from the standard input, one line each.

    Args:
        code: The code. If it is missing, you are asked for it.
        code_file: A file with the code; "-" is the standard input.
        code_verifier: The verifier that the login was started with; "-" reads it from the standard input.
        code_verifier_file: A file with the verifier; "-" is the standard input.
        code_challenge_method: How the challenge was derived; "null" sends null. By default it is left out.
    """
    lines = StdinReader()
    if code is None and code_file is None:
        if not lines.is_terminal:
            raise UsageError("Give the code as CODE or with --code-file; for the standard input: --code-file -.")
        with hidden_input(output):
            code = await ask("The code; it stays hidden: ", lines, output) or ""
    request = ExchangeAuthCodeForAPIKeyRequest(
        code=await read_secret("code", code, code_file, lines) or "",
        code_verifier=await read_secret("verifier", code_verifier, code_verifier_file, lines),
        code_challenge_method=to_method(code_challenge_method),
    )
    saver = KeySaver(await location_for_new_key(storage, connection, output), storage, connection, output)
    async with connection.open_client(on_key=saver) as client:
        await client.oauth.exchange_auth_code_for_api_key(request)
    return saver.status
