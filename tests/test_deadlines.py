from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from openrouter_async._http.timeouts import Deadlines
from tests.support import LOOPS, PATIENCE, missing


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Runs a test in a loop of each kind."""
    if request.param not in LOOPS:
        missing("uvloop")

    def runner(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(debug=True, loop_factory=LOOPS[request.param]) as loop:
            loop.run(main)

    return runner


Run = Callable[[Coroutine[Any, Any, None]], None]


def now() -> float:
    return asyncio.get_running_loop().time()


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def limited(deadlines: Deadlines, seconds: float, work: Coroutine[Any, Any, Any]) -> bool:
    """Do some work under a deadline, and return whether it expired."""
    deadline = deadlines.start(seconds)
    try:
        await work
    except asyncio.CancelledError:
        if deadline.absorb_cancellation():
            return True
        raise
    finally:
        deadlines.stop(deadline)
    return False


def test_deadline_reached_cancels_its_task_and_absorbs_the_cancellation(run: Run) -> None:
    async def main() -> None:
        deadlines = Deadlines()
        started = now()
        assert await limited(deadlines, 0.03, forever())
        assert 0.025 <= now() - started < 5
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        assert len(deadlines) == 0
        deadlines.close()

    run(main())


def test_deadline_not_reached_changes_nothing(run: Run) -> None:
    async def main() -> None:
        deadlines = Deadlines()
        assert not await limited(deadlines, 30, asyncio.sleep(0))
        assert len(deadlines) == 0
        deadlines.close()
        assert deadlines._timer is None

    run(main())


def test_deadlines_share_a_timer_and_each_fires_on_time(run: Run) -> None:
    async def main() -> None:
        deadlines = Deadlines()
        started = now()
        came: dict[float, float] = {}

        async def one(seconds: float) -> None:
            assert await limited(deadlines, seconds, forever())
            came[seconds] = now() - started

        # The later ones first, and some at the same time.
        tasks = [asyncio.create_task(one(seconds)) for seconds in (0.09, 0.06, 0.03, 0.06, 0.03)]
        await asyncio.sleep(0)
        assert len(deadlines) == 5
        await asyncio.gather(*tasks)
        assert sorted(came) == [0.03, 0.06, 0.09]
        assert all(seconds - 0.005 <= moment < seconds + 5 for seconds, moment in came.items())
        deadlines.close()

    run(main())


def test_deadline_shorter_fires_before_a_longer_one_that_began_earlier(run: Run) -> None:
    async def main() -> None:
        deadlines = Deadlines()
        long = asyncio.create_task(limited(deadlines, 30, forever()))
        await asyncio.sleep(0)
        assert await limited(deadlines, 0.01, forever())
        assert not long.done()
        long.cancel()
        with pytest.raises(asyncio.CancelledError):
            await long
        deadlines.close()

    run(main())


def test_deadline_cancellation_from_outside_propagates(run: Run) -> None:
    async def main() -> None:
        deadlines = Deadlines()
        task = asyncio.create_task(limited(deadlines, 30, forever()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(deadlines) == 0
        deadlines.close()

    run(main())


@pytest.mark.parametrize("outer_first", [True, False])
def test_deadline_cancelled_in_the_same_pass_propagates(run: Run, outer_first: bool) -> None:
    async def main() -> None:
        deadlines = Deadlines()
        task = asyncio.create_task(limited(deadlines, 0.01, forever()))
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        if outer_first:
            task.cancel()
            deadlines._active.copy().pop().when = 0.0
            deadlines._expire(loop, has_grace=False)
        else:
            deadlines._active.copy().pop().when = 0.0
            deadlines._expire(loop, has_grace=False)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        deadlines.close()

    run(main())


@pytest.mark.parametrize("inner", [0.01, 30.0])
def test_deadline_nests_in_asyncio_timeout(run: Run, inner: float) -> None:
    async def main() -> None:
        deadlines = Deadlines()
        if inner < 1:
            async with asyncio.timeout(PATIENCE):
                assert await limited(deadlines, inner, forever())
        else:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await limited(deadlines, inner, forever())
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        deadlines.close()

    run(main())


def test_deadline_with_asyncio_timeout_in_one_pass_is_the_callers(run: Run) -> None:
    async def both(deadlines: Deadlines) -> None:
        async with asyncio.timeout(None) as outer:
            deadline = deadlines.start(30)
            try:
                outer.reschedule(now() - 1)
                deadline.when = now() - 1
                deadlines._expire(asyncio.get_running_loop(), has_grace=False)
                await forever()
            except asyncio.CancelledError:
                assert not deadline.absorb_cancellation()
                raise
            finally:
                deadlines.stop(deadline)

    async def main() -> None:
        deadlines = Deadlines()
        with pytest.raises(TimeoutError):
            await both(deadlines)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        deadlines.close()

    run(main())


def test_deadline_swallowed_cancellation_is_absorbed(run: Run) -> None:
    async def stubborn() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            raise ConnectionError from None

    async def main() -> None:
        deadlines = Deadlines()
        with pytest.raises(ConnectionError):
            await limited(deadlines, 0.01, stubborn())
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        async with asyncio.timeout(PATIENCE):
            await asyncio.sleep(0)
        deadlines.close()

    run(main())


def test_deadline_stopped_does_not_fire(run: Run) -> None:
    async def main() -> None:
        deadlines = Deadlines()
        deadline = deadlines.start(0.01)
        deadlines.stop(deadline)
        other = deadlines.start(0.01)
        with pytest.raises(asyncio.CancelledError):
            await forever()
        assert other.absorb_cancellation()
        assert not other.absorb_cancellation()
        assert not deadline.expired
        assert not deadline.absorb_cancellation()
        deadlines.stop(other)
        deadlines.close()

    run(main())


def test_deadline_timer_closed_is_kept_for_running_deadlines(run: Run) -> None:
    async def main() -> None:
        deadlines = Deadlines()
        late = asyncio.create_task(limited(deadlines, 0.03, forever()))
        await asyncio.sleep(0)
        deadlines.close()
        async with asyncio.timeout(PATIENCE):
            assert await late
        assert deadlines._timer is None

    run(main())


def test_deadline_outside_a_task_is_refused(run: Run) -> None:
    async def main() -> None:
        refused: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

        def in_a_callback() -> None:
            try:
                Deadlines().start(1)
            except RuntimeError as error:
                refused.set_result(error)

        asyncio.get_running_loop().call_soon(in_a_callback)
        assert str(await refused) == "a deadline needs a running task"

    run(main())
