"""Engines on MongoDB that stop after some writes, and that stand still before one."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import fields, replace
from typing import Any

from motor.motor_asyncio import AsyncIOMotorClient
from pymongo.errors import AutoReconnect

from retinue.errors import StoreUnavailableError
from retinue_engine.stores.mongo.schema import Collections, open_collections
from retinue_engine.stores.mongo.store import MongoStore
from retinue_engine.stores.store import Store
from retinue_kit.tasks import open_task_group

Doing = Callable[[Store], Awaitable[object]]

_WRITES = frozenset(
    {
        "bulk_write",
        "insert_one",
        "update_one",
        "update_many",
        "delete_one",
        "delete_many",
        "find_one_and_update",
    }
)


class _Power:
    """Writes that the engine does before it stops."""

    def __init__(self, writes: int) -> None:
        self.left = writes

    def use(self) -> None:
        if not self.left:
            raise AutoReconnect("the engine has stopped")
        self.left -= 1


class _Stopping:
    """A collection for an engine that stops."""

    def __init__(self, collection: Any, power: _Power) -> None:
        self._collection = collection
        self._power = power

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._collection, name)
        if name not in _WRITES:
            return found

        async def write(*args: Any, **more: Any) -> Any:
            self._power.use()
            return await found(*args, **more)

        return write


class Held(_Stopping):
    """A collection in which a write, after some others, waits until it is let go."""

    def __init__(self, collection: Any, before: int) -> None:
        super().__init__(collection, _Power(1_000))
        self._before = before
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        found = super().__getattr__(name)
        if name not in _WRITES:
            return found

        async def write(*args: Any, **more: Any) -> Any:
            self._before -= 1
            if self._before < 0:
                self.reached.set()
                await self.go_on.wait()
            return await found(*args, **more)

        return write


async def do_until_stopped(uri: str, writes: int, doing: Doing) -> bool:
    """Do something on an engine that stops after some writes; whether it came to an end before."""
    client: Any = AsyncIOMotorClient(uri)
    try:
        whole = await open_collections(client.get_default_database())
        power = _Power(writes)
        parts = {each.name: _Stopping(getattr(whole, each.name), power) for each in fields(Collections)}
        async with open_task_group() as group:
            store = MongoStore(Collections(**parts), group)
            try:
                await doing(store)
            except StoreUnavailableError:
                return False
            finally:
                await store.aclose()
            return True
    finally:
        client.close()


@asynccontextmanager
async def slow_engine(uri: str, slow_at: str, before: int = 0) -> AsyncIterator[tuple[Store, Held]]:
    """An engine that stands still before a write to one collection, its next or a later one."""
    client: Any = AsyncIOMotorClient(uri)
    try:
        whole = await open_collections(client.get_default_database())
        held = Held(getattr(whole, slow_at), before)
        async with open_task_group() as group:
            slow = MongoStore(replace(whole, **{slow_at: held}), group)
            try:
                yield slow, held
            finally:
                held.go_on.set()
                await slow.aclose()
    finally:
        client.close()
