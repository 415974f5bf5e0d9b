"""A demonstration against an embedded fake OpenRouter, without an account or a network."""

from __future__ import annotations

import asyncio
import sys

from openrouter_async import BatchProgress, OpenRouter
from openrouter_async.pkce import PKCEPair
from openrouter_async.redaction._masks import mask_key
from openrouter_async.testing import FakeOpenRouter, Fault

_EXCHANGES = 500
_AT_ONCE = 50
_WIDTH = 40


async def demonstrate() -> None:
    """Create a code and exchange it; then exchange a batch of codes, with faults for a few of them."""
    async with FakeOpenRouter() as fake, OpenRouter(fake.token, base_url=fake.base_url) as client:
        _say(f"A fake OpenRouter listens on {fake.url}")
        pair = PKCEPair.generate()
        created = await client.oauth.create_auth_code(
            callback_url="https://app.example/callback",
            code_challenge=pair.code_challenge,
            code_challenge_method=pair.code_challenge_method,
            limit=10,
        )
        # A real code is a secret. This one comes from the fake and is used up in the next step.
        _say(f"created code    {created.data.id}")
        result = await client.oauth.exchange_auth_code_for_api_key(
            code=created.data.id,
            code_verifier=pair.code_verifier,
            code_challenge_method=pair.code_challenge_method,
        )
        _say(f"exchanged key   {mask_key(result.key)}  of {result.user_id}")
        await _exchange_many(fake, client)


async def _exchange_many(fake: FakeOpenRouter, client: OpenRouter) -> None:
    codes = [fake.issue_code() for _ in range(_EXCHANGES)]
    fake.queue_faults(Fault.status(503).times(3), Fault.drop().times(2), Fault.html(502))
    _say(f"Exchanging {_EXCHANGES} more codes, {_AT_ONCE} at a time; the first few of them meet faults")
    results = await client.oauth.exchange_all(codes, concurrency=_AT_ONCE, on_progress=_show)
    attempts = sum(result.response.http_meta.attempts for result in results if result.response is not None)
    _say(f"{len(fake.issued_keys) - 1} keys, by {attempts} requests")


def _show(progress: BatchProgress) -> None:
    filled = _WIDTH * progress.finished // _EXCHANGES
    line = f"[{'#' * filled}{'.' * (_WIDTH - filled)}] {progress.finished}/{_EXCHANGES}  {progress.rate:.0f}/s"
    if sys.stdout.isatty():
        sys.stdout.write(f"\r{line}" + ("\n" if progress.is_finished else ""))
        sys.stdout.flush()
    elif progress.is_finished:
        # A file cannot be overwritten line by line as a terminal can, so it gets only the last state.
        _say(line)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    asyncio.run(demonstrate())
