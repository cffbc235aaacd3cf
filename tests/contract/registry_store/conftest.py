"""The stores that the suite runs over."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from retinue_registry.stores.mongo.store import open_mongo_store
from retinue_registry.stores.sqlite.store import open_sqlite_store
from retinue_registry.stores.store import Store

OpenStore = Callable[[], AbstractAsyncContextManager[Store]]


@pytest.fixture(params=["sqlite", "mongodb"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> OpenStore:
    """Opens the same store each time."""
    if request.param == "sqlite":
        return lambda: open_sqlite_store(tmp_path / "data" / "registry.db")
    uri = request.getfixturevalue("mongodb_uri")
    return lambda: open_mongo_store(uri)


@pytest.fixture
async def store(open_store: OpenStore) -> AsyncIterator[Store]:
    async with open_store() as opened:
        yield opened
