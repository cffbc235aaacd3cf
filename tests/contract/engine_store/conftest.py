"""The stores that the suite runs over."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from retinue_engine.store import Store
from retinue_engine.store_mongo import open_mongo_store
from retinue_engine.store_sqlite import open_sqlite_store
from tests.servers.mongodb import MongoDB, given_uri, run_mongodb

OpenStore = Callable[[], AbstractAsyncContextManager[Store]]


@pytest.fixture(scope="session")
def mongodb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MongoDB | None]:
    """The server of the test session; None where the environment names another."""
    if given_uri() is not None:
        yield None
        return
    with run_mongodb(tmp_path_factory.mktemp("mongodb"), sync=False) as server:
        yield server


@pytest.fixture
def mongodb_uri(mongodb: MongoDB | None) -> str:
    """The address of a fresh database."""
    uri = given_uri() if mongodb is None else mongodb.uri()
    assert uri is not None
    return uri


@pytest.fixture(params=["sqlite", "mongodb"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> OpenStore:
    """Opens the same store each time."""
    if request.param == "sqlite":
        return lambda: open_sqlite_store(tmp_path / "engine.db")
    uri = request.getfixturevalue("mongodb_uri")
    return lambda: open_mongo_store(uri)


@pytest.fixture
async def store(open_store: OpenStore) -> AsyncIterator[Store]:
    async with open_store() as opened:
        yield opened
