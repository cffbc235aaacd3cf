"""Looks over a MongoDB database of the registry's for what cannot be. It reads, and takes nothing over."""

from contextlib import closing
from typing import Any

from retinue.errors import StoreUnavailableError
from retinue_registry.stores.check import Tally
from retinue_registry.stores.mongo.database import DATABASE, translated
from retinue_registry.stores.mongo.schema import BY_KEY, SCHEMA_VERSION, collections_of

_LOOKS = 5
_BY_KEY = [(name, -direction) for name, direction in BY_KEY]
"""From the last key to the first, the oldest version first: the index backwards."""

_FIELDS = dict.fromkeys(("namespace", "kind", "name", "version"), True)


async def check_database(uri: str) -> list[str]:
    """What is wrong in a database, a sentence each. Raises StoreUnavailableError where there is no store."""
    client, database = DATABASE.connect(uri)
    with closing(client), translated():
        head = await _head(database)
        for _ in range(_LOOKS):
            before, tally = head, Tally(head["revision"], head["compacted"])
            counted = {"_id": {"$lte": head["revision"]}}
            async for each in collections_of(database).versions.find(counted, _FIELDS, sort=_BY_KEY):
                tally.add((each["namespace"], each["kind"], each["name"]), each["version"], each["_id"])
            head = await _head(database)
            if head["compacted"] == before["compacted"]:
                return tally.problems()
    raise StoreUnavailableError(
        "the registry is removing old versions: check again when it is done", store="mongodb"
    )


async def _head(database: Any) -> dict[str, Any]:
    head: dict[str, Any] | None = await collections_of(database).head.find_one()
    if head is None or head["version"] != SCHEMA_VERSION:
        what = f"has version {head['version']}" if head else "holds no store of a registry"
        raise StoreUnavailableError(
            f"the database {database.name} {what}, and this Retinue checks version {SCHEMA_VERSION}",
            store="mongodb",
        )
    return head
