"""What becomes of others when components go: what a file gives in their place, and who lacks them then."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from retinue.errors import ComponentInUseError, Violation
from retinue_registry.catalog import Catalog
from retinue_registry.circles import where_from
from retinue_registry.component import ApiSource, Draft, Key, Version
from retinue_registry.kinds import KINDS, ORDER
from retinue_registry.references import dangling
from retinue_registry.validation import field_text

Fallback = Callable[[Key], Draft | None]
"""What a file gives under a key that the API owns."""


class Lack(NamedTuple):
    """A component that needs one which is not there."""

    holder: Key
    field: str
    """Of its spec, that names the other: `mcp_servers[1]`."""
    missing: Key


@dataclass(frozen=True, slots=True)
class Removal:
    """Components that are to go, and what comes of it."""

    versions: Sequence[Version]
    """As they are, in the order of kind and name."""
    replacements: Sequence[Draft]
    """What files give in their place."""
    lacks: Sequence[Lack]

    @property
    def gone(self) -> list[Key]:
        """Those that nothing replaces."""
        replaced = {draft.key for draft in self.replacements}
        return [version.key for version in self.versions if version.key not in replaced]


def plan_removal(
    catalog: Catalog, versions: Iterable[Version], fallback: Fallback, drafts: Sequence[Draft] = ()
) -> Removal:
    """What removing these versions does beside storing `drafts`."""
    versions = sorted(versions, key=lambda version: (version.key.namespace, _order(version.key)))
    replacements = [draft for version in versions if (draft := fallback(version.key))]
    removal = Removal(versions, replacements, ())
    gone = set(removal.gone)
    given = {draft.key: draft for draft in (*drafts, *replacements)}
    lacks = [*_of_drafts(catalog, given, gone), *_of_others(catalog, given, gone)] if versions else []
    return Removal(versions, replacements, sorted(lacks, key=lambda lack: (_order(lack.holder), lack.field)))


def _order(key: Key) -> tuple[int, str]:
    return ORDER[key.kind], key.name


def _of_drafts(catalog: Catalog, given: Mapping[Key, Draft], gone: set[Key]) -> Iterator[Lack]:
    for draft, place, missing in dangling(
        given.values(), lambda key: key in given or (key in catalog and key not in gone)
    ):
        yield Lack(draft.key, field_text(place), missing)


def _of_others(catalog: Catalog, given: Mapping[Key, Draft], gone: set[Key]) -> Iterator[Lack]:
    wanted = {key.kind for key in gone}
    holders = {kind.name for kind in KINDS.values() if wanted & kind.needs}
    for version in catalog:
        key = version.key
        if key.kind not in holders or key in gone or key in given:
            continue
        for place, kind, name in catalog.references(version):
            missing = Key(key.namespace, kind, name)
            if missing in gone:
                yield Lack(key, field_text(place), missing)


def prunable(
    catalog: Catalog, namespace: str, labels: Mapping[str, str], drafts: Iterable[Draft]
) -> Iterator[Version]:
    """Yield what came by API, has all of these labels, and is not among the drafts."""
    given = {draft.key for draft in drafts}
    for version in catalog:
        if (
            version.key.namespace == namespace
            and isinstance(version.source, ApiSource)
            and version.key not in given
            and labels.items() <= version.labels.items()
        ):
            yield version


def check_unused(catalog: Catalog, removal: Removal, drafts: Sequence[Draft] = ()) -> None:
    """Raise ComponentInUseError with all that would lack something."""
    if not removal.lacks:
        return
    given = {draft.key: draft.field for draft in drafts}
    violations = []
    for holder, field, missing in removal.lacks:
        version = catalog.get(holder)
        where = "" if holder in given or version is None else f" ({where_from(version.source)})"
        stands = given.get(holder) or f"{KINDS[holder.kind].plural}.{holder.name}"
        violations.append(
            Violation(f"{stands}.{field}", f"{holder}{where} needs {missing}, which would be gone")
        )
    missing = removal.lacks[0].missing
    holders = list(dict.fromkeys(str(lack.holder) for lack in removal.lacks if lack.missing == missing))
    more = f" and {len(holders) - 1} more" if len(holders) > 1 else ""
    verb = "need" if more else "needs"
    raise ComponentInUseError(
        f"{missing} cannot be deleted: {holders[0]}{more} {verb} it; change that first, or delete it with "
        "force, which leaves that broken",
        violations=violations,
        kind=missing.kind,
        name=missing.name,
        needed_by=", ".join(holders[:_MOST_NAMED]),
    )


_MOST_NAMED = 20
