"""The MongoDB server that the suites of the stores share."""

from collections.abc import Iterator

import pytest

from tests.servers.mongodb import MongoDB, given_uri, run_mongodb


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
