"""Works out what a change would store, without storing it."""

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Any

from retinue.errors import ComponentInvalidError, EtagMismatchError, ReferenceNotFoundError, Violation
from retinue_registry.catalog import Catalog
from retinue_registry.circles import (
    draft_needs,
    draft_step,
    explain_circle,
    find_circles,
    needs_of,
    where_from,
)
from retinue_registry.component import Change, Codec, Draft, Key, Version
from retinue_registry.references import dangling, explain
from retinue_registry.validation import field_text


class Outcome(StrEnum):
    """What becomes of one component."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"


@dataclass(slots=True)
class Plan:
    """What a change stores."""

    revision: int
    """The registry's after the change."""
    changes: list[Change] = field(default_factory=list)
    moved: list[Version] = field(default_factory=list)
    """Unchanged components whose source is another now."""
    outcomes: list[tuple[Version, Outcome]] = field(default_factory=list)
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

    `move` gives an unchanged component the draft's source: for files, in which things move about.
    """
    plan = Plan(catalog.revision)
    for draft in drafts:
        spec = codec.encode(draft.key.kind, draft.spec.model_dump(exclude_none=True))
        before = catalog.get(draft.key)
        if before and before.spec == spec and before.labels == draft.labels:
            if move and before.source != draft.source:
                before = dataclasses.replace(before, source=draft.source)
                plan.moved.append(before)
            plan.outcomes.append((before, Outcome.UNCHANGED))
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
        plan.outcomes.append((version, Outcome.UPDATED if before else Outcome.CREATED))
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


def check_references(catalog: Catalog, drafts: Sequence[Draft]) -> None:
    """Raise ReferenceNotFoundError with every reference that neither the catalog nor the drafts can serve."""
    given = {draft.key for draft in drafts}
    violations: list[Violation] = []
    facts: dict[str, Any] = {}
    for draft, place, missing in dangling(drafts, lambda key: key in given or key in catalog):
        names = [
            *catalog.names(missing.namespace, missing.kind),
            *(key.name for key in given if key.kind == missing.kind),
        ]
        violations.append(Violation(f"{draft.field}.{field_text(place)}", explain(missing, names)))
        facts = facts or {"kind": draft.key.kind, "name": draft.key.name, "missing": str(missing)}
    if violations:
        first = violations[0]
        raise ReferenceNotFoundError(f"{first.field}: {first.description}", violations=violations, **facts)


def check_circles(catalog: Catalog, drafts: Sequence[Draft]) -> None:
    """Raise ComponentInvalidError with the circles that the drafts would close. The catalog has none."""
    given = {draft.key: draft for draft in drafts}

    def needs(key: Key) -> Iterable[Key]:
        if draft := given.get(key):
            return draft_needs(draft)
        version = catalog.get(key)
        return needs_of(key, catalog.references(version)) if version else ()

    def where(key: Key) -> str:
        version = catalog.get(key)
        return given[key].field if key in given else where_from(version.source) if version else ""

    found: dict[Key, list[Violation]] = {key: [] for key in given}
    for circle in find_circles(given, needs):
        for holder, needed in pairwise(circle):
            if draft := given.get(holder):
                field = f"{draft.field}.{field_text(draft_step(draft, needed))}"
                found[holder].append(Violation(field, explain_circle(circle, holder, where)))
    violations = [each for of_one in found.values() for each in of_one]
    if violations:
        first = violations[0]
        raise ComponentInvalidError(f"{first.field}: {first.description}", violations=violations)


def check_etags(catalog: Catalog, drafts: Sequence[Draft]) -> None:
    """Raise EtagMismatchError where a draft was made from another version than the current one."""
    for draft in drafts:
        current = catalog.get(draft.key)
        if draft.etag and draft.etag != (current.etag if current else None):
            key = draft.key
            now = f"is at version {current.version}" if current else "does not exist"
            raise EtagMismatchError(
                f"{draft.field}: the {key.kind} {key.name!r} has changed since it was read: it {now} now; "
                "get it again, and apply your change to that",
                kind=key.kind,
                name=key.name,
                etag=current.etag if current else "",
            )


def check_unique(drafts: Sequence[Draft]) -> None:
    """Raise ComponentInvalidError where a set names a component twice."""
    first: dict[Key, Draft] = {}
    violations = []
    for draft in drafts:
        if first.setdefault(draft.key, draft) is not draft:
            key = draft.key
            there = first[key].field
            violations.append(
                Violation(draft.field, f"the {key.kind} {key.name!r} stands in {there} already")
            )
    if violations:
        raise ComponentInvalidError(violations[0].description, violations=violations)
