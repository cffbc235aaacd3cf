"""A task group that passes on what its block raises as it is."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def open_task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """Open a task group; leaving waits for its tasks, which the block has to end.

    An asyncio.TaskGroup wraps the block's own error in an ExceptionGroup, once for each level, and nobody who
    waits for an OSError or RetinueError finds it.
    """
    failure: Exception | None = None
    async with asyncio.TaskGroup() as group:
        try:
            yield group
        except Exception as error:  # noqa: BLE001 - raised again below
            failure = error
    if failure is not None:
        raise failure
