"""Works out what a project's files change: what they give, what they no longer give, what they keep."""

from collections.abc import Iterable, Iterator
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
from retinue_registry.component import ApiSource, Draft, FileSource, Key, Problem, Version
from retinue_registry.files.project import Project
from retinue_registry.files.source_file import SourceFile
from retinue_registry.references import dangling, explain
from retinue_registry.validation import field_text


@dataclass(frozen=True, slots=True)
class Import:
    """What a project's files change."""

    drafts: list[Draft]
    gone: list[Key]
    """What no file gives any more."""
    shadowed: list[Draft]
    """What files give and the API has replaced."""
    problems: list[Problem]


def plan_import(catalog: Catalog, project: Project | None) -> Import:
    """What a project changes; None: that there is no project any more.

    A file with a problem keeps the components that it last gave. So does every file that the project may
    still have, where the anchor cannot be read.
    """
    good = [file for file in project.files if not file.problems] if project else []
    problems = project.problems if project else []
    while True:
        kept = {version.key for version in _kept(catalog, project, good)}
        given = {draft.key for file in good for draft in file.drafts}
        api = {version.key for version in catalog if isinstance(version.source, ApiSource)}
        there = kept | given | api
        found = [problem for file in good for problem in _unserved(file, there, project)]
        found = found or list(_circles(catalog, good, api))
        if not found:
            break
        problems += found
        bad = {problem.path for problem in found}
        good = [file for file in good if file.path not in bad]
    drafts = [draft for file in good for draft in file.drafts]
    return Import(
        drafts=[draft for draft in drafts if draft.key not in api],
        gone=[version.key for version in catalog if version.key not in there],
        shadowed=[draft for draft in drafts if draft.key in api],
        problems=sorted(problems),
    )


def _kept(catalog: Catalog, project: Project | None, good: list[SourceFile]) -> Iterator[Version]:
    if project is None:
        return
    fine = {file.path for file in good}
    there = {file.path for file in project.files}
    for version in catalog:
        if isinstance(version.source, FileSource):
            path = version.source.path
            if path not in fine and (path in there or not project.complete):
                yield version


def _unserved(file: SourceFile, there: set[Key], project: Project | None) -> Iterator[Problem]:
    """Yield the references of a good file to what stands in bad ones."""
    declared = project.declared if project else {}
    for draft, place, missing in dangling(file.drafts, lambda key: key in there):
        other = declared.get(missing)
        message = explain(missing, ())
        if other:
            message = (
                f"the {missing.kind} {missing.name!r} stands in {other[0].path}, which has problems itself"
            )
        yield _problem(file, draft, place, message)


def _circles(catalog: Catalog, good: list[SourceFile], api: set[Key]) -> Iterator[Problem]:
    """Yield the steps of good files in circles, which may lead through the API's and through what is kept."""
    given = {draft.key: (file, draft) for file in good for draft in file.drafts if draft.key not in api}

    def needs(key: Key) -> Iterable[Key]:
        if key in given:
            return draft_needs(given[key][1])
        version = catalog.get(key)
        return needs_of(key, catalog.references(version)) if version else ()

    def where(key: Key) -> str:
        holder = given[key][1] if key in given else catalog.get(key)
        return where_from(holder.source) if holder else ""

    for circle in find_circles(given, needs):
        for holder, needed in pairwise(circle):
            if holder in given:
                file, draft = given[holder]
                message = explain_circle(circle, holder, where)
                yield _problem(file, draft, draft_step(draft, needed), message)


def _problem(file: SourceFile, draft: Draft, place: tuple[str | int, ...], message: str) -> Problem:
    field = (*draft.field.split("."), *place)
    return Problem(file.path, file.tree.line(field), field_text(field), message, file.namespace)
