"""A process that is stopped past a request's timeout while the answer arrives."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.kit.wire import OK, Act, Wire, WireServer, code_of
from tests.support import LOOPS, ROOT, missing

PROGRAM = """
import asyncio, sys
from openrouter_async import OpenRouter
from tests.support import LOOPS

async def main():
    async with OpenRouter(None, base_url=sys.argv[2], timeout=0.5, retry=None) as client:
        print((await client.oauth.exchange_auth_code_for_api_key(code=sys.argv[3])).key)

with asyncio.Runner(loop_factory=LOOPS[sys.argv[1]]) as runner:
    runner.run(main())
"""


def is_stopped(process: int) -> bool:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_process_stopped_past_the_timeout_gets_the_answer_in_its_socket(loop: str) -> None:
    if loop not in LOOPS:
        missing(loop)

    async def answer_while_stopped(wire: Wire, real: bytes) -> None:
        os.kill(process.pid, signal.SIGSTOP)
        while not is_stopped(process.pid):  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)
        await OK.play(wire, real)
        # Twice as long as the timeout of the request.
        await asyncio.sleep(1)
        os.kill(process.pid, signal.SIGCONT)

    async with WireServer([Act("stopped", True, answer_while_stopped)]) as server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PROGRAM, loop, server.base_url, code_of(1)),
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(240):
                out, _ = await process.communicate()
        except BaseException:
            process.kill()
            await process.wait()
            raise
        assert out.decode().strip() == server.authority.issued[code_of(1)]
    assert len(server.requests) == 1
