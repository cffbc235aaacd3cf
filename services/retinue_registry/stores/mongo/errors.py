"""What the MongoDB driver raises, as Retinue's errors: the one table."""

from collections.abc import Iterator
from contextlib import contextmanager

from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
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

# The first that fits; the nearer class stands above.
_ADVICE: tuple[tuple[type[PyMongoError], str], ...] = (
    (
        ServerSelectionTimeoutError,
        "MongoDB cannot be reached: see that it runs and that RETINUE_REGISTRY_STORE has its address",
    ),
    (AutoReconnect, "the connection to MongoDB broke: what was asked for may be done or not"),
    (WTimeoutError, "a majority of MongoDB's members did not confirm a write in time: see that they run"),
    (WriteConcernError, "MongoDB did not confirm a write: see that a majority of its members runs"),
    (OperationFailure, "MongoDB did not do what it was asked for"),
    (PyMongoError, "MongoDB cannot be used"),
)


def to_retinue(error: PyMongoError) -> RetinueError:
    """The error to raise for one of the driver's."""
    cause = _cause(error)
    if isinstance(error, DocumentTooLarge):
        return PayloadTooLargeError(f"MongoDB takes no component of this size: {cause}")
    if isinstance(error, OperationFailure) and error.code in _REFUSED:
        return StoreUnavailableError(
            "MongoDB refuses this user: see that name, password and authSource in RETINUE_REGISTRY_STORE are "
            f"right, and that the user may read and write the database ({cause})",
            store="mongodb",
        )
    advice = next(advice for kind, advice in _ADVICE if isinstance(error, kind))
    return StoreUnavailableError(f"{advice} ({cause})", store="mongodb")


def is_duplicate(error: PyMongoError) -> bool:
    """Whether some of many documents were refused only because others have their keys."""
    if not isinstance(error, BulkWriteError):
        return False
    refused = error.details["writeErrors"]
    return bool(refused) and all(each["code"] == DUPLICATE_KEY for each in refused)


@contextmanager
def translated() -> Iterator[None]:
    """Raise Retinue's errors where the driver raises its own."""
    try:
        yield
    except PyMongoError as error:
        raise to_retinue(error) from error


def _cause(error: PyMongoError) -> str:
    details = error.details if isinstance(error, OperationFailure) else None
    said = (details or {}).get("errmsg")
    if isinstance(error, BulkWriteError):
        first = [*error.details["writeErrors"], *error.details["writeConcernErrors"]][:1]
        said = first[0].get("errmsg") if first else said
    return str(said or error)[:_MAX_CAUSE]
