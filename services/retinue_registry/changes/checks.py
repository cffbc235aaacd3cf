"""What must hold before a change by API is stored: etags, references, no circles, each component once."""

from collections.abc import Collection, Iterable, Sequence
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
from retinue_registry.component import Draft, Key
from retinue_registry.references import dangling, explain
from retinue_registry.validation import field_text


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


def check_circles(catalog: Catalog, drafts: Sequence[Draft], gone: Collection[Key] = ()) -> None:
    """Raise ComponentInvalidError with the circles that the drafts would close, where `gone` is not any more.

    The catalog has none.
    """
    given = {draft.key: draft for draft in drafts}

    def needs(key: Key) -> Iterable[Key]:
        if draft := given.get(key):
            return draft_needs(draft)
        version = None if key in gone else catalog.get(key)
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


def check_etag(catalog: Catalog, key: Key, etag: str, field: str = "") -> None:
    """Raise EtagMismatchError where somebody knows another version than the current one.

    `field` is where the component stands in the request, for the message.
    """
    current = catalog.get(key)
    if etag and etag != (current.etag if current else None):
        now = f"is at version {current.version}" if current else "does not exist"
        raise EtagMismatchError(
            f"{f'{field}: ' if field else ''}the {key.kind} {key.name!r} has changed since it was read: it "
            f"{now} now; get it again, and make your change to that",
            kind=key.kind,
            name=key.name,
            etag=current.etag if current else "",
        )


def check_etags(catalog: Catalog, drafts: Sequence[Draft]) -> None:
    """Raise EtagMismatchError where a draft was made from another version than the current one."""
    for draft in drafts:
        check_etag(catalog, draft.key, draft.etag, draft.field)


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
