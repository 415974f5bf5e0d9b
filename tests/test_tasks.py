from __future__ import annotations

import asyncio

import pytest

from openrouter_async._values.tasks import ShieldedTasks


async def test_shielded_task_of_a_cancelled_caller_continues_and_reports() -> None:
    told: list[str] = []
    go_on = asyncio.Event()

    async def work() -> str:
        await go_on.wait()
        return "done"

    tasks: ShieldedTasks[str] = ShieldedTasks(lambda task: told.append(task.result()))
    caller = asyncio.create_task(tasks.run(work()))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert len(tasks) == 1
    assert await tasks.drain(0) == 1
    go_on.set()
    assert await tasks.drain() == 0
    await asyncio.sleep(0)
    assert told == ["done"]
    assert len(tasks) == 0


async def test_shielded_task_result_reaches_its_caller() -> None:
    async def work(*, fails: bool) -> str:
        if fails:
            raise ValueError("so it is")
        return "done"

    told: list[object] = []
    tasks: ShieldedTasks[str] = ShieldedTasks(told.append)
    assert await tasks.run(work(fails=False)) == "done"
    with pytest.raises(ValueError, match="so it is"):
        await tasks.run(work(fails=True))
    assert told == []


@pytest.mark.parametrize("end", ["fails", "is cancelled"])
async def test_shielded_task_without_a_callback_reports_nothing(end: str, caplog: pytest.LogCaptureFixture) -> None:
    go_on = asyncio.Event()

    async def work() -> None:
        await go_on.wait()
        raise asyncio.CancelledError if end == "is cancelled" else ValueError("seen by nobody")

    tasks: ShieldedTasks[None] = ShieldedTasks()
    caller = asyncio.create_task(tasks.run(work()))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait((caller,))
    go_on.set()
    await tasks.drain()
    del caller
    await asyncio.sleep(0)
    assert caplog.records == []
