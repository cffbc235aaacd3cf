"""Writes that come together are committed together; one that somebody waits for does not linger."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from retinue_engine import group_writer
from retinue_engine.group_writer import COMPANY, GroupWriter

LONG_S = 600.0
"""A linger that no test outlives."""


@asynccontextmanager
async def lingering(
    monkeypatch: pytest.MonkeyPatch, batches: list[list[int]]
) -> AsyncIterator[GroupWriter[int, int]]:
    """A writer whose next commit waits for company, as the one before had company."""
    monkeypatch.setattr(group_writer, "LINGER_S", LONG_S)

    def commit(batch: Sequence[int]) -> Sequence[int]:
        batches.append(list(batch))
        return batch

    writer: GroupWriter[int, int] = GroupWriter(commit)
    writer.start()
    # Until one commit had company: how the first ones fall together is the scheduler's.
    while not (batches and len(batches[-1]) > COMPANY):
        await asyncio.gather(*(writer.submit(0, urgent=True) for _ in range(COMPANY + 1)))
    batches.clear()
    try:
        yield writer
    finally:
        await writer.aclose()


async def test_a_write_that_somebody_waits_for_takes_along_what_lingers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batches: list[list[int]] = []
    async with asyncio.timeout(10), lingering(monkeypatch, batches) as writer:
        waiting = writer.submit(1)
        assert await writer.submit(2, urgent=True) == 2
        assert await waiting == 1
        assert batches == [[1, 2]]


async def test_a_close_writes_what_lingers(monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[list[int]] = []
    async with asyncio.timeout(10), lingering(monkeypatch, batches) as writer:
        waiting = writer.submit(1)
        await writer.aclose()
        assert await waiting == 1
        with pytest.raises(RuntimeError, match="not open"):
            writer.submit(2)
