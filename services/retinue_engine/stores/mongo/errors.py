"""What the MongoDB driver raises, as Retinue's errors: the one table."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pymongo.errors import (
    AutoReconnect,
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
        "MongoDB cannot be reached: see that it runs and that RETINUE_STORE has its address",
    ),
    (AutoReconnect, "the connection to MongoDB broke: what was asked for may be done or not"),
    (WTimeoutError, "a majority of MongoDB's members did not confirm a write in time: see that they run"),
    (WriteConcernError, "MongoDB did not confirm a write: see that a majority of its members runs"),
    (OperationFailure, "MongoDB did not do what it was asked for"),
    (PyMongoError, "MongoDB cannot be used"),
)


class DuplicateDocumentError(Exception):
    """A unique key is there already. Never leaves the store."""


def to_retinue(error: PyMongoError) -> RetinueError:
    """The error to raise for one of the driver's."""
    cause = _cause(error)
    if isinstance(error, DocumentTooLarge):
        return PayloadTooLargeError(f"MongoDB takes no document of this size: {cause}")
    if isinstance(error, OperationFailure) and error.code in _REFUSED:
        return _refused(cause)
    advice = next(advice for kind, advice in _ADVICE if isinstance(error, kind))
    return StoreUnavailableError(f"{advice} ({cause})", store="mongodb")


def write_error(details: Mapping[str, Any]) -> Exception:
    """The error for one write of many, from its entry in `writeErrors`."""
    cause = str(details.get("errmsg", ""))[:_MAX_CAUSE]
    if details.get("code") == DUPLICATE_KEY:
        return DuplicateDocumentError(cause)
    if details.get("code") in _REFUSED:
        return _refused(cause)
    return StoreUnavailableError(f"MongoDB refused a write ({cause})", store="mongodb")


@contextmanager
def translated() -> Iterator[None]:
    """Raise Retinue's errors where the driver raises its own."""
    try:
        yield
    except PyMongoError as error:
        raise to_retinue(error) from error


def _refused(cause: str) -> RetinueError:
    return StoreUnavailableError(
        f"MongoDB refuses this user: see that name, password and authSource in RETINUE_STORE are right, and "
        f"that the user may read and write the database ({cause})",
        store="mongodb",
    )


def _cause(error: PyMongoError) -> str:
    details = error.details if isinstance(error, OperationFailure) else None
    return str((details or {}).get("errmsg") or error)[:_MAX_CAUSE]
