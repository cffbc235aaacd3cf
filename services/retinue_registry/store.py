"""What the registry needs of a database. One contract suite holds every store to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

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


class Store(Protocol):
    """Keeps every version of every component. Failures come out as StoreUnavailableError.

    Methods may be called side by side, except for `write`, which has one caller at a time.
    """

    async def revision(self) -> int:
        """The store's revision; 0 where nothing was ever written."""

    async def current(self) -> list[Version]:
        """The newest version of every key, the ends of deleted ones included."""

    async def version(self, key: Key, version: int) -> Version | None:
        """One version; None where there is none, or it is an end."""

    async def at(self, revisions: Sequence[int]) -> list[Version]:
        """The versions with these revisions, in that order."""

    async def changes(self, namespace: str, after: int, through: int, limit: int) -> list[Change]:
        """The first changes of a namespace after one revision and up to another, in order.

        At most `limit` of them and about BATCH_BYTES, at least one where there is any.
        """

    async def request(self, namespace: str, request_id: str) -> RequestRecord | None:
        """What is known of a request_id."""

    async def write(self, write: Write) -> None:
        """Store all of it, durably. Raises StoreUnavailableError where somebody else wrote in between."""
