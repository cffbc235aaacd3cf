"""The MongoDB store's collections and indexes."""

from dataclasses import dataclass
from typing import Any

from pymongo import ASCENDING, DESCENDING, IndexModel

SCHEMA_VERSION = 1
"""Of the documents, as the head holds it."""

BY_KEY = [
    ("namespace", ASCENDING),
    ("kind", ASCENDING),
    ("name", ASCENDING),
    ("version", DESCENDING),
]
"""The versions of each component, the newest first."""

_INDEXES = {
    "component_versions": [
        IndexModel(BY_KEY, name="version", unique=True),
        IndexModel([("namespace", ASCENDING), ("_id", ASCENDING)], name="namespace"),
    ],
    "component_requests": [
        IndexModel([("namespace", ASCENDING), ("request_id", ASCENDING)], name="request", unique=True),
        IndexModel([("time_us", ASCENDING)], name="time"),
    ],
}


@dataclass(frozen=True, slots=True)
class Collections:
    """The collections of one database; motor has no types of its own."""

    head: Any
    """One document: who owns the database, and how far each of the others counts."""
    versions: Any
    """A version each; its `_id` is its revision."""
    requests: Any
    """A request each; its `_id` counts them."""
    moves: Any
    """New sources of some versions each, on their way into these; its `_id` counts them."""


def collections_of(database: Any) -> Collections:
    """The collections, as they are."""
    return Collections(
        head=database["registry"],
        versions=database["component_versions"],
        requests=database["component_requests"],
        moves=database["component_moves"],
    )


async def make_indexes(database: Any) -> None:
    """Make the indexes that are missing. Raises the driver's own errors."""
    for name, indexes in _INDEXES.items():
        await database[name].create_indexes(indexes)
