"""Works out what files change: what they give, what they no longer give, what they keep."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from retinue_registry.catalog import Catalog
from retinue_registry.circles import (
    draft_needs,
    draft_step,
    explain_circle,
    find_circles,
    needs_of,
    where_from,
)
from retinue_registry.component import ApiSource, Draft, FileSource, Key, Layer, Problem
from retinue_registry.files.layers import Keeper, Layers, Rank
from retinue_registry.files.source_file import SourceFile
from retinue_registry.references import dangling, explain
from retinue_registry.validation import field_text

Origin = tuple[Layer, str, str]
"""A file: its layer, distribution and path."""
Given = Mapping[Origin, Sequence[Draft]]
"""What each file gave when it was right."""

_Place = tuple[Rank, bool]
"""Priority of what a file gives; of one project's files those that are right come first."""


@dataclass(frozen=True, slots=True)
class Import:
    """What files change."""

    drafts: list[Draft]
    """What is in effect of them."""
    gone: list[Key]
    """What no file gives any more."""
    candidates: Mapping[Key, Sequence[Draft]]
    """All that files give under a key, in the order of priority."""
    given: Given
    """By file, those included that keep what they gave."""
    problems: list[Problem]


def plan_import(catalog: Catalog, layers: Layers, before: Given) -> Import:
    """What files change. The layers are checked here; `before` is what was given at the last time.

    A file with a problem keeps the components that it last gave. So does every file that a project may
    still have, where its anchor cannot be read.
    """
    return _Importing(catalog, layers, before).plan()


class _Importing:
    """One import on its way."""

    def __init__(self, catalog: Catalog, layers: Layers, before: Given) -> None:
        self._catalog = catalog
        self._layers = layers
        self._before = before
        self._keeper: Keeper = layers.keeper()
        self._api = {version.key for version in catalog if isinstance(version.source, ApiSource)}
        self._declared: Mapping[Key, tuple[SourceFile, int]] = {}
        self._good: dict[Origin, tuple[Rank, SourceFile]] = {}

    def plan(self) -> Import:
        self._check()
        problems = self._layers.problems
        while True:
            candidates = self._candidates()
            kept = self._kept()
            there = {*candidates, *kept, *self._api}
            effective = [
                drafts[0][1]
                for key, drafts in candidates.items()
                if key not in self._api and not (key in kept and kept[key] < drafts[0][0])
            ]
            found = [problem for _, file in self._good.values() for problem in self._unserved(file, there)]
            found = found or list(self._circles(effective))
            if not found:
                break
            problems += found
            for problem in found:
                self._good.pop((problem.layer, problem.distribution, problem.path), None)
        return Import(
            drafts=effective,
            gone=[version.key for version in self._catalog if version.key not in there],
            candidates={key: [draft for _, draft in drafts] for key, drafts in candidates.items()},
            given=dict(self._given()),
            problems=sorted(problems),
        )

    def _check(self) -> None:
        """Find the files that are right by themselves; of those the ones that are right beside the others."""
        self._layers.open()
        self._declared = self._layers.declared
        self._find_good()
        kept = {*self._kept(), *(draft.key for _, _, drafts in self._remembered() for draft in drafts)}
        self._layers.check(self._api, kept)
        self._find_good()

    def _find_good(self) -> None:
        self._good = {
            (file.layer, file.distribution, file.path): (rank, file)
            for rank, file in self._layers.ranked
            if not file.problems
        }

    def _remembered(self) -> Iterator[tuple[Rank, Origin, Sequence[Draft]]]:
        """Yield what files gave that are not right now."""
        for origin, drafts in self._before.items():
            if origin not in self._good and (rank := self._keeper.rank(*origin)) is not None:
                yield rank, origin, drafts

    def _given(self) -> Iterator[tuple[Origin, Sequence[Draft]]]:
        for origin, (_, file) in self._good.items():
            yield origin, file.drafts
        for _, origin, drafts in self._remembered():
            yield origin, drafts

    def _candidates(self) -> dict[Key, list[tuple[_Place, Draft]]]:
        """All that files give, each key's in the order of priority."""
        found: dict[Key, list[tuple[_Place, Draft]]] = {}
        for rank, file in self._good.values():
            for draft in file.drafts:
                found.setdefault(draft.key, []).append(((rank, False), draft))
        for rank, _, drafts in self._remembered():
            for draft in drafts:
                found.setdefault(draft.key, []).append(((rank, True), draft))
        for each in found.values():
            if len(each) > 1:
                each.sort(key=lambda pair: pair[0])
        return found

    def _kept(self) -> dict[Key, _Place]:
        """What is stored of files that are not right now, and that were not seen since the start."""
        found: dict[Key, _Place] = {}
        ranks: dict[Origin, Rank | None] = {}
        for version in self._catalog:
            if not isinstance(source := version.source, FileSource):
                continue
            origin = (source.layer, source.distribution, source.path)
            if origin in self._good or origin in self._before:
                continue
            if origin not in ranks:
                ranks[origin] = self._keeper.rank(*origin)
            if (rank := ranks[origin]) is not None:
                found[version.key] = (rank, True)
        return found

    def _unserved(self, file: SourceFile, there: set[Key]) -> Iterator[Problem]:
        """Yield the references of a good file to what stands in bad ones."""
        for draft, place, missing in dangling(file.drafts, lambda key: key in there):
            other = self._declared.get(missing)
            message = explain(missing, ())
            if other:
                where = FileSource(other[0].path, 0, other[0].layer, other[0].distribution)
                message = f"the {missing.kind} {missing.name!r} stands in {where}, which has problems itself"
            yield _problem(file, draft, place, message)

    def _circles(self, effective: Iterable[Draft]) -> Iterator[Problem]:
        """Yield the steps of good files in circles, which may lead through the API's and what is kept."""
        given = {draft.key: draft for draft in effective}

        def needs(key: Key) -> Iterable[Key]:
            if key in given:
                return draft_needs(given[key])
            version = self._catalog.get(key)
            return needs_of(key, self._catalog.references(version)) if version else ()

        def where(key: Key) -> str:
            holder = given.get(key) or self._catalog.get(key)
            return where_from(holder.source) if holder else ""

        for circle in find_circles(given, needs):
            for holder, needed in pairwise(circle):
                if file := self._file_of(given.get(holder)):
                    draft = given[holder]
                    message = explain_circle(circle, holder, where)
                    yield _problem(file, draft, draft_step(draft, needed), message)

    def _file_of(self, draft: Draft | None) -> SourceFile | None:
        """The good file that a draft stands in."""
        source = draft.source if draft else None
        if not isinstance(source, FileSource):
            return None
        _, file = self._good.get((source.layer, source.distribution, source.path), (None, None))
        return file


def _problem(file: SourceFile, draft: Draft, place: tuple[str | int, ...], message: str) -> Problem:
    field = (*draft.field.split("."), *place)
    line = file.tree.line(field)
    return Problem(file.path, line, field_text(field), message, file.namespace, file.layer, file.distribution)
