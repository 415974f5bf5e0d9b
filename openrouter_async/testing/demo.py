"""The whole job against an embedded fake OpenRouter: no account, no network."""

from __future__ import annotations

import asyncio
import sys
import time

from openrouter_async import OpenRouter
from openrouter_async.pkce import PKCEPair
from openrouter_async.redaction import mask_key
from openrouter_async.testing import FakeOpenRouter

_EXCHANGES = 500
_AT_ONCE = 50
_WIDTH = 40


async def demonstrate() -> None:
    """Create a code, exchange it, and exchange many."""
    async with FakeOpenRouter() as fake, OpenRouter(fake.token, base_url=fake.base_url) as client:
        _say(f"A fake OpenRouter listens on {fake.url}")
        pair = PKCEPair.generate()
        created = await client.oauth.create_auth_code(
            callback_url="https://app.example/callback",
            code_challenge=pair.code_challenge,
            code_challenge_method=pair.code_challenge_method,
            limit=10,
        )
        # A real code is a secret; this one is from the fake, and about to be used up.
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
    free = asyncio.Semaphore(_AT_ONCE)
    done = 0

    async def exchange(code: str) -> None:
        nonlocal done
        async with free:
            await client.oauth.exchange_auth_code_for_api_key(code=code)
        done += 1
        _show_progress(done)

    started = time.perf_counter()
    await asyncio.gather(*(exchange(code) for code in codes))
    elapsed = time.perf_counter() - started
    _say(f"\n{len(fake.issued_keys) - 1} more codes exchanged in {elapsed:.2f} s")


def _show_progress(done: int) -> None:
    if sys.stdout.isatty() or done == _EXCHANGES:
        filled = _WIDTH * done // _EXCHANGES
        sys.stdout.write(f"\r[{'#' * filled}{'.' * (_WIDTH - filled)}] {done}/{_EXCHANGES}")
        sys.stdout.flush()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    asyncio.run(demonstrate())
