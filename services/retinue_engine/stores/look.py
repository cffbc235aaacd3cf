"""Looks at a store as it is, for its maintenance: nothing there is made, migrated or locked."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol

from retinue.errors import StoreUnavailableError
from retinue_engine.settings import EngineSettings
from retinue_engine.stores.sqlite import check as store_sqlite_check
from retinue_engine.stores.sqlite import schema as store_sqlite_schema


class StoreLook(Protocol):
    """A store that somebody looks at."""

    name: str
    """For people; without user and password."""
    version: int
    """Of its schema; 0 where there is no store."""
    newest: int
    """The version that this engine works with."""

    async def problems(self) -> list[str]:
        """What is wrong in a store of the newest version, a sentence each. Raises StoreUnavailableError."""
        ...


def open_look(settings: EngineSettings) -> AbstractAsyncContextManager[StoreLook]:
    """Look at the store that the settings name.

    Raises StoreUnavailableError, and ValueError for an address that cannot be.
    """
    path = settings.sqlite_path
    return _open_sqlite_look(path) if path is not None else _open_mongo_look(settings.store)


class _SqliteLook:
    newest = store_sqlite_schema.SCHEMA_VERSION

    def __init__(self, path: Path) -> None:
        """Open a file. Raises StoreUnavailableError."""
        self.name = str(path)
        # Of a file that is not there an empty one in memory says as much, and makes none.
        where = f"{path.resolve().as_uri()}?mode=ro" if path.exists() else ":memory:"
        try:
            self.connection = sqlite3.connect(where, uri=True, isolation_level=None)
            (self.version,) = self.connection.execute("PRAGMA user_version").fetchone()
        except sqlite3.DatabaseError as error:
            raise StoreUnavailableError(f"{path} cannot be read: {error}", store="sqlite") from error

    async def problems(self) -> list[str]:
        """See StoreLook."""
        try:
            return store_sqlite_check.check(self.connection)
        except sqlite3.DatabaseError as error:
            # So damaged that not even the damage can be read.
            return [f"SQLite says: {error}"]

    def close(self) -> None:
        self.connection.close()


@asynccontextmanager
async def _open_sqlite_look(path: Path) -> AsyncIterator[StoreLook]:
    with closing(_SqliteLook(path)) as look:
        yield look


class _MongoLook:
    def __init__(self, database: Any, version: int, newest: int) -> None:
        self.name = f"the database {database.name}"
        self.version = version
        self.newest = newest
        self._database = database

    async def problems(self) -> list[str]:
        """See StoreLook."""
        from retinue_engine.stores.mongo import check as store_mongo_check  # noqa: PLC0415 - as below
        from retinue_engine.stores.mongo.schema import Collections  # noqa: PLC0415 - as below

        names = [field.name for field in fields(Collections)]
        return await store_mongo_check.check(Collections(**{name: self._database[name] for name in names}))


@asynccontextmanager
async def _open_mongo_look(uri: str) -> AsyncIterator[StoreLook]:
    # The driver is imported where it is used: with SQLite there may be none.
    from retinue_engine.stores.mongo.database import DATABASE, translated  # noqa: PLC0415 - see above
    from retinue_engine.stores.mongo.schema import SCHEMA_VERSION  # noqa: PLC0415 - see above

    client, database = DATABASE.connect(uri)
    with closing(client):
        with translated():
            stored = await database["meta"].find_one({"_id": "schema"})
            # Before there was `meta` there was version 1.
            first = int("runs" in await database.list_collection_names())
        yield _MongoLook(database, stored["version"] if stored else first, SCHEMA_VERSION)
