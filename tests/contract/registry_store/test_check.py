"""What the check of a registry's store finds."""

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from motor.motor_asyncio import AsyncIOMotorClient

from retinue.errors import StoreUnavailableError
from retinue_registry.__main__ import main
from retinue_registry.settings import RegistrySettings
from retinue_registry.stores.check import find_problems
from retinue_registry.stores.mongo.store import open_mongo_store
from retinue_registry.stores.sqlite.store import open_sqlite_store

from .rows import fill, key, version

FOUND = [
    "llm/a of namespace default: version 4 is missing, 5 is there",
    "of the 4 changes after revision 2 there are 3",
]
VERSIONS = [version(key("a"), number, number) for number in range(1, 6)]


async def test_a_missing_version_is_found_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    settings = RegistrySettings(registry_store=f"sqlite:{path}")
    with pytest.raises(StoreUnavailableError, match="there is no"):
        await find_problems(settings)
    async with open_sqlite_store(path) as store:
        await fill(store, *VERSIONS, version(key("b"), 1, 6))
        await store.remove_versions(key("a"), 3, 10)
        assert await find_problems(settings) == []
    with closing(sqlite3.connect(path, isolation_level=None)) as damaging:
        damaging.execute("DELETE FROM component_versions WHERE revision = 4")
    assert await find_problems(settings) == FOUND


async def test_a_missing_version_is_found_in_a_database_and_its_owner_stays(mongodb_uri: str) -> None:
    settings = RegistrySettings(registry_store=mongodb_uri)
    with pytest.raises(StoreUnavailableError, match="holds no store of a registry"):
        await find_problems(settings)
    async with open_mongo_store(mongodb_uri) as store:
        await fill(store, *VERSIONS, version(key("b"), 1, 6))
        await store.remove_versions(key("a"), 3, 10)
        assert await find_problems(settings) == []
        with closing(AsyncIOMotorClient(mongodb_uri)) as client:
            await client.get_default_database().component_versions.delete_one({"_id": 4})
        assert await find_problems(settings) == FOUND
        await fill(store, version(key("b"), 2, 7))


def test_the_command_prints_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RETINUE_REGISTRY_STORE", f"sqlite:{tmp_path}/registry.db")
    assert main(["--store-check"]) == 1
    assert "there is no" in capsys.readouterr().err
    with closing(sqlite3.connect(tmp_path / "registry.db")) as other:
        other.execute("PRAGMA user_version = 99")
    assert main(["--store-check"]) == 1
    assert "layout 99" in capsys.readouterr().err
    monkeypatch.setenv("RETINUE_REGISTRY_STORE", "nowhere")
    assert main(["--store-check"]) == 2
    assert "RETINUE_REGISTRY_STORE: 'nowhere' is not a store" in capsys.readouterr().err


async def test_the_command_prints_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_sqlite_store(tmp_path / "registry.db") as store:
        await fill(store, *VERSIONS)
    monkeypatch.setenv("RETINUE_REGISTRY_STORE", f"sqlite:{tmp_path}/registry.db")
    assert await asyncio.to_thread(main, ["--store-check"]) == 0
    assert capsys.readouterr().out == "no problems\n"
    assert await asyncio.to_thread(main, ["--store-check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"problems": []}
