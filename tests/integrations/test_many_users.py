"""Many users at once, through an example that runs in a process of its own."""

from __future__ import annotations

import asyncio
import statistics
from pathlib import Path

import pytest

from openrouter_async.testing import FakeOpenRouter
from tests.integrations.support import Site, Visitor, bound_socket, serve_process, settings
from tests.support import STRESS

USERS = 200 if STRESS else 40


@pytest.mark.stress
async def test_web_login_of_many_users_at_once_gives_each_their_own_key(
    fake: FakeOpenRouter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listener, url = bound_socket()
    listener.close()
    site = Site(name="aiohttp", url=url, fake=fake)
    loop = asyncio.get_running_loop()
    # Nobody begins before all are there.
    ready = asyncio.Barrier(USERS)

    async def sign_in(number: int) -> tuple[str, str | None, float]:
        async with Visitor(site) as visitor:
            await ready.wait()
            begun = loop.time()
            callback = fake.consent(await visitor.start("/login?next=/account"), user_id=f"user_{number}")
            assert (await visitor.open(callback)).location == "/account"
            shown = await visitor.key_shown()
            return f"user_{number}", shown, loop.time() - begun

    async with serve_process(["examples/aiohttp_app.py"], url, tmp_path / "log", settings(fake, url)):
        begun = loop.time()
        signed_in = await asyncio.gather(*map(sign_in, range(USERS)))
        took = loop.time() - begun

    keys = {issued.user_id: issued.key[-4:] for issued in fake.issued_keys}
    assert {user: shown for user, shown, _ in signed_in} == keys
    assert len(keys) == fake.counters["exchange"] == USERS
    times = statistics.quantiles((seconds for _, _, seconds in signed_in), n=100)
    with capsys.disabled():
        print(
            f"\n{USERS} users at once through the aiohttp example: all signed in within {took:.2f} s; "
            f"p50 {times[49]:.2f} s, p99 {times[98]:.2f} s"
        )
