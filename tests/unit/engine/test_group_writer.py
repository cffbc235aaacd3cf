"""Writes that come together are committed together, and wait for company only where the processor is busy."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from retinue_engine.stores.sqlite import group_writer
from retinue_engine.stores.sqlite.group_writer import GroupWriter

LONG_S = 600.0
"""A linger that no test outlives."""

Batches = list[list[int]]


@asynccontextmanager
async def writing(
    monkeypatch: pytest.MonkeyPatch, *, high_load: float, company: int = 4
) -> AsyncIterator[tuple[GroupWriter[int, int], Batches]]:
    """A writer, whose last commit had so many writes, with what it has committed since."""
    monkeypatch.setattr(group_writer, "HIGH_LOAD", high_load)
    monkeypatch.setattr(group_writer, "LOOK_S", 0.0)
    monkeypatch.setattr(group_writer, "COMPANY_LEFT", 0.0)
    batches: Batches = []

    def commit(batch: Sequence[int]) -> Sequence[int]:
        batches.append(list(batch))
        return batch

    writer: GroupWriter[int, int] = GroupWriter(commit)
    writer.start()
    # How writes fall together is the scheduler's.
    while not (batches and len(batches[-1]) == company):
        await asyncio.gather(*(writer.submit(0) for _ in range(company)))
    monkeypatch.setattr(group_writer, "LINGER_PER_WRITE_S", LONG_S)
    monkeypatch.setattr(group_writer, "LONGEST_LINGER_S", LONG_S)
    batches.clear()
    try:
        yield writer, batches
    finally:
        await writer.aclose()


async def test_under_load_a_write_waits_for_company_and_a_close_ends_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with asyncio.timeout(10), writing(monkeypatch, high_load=-1.0) as (writer, batches):
        waiting = [writer.submit(number) for number in range(3)]
        await writer.aclose()
        assert await asyncio.gather(*waiting) == [0, 1, 2]
        assert batches == [[0, 1, 2]]
        with pytest.raises(RuntimeError, match="not open"):
            writer.submit(3)


async def test_the_wait_is_bounded_and_the_more_company_the_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float | None] = []

    class Condition(threading.Condition):
        def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
            waits.append(timeout)
            return predicate()

    monkeypatch.setattr(threading, "Condition", Condition)
    for company in (2, 5, 40):
        async with asyncio.timeout(10), writing(monkeypatch, high_load=-1.0, company=company) as (writer, _):
            monkeypatch.setattr(group_writer, "LINGER_PER_WRITE_S", 0.5)
            monkeypatch.setattr(group_writer, "LONGEST_LINGER_S", 8.0)
            waits.clear()
            assert await writer.submit(1) == 1
            assert waits == [min(8.0, 0.5 * (company - 1))]


async def test_who_writes_alone_never_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asyncio.timeout(10), writing(monkeypatch, high_load=-1.0, company=1) as (writer, _):
        assert await writer.submit(1) == 1
        assert await writer.submit(2) == 2


async def test_without_load_no_write_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asyncio.timeout(10), writing(monkeypatch, high_load=float("inf")) as (writer, _):
        assert await writer.submit(1) == 1
        assert await writer.submit(2) == 2
