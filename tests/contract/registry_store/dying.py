"""A registry's store on MongoDB that dies in the middle of a write, as a process: `ADDRESS COMMANDS`.

It ends by SIGKILL when so many of the commands that change something have been answered.
"""

import asyncio
import dataclasses
import os
import signal
import sys

from pymongo import monitoring

from retinue_registry.component import FileSource
from retinue_registry.stores.mongo.store import open_mongo_store
from retinue_registry.stores.store import Write

from .rows import fill, key, record, version

FIRST = version(key("a"), 1, 1)
SECOND = version(key("b"), 1, 2)
MOVED = dataclasses.replace(FIRST, source=FileSource("moved.yaml", 1))
LAST = Write(
    2,
    4,
    [version(key("a"), 2, 3, deleted=True), version(key("c"), 1, 4)],
    [dataclasses.replace(SECOND, source=FileSource("moved.yaml", 2))],
    record("r", 4),
)
"""What is being written when it dies."""

LAST_CHANGES = 7
"""Commands of that write: three that fold MOVED, then three inserts, and the one that makes it count."""


class Death(monitoring.CommandListener):
    """Kills the process after some commands."""

    def __init__(self) -> None:
        self.left = -1

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        pass

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        if event.command_name in {"insert", "update", "delete"}:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass


async def _main(uri: str, commands: int) -> None:
    death = Death()
    monitoring.register(death)
    async with open_mongo_store(uri) as store:
        await fill(store, FIRST, SECOND)
        await store.write(Write(2, 2, moved=[MOVED]))
        death.left = commands
        await store.write(LAST)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], int(sys.argv[2])))
