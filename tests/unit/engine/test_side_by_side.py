"""Tasks of one owner: their ends are told once, and none is left behind."""

import asyncio

from retinue_engine.workflow.side_by_side import SideBySide


async def value(given: int) -> int:
    return given


async def told(tasks: SideBySide[int, int]) -> dict[int, int]:
    return {key: task.result() for key, task in await tasks.news(10)}


async def test_each_end_is_told_once_and_a_wake_tells_none() -> None:
    tasks: SideBySide[int, int] = SideBySide()
    for number in (1, 2):
        tasks.start(number, value(number * 10))
    found: dict[int, int] = {}
    while len(tasks):
        found |= await told(tasks)
    assert found == {1: 10, 2: 20}
    tasks.wake()
    assert await told(tasks) == {}
    assert await tasks.news(0.01) == []


async def test_one_that_is_cancelled_is_not_told_and_its_key_is_free() -> None:
    tasks: SideBySide[int, int] = SideBySide()
    hangs = asyncio.Event()
    ended = asyncio.Event()

    async def hang() -> int:
        try:
            await hangs.wait()
        finally:
            ended.set()
        return 0

    tasks.start(1, hang())
    await asyncio.sleep(0)
    tasks.cancel(1)
    assert 1 not in tasks
    tasks.start(1, value(5))
    assert await told(tasks) == {1: 5}
    await tasks.aclose()
    assert ended.is_set()


async def test_close_waits_for_the_ends_of_all_and_what_they_raise_is_nobody_s() -> None:
    tasks: SideBySide[int, int] = SideBySide()
    ended = []

    async def slow_to_end(number: int) -> int:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(number)
            if number == 1:
                raise ValueError("nobody looks")
        return number

    for number in range(3):
        tasks.start(number, slow_to_end(number))
    await asyncio.sleep(0)
    await tasks.aclose()
    assert ended == [0, 1, 2]
    assert len(tasks) == 0
