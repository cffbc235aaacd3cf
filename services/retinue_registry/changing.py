"""Changes that come by API: each is planned against the catalog, stored, and remembered by its request_id."""

from collections.abc import Sequence
from dataclasses import dataclass

from retinue.errors import RequestIdReusedError
from retinue_registry.catalog import Catalog
from retinue_registry.committer import Committer, now_us
from retinue_registry.component import Codec, Draft, Version
from retinue_registry.plan import (
    Outcome,
    check_circles,
    check_etags,
    check_references,
    check_unique,
    plan_change,
)
from retinue_registry.store import RequestRecord, Store


@dataclass(frozen=True, slots=True)
class Applied:
    """What an apply did."""

    outcomes: Sequence[tuple[Version, Outcome]]
    """For each draft, in their order."""
    revision: int


class Changing:
    """What callers of the API change."""

    def __init__(self, store: Store, codec: Codec, catalog: Catalog, committer: Committer) -> None:
        self._store = store
        self._codec = codec
        self._catalog = catalog
        self._committer = committer

    async def apply(
        self, drafts: Sequence[Draft], *, namespace: str, request_id: str = "", digest: bytes = b""
    ) -> Applied:
        """Store drafts, all or none. A request_id that was used is answered as the first time.

        Raises ComponentInvalidError, ReferenceNotFoundError, EtagMismatchError, RequestIdReusedError,
        StoreUnavailableError.
        """
        check_unique(drafts)

        async def work() -> Applied:
            if request_id and (known := await self._store.request(namespace, request_id)):
                return await self._answer_again(known, digest)
            check_etags(self._catalog, drafts)
            check_references(self._catalog, drafts)
            check_circles(self._catalog, drafts)
            now = now_us()
            plan = plan_change(self._catalog, self._codec, drafts, time_us=now)
            record = None
            if request_id:
                outcomes = [(version.revision, outcome.value) for version, outcome in plan.outcomes]
                record = RequestRecord(namespace, request_id, digest, outcomes, plan.revision, now)
            await self._committer.store_plan(plan, record)
            return Applied(plan.outcomes, plan.revision)

        return await self._committer.run_next(work)

    async def _answer_again(self, known: RequestRecord, digest: bytes) -> Applied:
        if known.digest != digest:
            raise RequestIdReusedError(
                f"the request_id {known.request_id!r} was used before with another request: take a new one",
                request_id=known.request_id,
            )
        versions = await self._store.at([revision for revision, _ in known.outcomes])
        outcomes = [
            (version, Outcome(what)) for version, (_, what) in zip(versions, known.outcomes, strict=True)
        ]
        return Applied(outcomes, known.revision)
