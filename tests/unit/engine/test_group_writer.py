"""Writes that come together are committed together; one that waits for company goes along with what comes."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from retinue_engine.stores.company import Company
from retinue_engine.stores.sqlite.group_writer import GroupWriter

LONG_S = 600.0
"""A linger that no test outlives."""

Batches = list[list[int]]


@asynccontextmanager
async def writing(
    monkeypatch: pytest.MonkeyPatch, linger_s: Callable[[Company], float]
) -> AsyncIterator[tuple[GroupWriter[int, int], Batches]]:
    """A writer whose commits wait as long as it says, and what it has committed."""
    monkeypatch.setattr(Company, "linger_s", linger_s)
    batches: Batches = []

    def commit(batch: Sequence[int]) -> Sequence[int]:
        batches.append(list(batch))
        return batch

    writer: GroupWriter[int, int] = GroupWriter(commit)
    writer.start()
    try:
        yield writer, batches
    finally:
        await writer.aclose()


async def test_what_waits_for_company_is_committed_with_it_and_a_close_ends_the_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = threading.Event()

    def linger_s(_: Company) -> float:
        asked.set()
        return LONG_S

    async with asyncio.timeout(10), writing(monkeypatch, linger_s) as (writer, batches):
        waiting = [writer.submit(0)]
        assert await asyncio.to_thread(asked.wait, 5)
        # The writer has seen the first alone.
        waiting += [writer.submit(1), writer.submit(2)]
        await writer.aclose()
        assert await asyncio.gather(*waiting) == [0, 1, 2]
        assert batches == [[0, 1, 2]]
        with pytest.raises(RuntimeError, match="not open"):
            writer.submit(3)


async def test_what_does_not_wait_is_committed_at_once_and_every_size_is_noted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noted: list[int] = []
    monkeypatch.setattr(Company, "note", lambda _, writes: noted.append(writes))
    async with asyncio.timeout(10), writing(monkeypatch, lambda _: 0.0) as (writer, batches):
        assert await writer.submit(1) == 1
        assert await asyncio.gather(*(writer.submit(number) for number in range(5))) == [0, 1, 2, 3, 4]
        assert noted == [len(batch) for batch in batches]
