"""Changes that come by API: each is planned against the catalog, stored, and remembered by its request_id."""

import asyncio
import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from retinue.errors import ComponentInvalidError, ComponentOwnedByFileError, Violation
from retinue_registry.catalog import Catalog
from retinue_registry.changes.checks import (
    check_circles,
    check_etag,
    check_etags,
    check_proposal,
    in_full,
)
from retinue_registry.changes.first_answers import Answer, Asked
from retinue_registry.changes.history import History
from retinue_registry.changes.plan import Outcome, Step, plan_change
from retinue_registry.changes.proposal import Proposal
from retinue_registry.changes.removing import Fallback, Removal, check_unused, plan_removal, prunable
from retinue_registry.circles import where_from
from retinue_registry.committer import Committer, now_us
from retinue_registry.component import ApiSource, Codec, Draft, FileSource, Key, Version
from retinue_registry.kinds import KINDS
from retinue_registry.stores.store import Store
from retinue_registry.validation import check_spec, field_text

_TAKE_OVER = "take it over: `retinue rollback --take-over`"


@dataclasses.dataclass(frozen=True, slots=True)
class Prune:
    """That what came by API and is not in a set is to go."""

    labels: Mapping[str, str]
    """Only what has all of these."""
    force: bool
    """Also what others need."""


class Changing:
    """What callers of the API change."""

    def __init__(
        self,
        store: Store,
        codec: Codec,
        catalog: Catalog,
        committer: Committer,
        history: History,
        fallback: Fallback,
    ) -> None:
        self._store = store
        self._codec = codec
        self._catalog = catalog
        self._committer = committer
        self._history = history
        self._fallback = fallback

    async def apply(
        self, proposal: Proposal, asked: Asked, *, prune: Prune | None = None, dry_run: bool = False
    ) -> Answer:
        """Store a set, all or none. A request_id that was used is answered as the first time.

        With `dry_run` nothing is stored, and the answer tells what would be. Raises ComponentInvalidError,
        ReferenceNotFoundError, EtagMismatchError, ComponentInUseError, RequestIdReusedError,
        StoreUnavailableError.
        """

        async def work() -> Answer:
            if not dry_run and (known := await asked.first_answer(self._store)):
                return known
            meant = in_full(self._catalog, proposal)
            drafts = meant.drafts
            check_proposal(self._catalog, meant)
            check_etags(self._catalog, drafts)
            versions = prunable(self._catalog, asked.namespace, prune.labels, drafts) if prune else ()
            removal = await self._removal(versions, drafts)
            return await self._change(
                drafts, removal, asked, force=prune is not None and prune.force, dry_run=dry_run
            )

        return await self._committer.run_next(work)

    async def delete(self, key: Key, asked: Asked, *, etag: str = "", force: bool = False) -> Answer:
        """Delete a component that came by API.

        Raises ComponentNotFoundError, ComponentOwnedByFileError, ComponentInUseError, EtagMismatchError,
        RequestIdReusedError, StoreUnavailableError; ComponentInvalidError where what a file gives in its
        place would close a circle.
        """

        async def work() -> Answer:
            if known := await asked.first_answer(self._store):
                return known
            version = await self._history.get(key)
            check_etag(self._catalog, key, etag)
            if isinstance(version.source, FileSource):
                raise _owned(key, version.source, "remove it there")
            removal = await self._removal([version])
            return await self._change([], removal, asked, force=force)

        return await self._committer.run_next(work)

    async def roll_back(
        self, key: Key, version: int, asked: Asked, *, etag: str = "", take_over: bool = False
    ) -> Answer:
        """Store what an earlier version held as the newest one, which comes by API.

        With `take_over` also a component that a file owns. Raises what `apply` does, ComponentNotFoundError,
        InvalidArgumentError for a version that is an end, and ComponentOwnedByFileError.
        """

        async def work() -> Answer:
            if known := await asked.first_answer(self._store):
                return known
            draft = self._draft(await self._history.what_was(key, version))
            current = self._catalog.get(key)
            check_etag(self._catalog, key, etag)
            changes = current is None or self._differs(current, draft)
            if current and isinstance(current.source, FileSource) and changes and not take_over:
                raise _owned(key, current.source, f"change it there, or {_TAKE_OVER}")
            check_proposal(self._catalog, Proposal([draft]))
            return await self._change([draft], Removal((), (), ()), asked, move=take_over)

        return await self._committer.run_next(work)

    async def _removal(self, versions: Iterable[Version], drafts: Sequence[Draft] = ()) -> Removal:
        # In a thread: it looks at all components. Nobody else writes until this has ended.
        return await asyncio.to_thread(plan_removal, self._catalog, versions, self._fallback, drafts)

    async def _change(
        self,
        drafts: Sequence[Draft],
        removal: Removal,
        asked: Asked,
        *,
        force: bool = False,
        dry_run: bool = False,
        move: bool = False,
    ) -> Answer:
        if not force:
            check_unused(self._catalog, removal, drafts)
        all_drafts = [*drafts, *removal.replacements]
        check_circles(self._catalog, all_drafts, removal.gone)
        now = now_us()
        plan = plan_change(self._catalog, self._codec, all_drafts, removal.gone, time_us=now, move=move)
        deleted = [Step(version, Outcome.DELETED) for version in removal.versions]
        answer = Answer(
            [*plan.steps[: len(drafts)], *deleted],
            self._catalog.revision if dry_run else plan.revision,
            [step.version for step in plan.steps[len(drafts) :]],
            removal.lacks,
        )
        if not dry_run:
            await self._committer.store_plan(plan, asked.record(answer, now))
        return answer

    def _draft(self, version: Version) -> Draft:
        """What a version held, by the rules of today. Raises ComponentInvalidError."""
        key = version.key
        field = f"{KINDS[key.kind].plural}.{key.name}"
        spec, broken = check_spec(key.kind, self._codec.decode(key.kind, version.spec))
        broken += spec.without_folder() if spec else ()
        if spec is None or broken:
            violations = [Violation(f"{field}.{field_text(each.place)}", each.message) for each in broken]
            first = violations[0]
            raise ComponentInvalidError(
                f"version {version.version} of {key} breaks a rule that is newer: "
                f"{first.field}: {first.description}; apply it with that put right",
                violations=violations,
                kind=key.kind,
                name=key.name,
            )
        return Draft(key, version.labels, spec, ApiSource(), field)

    def _differs(self, current: Version, draft: Draft) -> bool:
        spec = self._codec.encode(draft.key.kind, draft.spec.model_dump(exclude_none=True))
        return current.spec != spec or current.labels != draft.labels


def _owned(key: Key, source: FileSource, way_out: str) -> ComponentOwnedByFileError:
    return ComponentOwnedByFileError(
        f"{key} stands in {where_from(source)}: {way_out}",
        kind=key.kind,
        name=key.name,
        path=source.path,
        line=source.line,
    )
