"""Being told by MongoDB that there is a word for a run: by a change stream, where the server has them."""

import asyncio
from typing import Any

import structlog
from pymongo.errors import OperationFailure, PyMongoError

from retinue_engine.stores.rows import NOW

log = structlog.get_logger()

POLL_S = 0.1
"""How long is waited where the server does not tell."""

AGAIN_S = 1.0
"""How soon a stream that broke off is opened again."""

_NONE_HERE = (13, 59, 115, 40324, 40573)
"""Error codes: not allowed, no such command, not supported, no such stage, no replica set."""

_WORDS = [{"$match": {"operationType": "update", "updateDescription.updatedFields.attention_us": NOW}}]


class CommandWatch:
    """Listens to the updates of runs. What it misses is found all the same: it only says when to ask."""

    def __init__(self, runs: Any) -> None:
        self._runs = runs
        self._came = asyncio.Event()
        self._standing = False

    async def listen(self) -> None:
        """Listen until cancelled, or until the server says that it has no change streams."""
        while True:
            try:
                async with self._runs.watch(_WORDS) as stream:
                    self._standing = True
                    # What came before it stood is asked for at once.
                    self._came.set()
                    async for _ in stream:
                        self._came.set()
            except PyMongoError as error:
                if isinstance(error, OperationFailure) and error.code in _NONE_HERE:
                    log.info("the server has no change streams: it is asked by the clock", error=str(error))
                    return
                log.info("a change stream broke off, trying again", error=str(error))
            finally:
                self._standing = False
            await asyncio.sleep(AGAIN_S)

    async def wait(self, longest_s: float) -> None:
        """See Store.await_command."""
        if not self._standing:
            await asyncio.sleep(min(POLL_S, longest_s))
            return
        try:
            async with asyncio.timeout(longest_s):
                await self._came.wait()
        except TimeoutError:
            return
        self._came.clear()
