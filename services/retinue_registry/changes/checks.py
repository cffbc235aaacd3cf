"""What must hold for a change by API: rules, references, no circles, each component once, etags."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache, partial
from itertools import pairwise
from typing import Any

from retinue.errors import ComponentInvalidError, EtagMismatchError, ReferenceNotFoundError, Violation
from retinue_registry.catalog import Catalog
from retinue_registry.changes.proposal import Proposal
from retinue_registry.circles import (
    draft_needs,
    draft_step,
    explain_circle,
    find_circles,
    needs_of,
    where_from,
)
from retinue_registry.component import Draft, Key
from retinue_registry.inference import infer, is_short
from retinue_registry.mismatches import mismatches
from retinue_registry.references import dangling, explain
from retinue_registry.validation import field_text


def in_full(catalog: Catalog, proposal: Proposal) -> Proposal:
    """The set without short forms; a name that is none or several things is wrong in it."""
    given = {*(draft.key for draft in proposal.drafts), *proposal.declared}

    def names(namespace: str, kind: str) -> list[str]:
        return [*catalog.names(namespace, kind), *(key.name for key in given if key[:2] == (namespace, kind))]

    drafts: list[Draft] = []
    violations = [*proposal.violations]
    facts, declared = proposal.facts, {*proposal.declared}
    for draft in proposal.drafts:
        if not is_short(draft):
            drafts.append(draft)
            continue
        known, broken = infer(
            draft, lambda key: key in given or key in catalog, partial(names, draft.key.namespace)
        )
        violations += [Violation(f"{draft.field}.{field_text(each.place)}", each.message) for each in broken]
        if known:
            drafts.append(known)
        else:
            declared.add(draft.key)
            facts = facts or {"kind": draft.key.kind, "name": draft.key.name}
    return proposal._replace(drafts=drafts, violations=violations, facts=facts, declared=declared)


def check_proposal(catalog: Catalog, proposal: Proposal) -> None:
    """Raise ComponentInvalidError or ReferenceNotFoundError with everything that is wrong with a set.

    Circles count here only where something else is wrong: what is deleted or replaced along with the set may
    open others, or close them.
    """
    drafts = proposal.drafts
    own = [*proposal.violations, *_twice(drafts), *_mismatches(catalog, drafts)]
    lost, facts = _dangling(catalog, proposal)
    if own:
        violations = [*own, *lost, *_circles(catalog, drafts)]
        raise ComponentInvalidError(_message(violations), violations=violations, **proposal.facts)
    if lost:
        violations = [*lost, *_circles(catalog, drafts)]
        raise ReferenceNotFoundError(_message(violations), violations=violations, **facts)


def check_circles(catalog: Catalog, drafts: Sequence[Draft], gone: Collection[Key] = ()) -> None:
    """Raise ComponentInvalidError with the circles that the drafts would close, where `gone` is not any more.

    The catalog has none.
    """
    if violations := _circles(catalog, drafts, gone):
        raise ComponentInvalidError(_message(violations), violations=violations)


def _message(violations: Sequence[Violation]) -> str:
    first = violations[0]
    more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
    return f"{first.field or 'the request'}: {first.description}{more}"


def _twice(drafts: Sequence[Draft]) -> Iterable[Violation]:
    first: dict[Key, Draft] = {}
    for draft in drafts:
        if first.setdefault(draft.key, draft) is not draft:
            key = draft.key
            there = first[key].field
            yield Violation(draft.field, f"the {key.kind} {key.name!r} stands in {there} already")


def _mismatches(catalog: Catalog, drafts: Sequence[Draft]) -> Iterable[Violation]:
    """What workflows of the set name that a schema, of the set or in the catalog, does not declare."""
    given = {draft.key: draft.spec for draft in drafts}

    @cache
    def spec_of(key: Key) -> Mapping[str, Any] | None:
        return given[key].model_dump(exclude_none=True) if key in given else catalog.spec(key)

    for draft in drafts:
        for place, message in mismatches(draft, spec_of):
            yield Violation(f"{draft.field}.{field_text(place)}", message)


def _dangling(catalog: Catalog, proposal: Proposal) -> tuple[list[Violation], dict[str, Any]]:
    """The references that neither the catalog nor the set can serve, and facts about the first of a draft."""
    given = {*(draft.key for draft in proposal.drafts), *proposal.declared}

    def exists(key: Key) -> bool:
        return key in given or key in catalog

    def violation(field: str, missing: Key) -> Violation:
        names = [
            *catalog.names(missing.namespace, missing.kind),
            *(key.name for key in given if key.kind == missing.kind),
        ]
        return Violation(field, explain(missing, names))

    violations = [violation(field, needed) for field, needed in proposal.needs if not exists(needed)]
    facts: dict[str, Any] = {}
    for draft, place, missing in dangling(proposal.drafts, exists):
        violations.append(violation(f"{draft.field}.{field_text(place)}", missing))
        facts = facts or {"kind": draft.key.kind, "name": draft.key.name, "missing": str(missing)}
    return violations, facts


def _circles(catalog: Catalog, drafts: Sequence[Draft], gone: Collection[Key] = ()) -> list[Violation]:
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
    return [each for of_one in found.values() for each in of_one]


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
