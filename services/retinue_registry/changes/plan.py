"""Works out what a change would store, without storing it."""

import dataclasses
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from retinue_registry.catalog import Catalog
from retinue_registry.component import Change, Codec, Draft, FileSource, Key, Version


class Outcome(StrEnum):
    """What becomes of one component."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class Step:
    """What a change does to one component."""

    version: Version
    """As it is stored then; as it was, where it is deleted."""
    outcome: Outcome
    before: Version | None = None
    """What an updated one was; None where that is not kept any more."""

    @property
    def version_is_new(self) -> bool:
        """Whether the change makes this version."""
        return self.outcome in {Outcome.CREATED, Outcome.UPDATED}


@dataclass(slots=True)
class Plan:
    """What a change stores."""

    revision: int
    """The registry's after the change."""
    changes: list[Change] = field(default_factory=list)
    moved: list[Version] = field(default_factory=list)
    """Unchanged components whose source is another now."""
    steps: list[Step] = field(default_factory=list)
    """For each draft, in their order."""

    @property
    def versions(self) -> list[Version]:
        """The versions to store, the ends included."""
        return [change.after for change in self.changes]


def _etag(key: Key, revision: int) -> str:
    return hashlib.blake2b(f"{key}:{revision}".encode(), digest_size=8).hexdigest()


def plan_change(
    catalog: Catalog,
    codec: Codec,
    drafts: Iterable[Draft],
    gone: Iterable[Key] = (),
    *,
    time_us: int,
    move: bool = False,
) -> Plan:
    """The plan that stores drafts and ends what is gone. An unchanged component keeps its version.

    With `move` it takes the draft's source all the same. A file's always does, as things move about in files.
    """
    plan = Plan(catalog.revision)
    for draft in drafts:
        spec = codec.encode(draft.key.kind, draft.spec.model_dump(exclude_none=True))
        before = catalog.get(draft.key)
        if before and before.spec == spec and before.labels == draft.labels:
            moves = move or isinstance(draft.source, FileSource)
            if moves and before.source != draft.source:
                before = dataclasses.replace(before, source=draft.source)
                plan.moved.append(before)
            plan.steps.append(Step(before, Outcome.UNCHANGED))
            continue
        plan.revision += 1
        last = catalog.last(draft.key)
        version = Version(
            key=draft.key,
            version=last.version + 1 if last else 1,
            revision=plan.revision,
            etag=_etag(draft.key, plan.revision),
            labels=dict(draft.labels),
            spec=spec,
            source=draft.source,
            create_time_us=last.create_time_us if last else time_us,
            update_time_us=time_us,
        )
        plan.changes.append(Change(plan.revision, version))
        plan.steps.append(Step(version, Outcome.UPDATED if before else Outcome.CREATED, before))
    for key in gone:
        if before := catalog.get(key):
            plan.revision += 1
            end = dataclasses.replace(
                before,
                version=before.version + 1,
                revision=plan.revision,
                etag=_etag(key, plan.revision),
                update_time_us=time_us,
                deleted=True,
            )
            plan.changes.append(Change(plan.revision, end, before))
    return plan
