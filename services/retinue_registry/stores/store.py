"""What the registry needs of a database. One contract suite holds every store to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from retinue.errors import RevisionCompactedError
from retinue_registry.component import Change, Key, Version


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """A change that was asked for with a request_id, and the answer that it got."""

    namespace: str
    request_id: str
    digest: bytes
    """Of the request, so that another one with the same id is known."""
    outcomes: Sequence[tuple[int, str]]
    """For each component the revision of its version, and what became of it."""
    revision: int
    """The registry's after the change."""
    time_us: int


@dataclass(frozen=True, slots=True)
class Write:
    """What is written at once, all or none."""

    after_revision: int
    """The store's revision that the write was made for."""
    revision: int
    """The store's revision after it: that of the last version, or the same as before."""
    versions: Sequence[Version] = ()
    """New ones, in the order of their revisions."""
    moved: Sequence[Version] = ()
    """Known ones whose source is another now; only that is written."""
    request: RequestRecord | None = None


def compacted(after: int, oldest: int) -> RevisionCompactedError:
    """The error for changes after a revision that are not kept; `oldest` is the first to go on from."""
    return RevisionCompactedError(
        f"the changes after revision {after} are not kept any more, only those after {oldest}: list again, "
        "and watch from the list's revision",
        after_revision=after,
        oldest_revision=oldest,
    )


def removed(revision: int, oldest: int) -> RevisionCompactedError:
    """The error for a version that is not kept."""
    return RevisionCompactedError(
        f"the version of revision {revision} is not kept any more, nor are others up to revision {oldest}: "
        "get the components as they are now",
        after_revision=revision - 1,
        oldest_revision=oldest,
    )


class Store(Protocol):
    """Keeps the versions of every component. Failures come out as StoreUnavailableError.

    Methods may be called side by side, except for those that write: they have one caller at a time.
    """

    async def revision(self) -> int:
        """The store's revision; 0 where nothing was ever written.

        After a write that failed it tells whether the write was stored all the same, and settles that.
        """

    async def compacted_revision(self) -> int:
        """The highest revision that was ever removed; 0: none. Changes after it are all kept."""

    async def current(self) -> list[Version]:
        """The newest version of every key, the ends of deleted ones included."""

    async def version(self, key: Key, version: int) -> Version | None:
        """One version; None where there is none, or it is an end."""

    async def versions(self, key: Key, below: int, limit: int) -> list[Version]:
        """The versions of a key that are kept, the newest first, the ends included.

        Only those below a number; 0: from the newest.
        """

    async def at(self, revisions: Sequence[int]) -> list[Version]:
        """The versions with these revisions, in that order. Raises RevisionCompactedError for one removed."""

    async def changes(self, namespace: str, after: int, through: int, limit: int) -> list[Change]:
        """The first changes of a namespace after one revision and up to another, in order.

        At most `limit` of them and about BATCH_BYTES, at least one where there is any. Raises
        RevisionCompactedError where changes after the first revision were removed.
        """

    async def request(self, namespace: str, request_id: str) -> RequestRecord | None:
        """What is known of a request_id."""

    async def write(self, write: Write) -> None:
        """Store all of it, durably. Raises StoreUnavailableError where somebody else wrote in between.

        Where the database is lost meanwhile, that error leaves open whether it is stored; `revision` tells.
        """

    async def remove_versions(self, key: Key, below: int, limit: int) -> int:
        """Remove the versions of a key below a number, at most so many, the oldest first; return how many."""

    async def remove_requests(self, before_us: int, limit: int) -> int:
        """Remove what is known of requests before a time, at most so many; return how many."""
