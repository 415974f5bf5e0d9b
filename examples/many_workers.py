"""Exchange many codes on as many workers as you like, on one machine or several, behind one Valkey or Redis.

Each worker is a process of taskiq's; the codes, a line each, come from a producer that collects the keys, too::

    pip install 'openrouter-async[taskiq]'
    export SEALING_KEY=$(python -m openrouter_async.encryption)
    export REDIS_URL=redis://localhost
    taskiq worker --app-dir examples --workers 1 many_workers:broker    # here, there and everywhere
    python examples/many_workers.py < codes.txt > keys.jsonl

Without an account, run ``openrouter-async sandbox`` beside it, and set ``OPENROUTER_BASE_URL`` to the address
that it prints.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator

from taskiq.serializers import JSONSerializer
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from openrouter_async import OpenRouter
from openrouter_async.errors import OpenRouterError
from openrouter_async.integrations.taskiq import ExchangeQueue
from openrouter_async.login import RedisStore

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost")
SEALING_KEY = os.environ["SEALING_KEY"]
# Seconds until another worker takes over the codes of a worker that died.
PATIENCE = float(os.environ.get("PATIENCE", "30"))
LOOKAHEAD = 200

broker = RedisStreamBroker(
    REDIS_URL,
    consumer_id="0",  # also messages that were sent before the first worker started
    idle_timeout=int(PATIENCE * 1000),
    unacknowledged_lock_timeout=PATIENCE,
    xread_count=20,
).with_result_backend(RedisAsyncResultBackend(REDIS_URL, result_ex_time=3600, serializer=JSONSerializer()))

exchanges = ExchangeQueue(
    broker,
    encryption_keys=SEALING_KEY,
    claims=lambda: RedisStore.from_url(REDIS_URL, encryption_keys=SEALING_KEY),
    client=lambda: OpenRouter(),
    claim_ttl=PATIENCE / 2,
)


async def produce() -> AsyncIterator[tuple[str, str]]:
    for line in sys.stdin:
        if code := line.strip():
            yield code, await exchanges.send(code)


async def collect(code: str, task_id: str) -> None:
    try:
        exchanged = await exchanges.result(task_id, timeout=600, interval=0.2)
        result = {"key": exchanged.key, "user_id": exchanged.user_id}
    except OpenRouterError as error:
        result = {"error": str(error), "outcome": error.outcome}
    print(json.dumps({"code": code, **result}), flush=True)


async def main() -> None:
    await broker.startup()
    room = asyncio.Semaphore(LOOKAHEAD)
    async with asyncio.TaskGroup() as collectors:
        async for code, task_id in produce():
            await room.acquire()
            collectors.create_task(collect(code, task_id)).add_done_callback(lambda _: room.release())
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
