"""Looks over a SQLite file of the registry's for what cannot be. It only reads."""

import sqlite3
from contextlib import closing
from pathlib import Path

from retinue.errors import StoreUnavailableError
from retinue_registry.stores.check import Tally
from retinue_registry.stores.sqlite.schema import SCHEMA_VERSION, translated

_VERSIONS = (
    "SELECT namespace, kind, name, version, revision FROM component_versions "
    "ORDER BY namespace, kind, name, version"
)


def check_file(path: Path) -> list[str]:
    """What is wrong in a file, a sentence each. Raises StoreUnavailableError where it is no store."""
    if not path.is_file():
        raise StoreUnavailableError(
            f"there is no {path}: RETINUE_REGISTRY_STORE, RETINUE_DATA_DIR and RETINUE_PROJECT say where "
            "it is",
            store="sqlite",
        )
    with translated(path), closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
        version = int(db.execute("PRAGMA user_version").fetchone()[0])
        if version != SCHEMA_VERSION:
            raise StoreUnavailableError(
                f"{path} has layout {version}, and this Retinue checks {SCHEMA_VERSION}: start its registry "
                "once, which brings an older one to this",
                store="sqlite",
            )
        # One view of the file for all of it.
        db.execute("BEGIN")
        said = [str(line) for (line,) in db.execute("PRAGMA integrity_check") if line != "ok"]
        tally = Tally(*db.execute("SELECT revision, compacted_revision FROM meta").fetchone())
        for namespace, kind, name, number, revision in db.execute(_VERSIONS):
            tally.add((namespace, kind, name), number, revision)
        return [f"SQLite says: {line}" for line in said] + tally.problems()
