"""The turns of one connection's calls."""

import asyncio

import pytest

from retinue import errors
from retinue_mcp_host.connections.slots import CallSlots
from retinue_mcp_host.model import ServerSpec, StdioTransport

SPEC = ServerSpec("default", "s", 1, StdioTransport("c"), max_concurrent_calls=1, max_queued_calls=2)


async def waiting(slots: CallSlots) -> "asyncio.Task[None]":
    """A caller that waits for its turn."""
    task = asyncio.create_task(slots.take())
    await asyncio.sleep(0)
    assert not task.done()
    return task


async def test_turns_are_given_in_the_order_in_which_they_are_asked_for() -> None:
    slots = CallSlots(SPEC)
    await slots.take()
    first, second = await waiting(slots), await waiting(slots)
    with pytest.raises(errors.McpServerBusyError):
        await slots.take()
    slots.give()
    await first
    assert not second.done()
    slots.give()
    await second
    slots.give()
    assert (slots.running, slots.waiting) == (0, 0)
    assert slots.take_now()


async def test_a_turn_that_comes_together_with_the_cancel_goes_to_the_next() -> None:
    slots = CallSlots(SPEC)
    await slots.take()
    first, second = await waiting(slots), await waiting(slots)
    slots.give()
    first.cancel()
    await second
    assert first.cancelled()
    slots.give()
    assert (slots.running, slots.waiting) == (0, 0)


async def test_the_end_of_the_connection_ends_the_waiting() -> None:
    slots = CallSlots(SPEC)
    await slots.take()
    first = await waiting(slots)
    slots.close(lambda: errors.McpServerUnavailableError("it died"))
    for caller in (first, slots.take()):
        with pytest.raises(errors.McpServerUnavailableError):
            await caller
