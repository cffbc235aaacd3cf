"""MongoDB as the services' stores use it: how it is connected to, and the driver's errors as Retinue's."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from motor.motor_asyncio import AsyncIOMotorClient
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ConfigurationError,
    DocumentTooLarge,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WriteConcernError,
    WTimeoutError,
)

from retinue.errors import PayloadTooLargeError, RetinueError, StoreUnavailableError

DUPLICATE_KEY = 11000
"""https://www.mongodb.com/docs/manual/reference/error-codes/"""

_REFUSED = frozenset({13, 18, 8000})
"""Unauthorized, AuthenticationFailed, AtlasError."""

_MAX_CAUSE = 300
"""Most characters of the driver's own words: they may hold whole documents."""

_TIMEOUTS = {"serverSelectionTimeoutMS": 5_000, "connectTimeoutMS": 5_000, "socketTimeoutMS": 20_000}
"""Bounds that an address may change."""

_DURABLE: dict[str, Any] = {
    "w": "majority",
    "journal": True,
    "wTimeoutMS": 10_000,
    "readPreference": "primary",
}
"""What no address may change: an answer is given for what survives the loss of a machine."""

# The first that fits; the nearer class stands above.
_ADVICE: tuple[tuple[type[PyMongoError], str], ...] = (
    (ServerSelectionTimeoutError, "MongoDB cannot be reached: see that it runs and that {} has its address"),
    (AutoReconnect, "the connection to MongoDB broke: what was asked for may be done or not"),
    (WTimeoutError, "a majority of MongoDB's members did not confirm a write in time: see that they run"),
    (WriteConcernError, "MongoDB did not confirm a write: see that a majority of its members runs"),
    (OperationFailure, "MongoDB did not do what it was asked for"),
    (PyMongoError, "MongoDB cannot be used"),
)


class DuplicateDocumentError(Exception):
    """A unique key is there already. Never leaves the store."""


@dataclass(frozen=True)
class MongoDb:
    """The database of one service."""

    variable: str
    """The setting that holds its address."""
    database: str
    """A name that it could have."""

    def connect(self, uri: str) -> tuple[Any, Any]:
        """A client and its database; nothing is asked yet. Raises ValueError for an address of no use."""
        given = uri.lower()
        bounds: dict[str, Any] = {
            name: value for name, value in _TIMEOUTS.items() if f"{name.lower()}=" not in given
        }
        try:
            client: Any = AsyncIOMotorClient(uri, **bounds, **_DURABLE)
        except (PyMongoError, ValueError) as error:
            raise ValueError(f"the MongoDB address in {self.variable} cannot be used: {error}") from error
        try:
            return client, client.get_default_database()
        except ConfigurationError:
            client.close()
            raise ValueError(
                f"the MongoDB address in {self.variable} names no database: put one behind the host, as in "
                f"mongodb://localhost:27017/{self.database}"
            ) from None

    def to_retinue(self, error: PyMongoError) -> RetinueError:
        """The error to raise for one of the driver's."""
        cause = _cause(error)
        if isinstance(error, DocumentTooLarge):
            return PayloadTooLargeError(f"MongoDB takes no document of this size: {cause}")
        if isinstance(error, OperationFailure) and error.code in _REFUSED:
            return self._refused(cause)
        advice = next(advice for kind, advice in _ADVICE if isinstance(error, kind))
        return StoreUnavailableError(f"{advice.format(self.variable)} ({cause})", store="mongodb")

    def write_error(self, details: Mapping[str, Any]) -> Exception:
        """The error for one write of many, from its entry in `writeErrors`."""
        cause = str(details.get("errmsg", ""))[:_MAX_CAUSE]
        if details.get("code") == DUPLICATE_KEY:
            return DuplicateDocumentError(cause)
        if details.get("code") in _REFUSED:
            return self._refused(cause)
        return StoreUnavailableError(f"MongoDB refused a write ({cause})", store="mongodb")

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Raise Retinue's errors where the driver raises its own."""
        try:
            yield
        except PyMongoError as error:
            raise self.to_retinue(error) from error

    def _refused(self, cause: str) -> RetinueError:
        return StoreUnavailableError(
            f"MongoDB refuses this user: see that name, password and authSource in {self.variable} are "
            f"right, and that the user may read and write the database ({cause})",
            store="mongodb",
        )


def is_duplicate(error: PyMongoError) -> bool:
    """Whether some of many documents were refused only because others have their keys."""
    if not isinstance(error, BulkWriteError):
        return False
    refused = error.details["writeErrors"]
    return bool(refused) and all(each["code"] == DUPLICATE_KEY for each in refused)


def _cause(error: PyMongoError) -> str:
    details = error.details if isinstance(error, OperationFailure) else None
    said = (details or {}).get("errmsg")
    if isinstance(error, BulkWriteError):
        first = [*error.details["writeErrors"], *error.details["writeConcernErrors"]][:1]
        said = first[0].get("errmsg") if first else said
    return str(said or error)[:_MAX_CAUSE]
