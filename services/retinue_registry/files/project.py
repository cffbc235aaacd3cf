"""Loads a project: the anchor and what it includes, with everything that is wrong, all at once."""

import functools
from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from retinue_registry.circles import explain_circle, find_circles
from retinue_registry.component import Key, Problem
from retinue_registry.files.discover import find_included
from retinue_registry.files.source_file import INCLUDE, SourceFile, read_source_file
from retinue_registry.files.tree import Fault, Place
from retinue_registry.kinds import KINDS
from retinue_registry.references import explain

MAX_SUGGESTIONS = 200
"""Dangling references that get the nearest names: looking for those takes milliseconds each."""


@dataclass(slots=True)
class Project:
    """The files of a project, as they were when it was loaded."""

    root: Path
    files: list[SourceFile]
    """The anchor first, then in the order of its `include`."""
    complete: bool
    """Whether the anchor could be read, so that every file of the project is among `files`."""

    @property
    def problems(self) -> list[Problem]:
        """All that is wrong, in the order of path and line."""
        return sorted(problem for file in self.files for problem in file.problems)

    @property
    def declared(self) -> dict[Key, tuple[SourceFile, int]]:
        """The file and line of every component whose name could be read; the first counts."""
        result: dict[Key, tuple[SourceFile, int]] = {}
        for file in self.files:
            for key, line in file.declared.items():
                result.setdefault(key, (file, line))
        return result


def load_project(anchor: Path, *, elsewhere: Collection[Key] = ()) -> Project:
    """Read a project's files and check them, references included. It blocks: call it from a thread.

    `elsewhere` names the components that exist without standing in a file.
    """
    root = anchor.parent.absolute()
    first = read_source_file(anchor, anchor.name, anchor=True)
    project = Project(root, [first], complete=first.include is not None)
    for found in find_included(root, first.include or [], anchor):
        if isinstance(found, Fault):
            first.problem((INCLUDE, *found.place), found.message)
        else:
            project.files.append(read_source_file(found, found.relative_to(root).as_posix()))
    _check_unique(project)
    _check_references(project, frozenset(elsewhere))
    _check_circles(project, frozenset(elsewhere))
    return project


def _check_unique(project: Project) -> None:
    declared = project.declared
    for file in project.files:
        for key, line in file.declared.items():
            other, first = declared[key]
            if other is not file:
                message = f"the {key.kind} {key.name!r} stands in {other.path}:{first} already"
                file.problems.append(
                    Problem(file.path, line, f"{key.kind}s.{key.name}", message, file.namespace)
                )


def _check_references(project: Project, elsewhere: frozenset[Key]) -> None:
    declared = project.declared
    names: dict[tuple[str, str], list[str]] = {}
    for namespace, kind, name in {*declared, *elsewhere}:
        names.setdefault((namespace, kind), []).append(name)

    @functools.cache
    def why(missing: Key) -> str:
        suggest = why.cache_info().currsize < MAX_SUGGESTIONS
        return explain(missing, sorted(names.get((missing.namespace, missing.kind), ())) if suggest else ())

    for file in project.files:
        for place, _, needed in file.needs:
            if needed not in declared and needed not in elsewhere:
                file.problem(place, why(needed))


def _check_circles(project: Project, elsewhere: frozenset[Key]) -> None:
    """Note each step of the circles among the files; what stands elsewhere too is not the file's."""
    declared = project.declared
    steps: dict[Key, dict[Key, tuple[SourceFile, Place]]] = {}
    for file in project.files:
        for place, holder, needed in file.needs:
            if KINDS[needed.kind].refers and holder not in elsewhere:
                steps.setdefault(holder, {}).setdefault(needed, (file, place))

    def where(key: Key) -> str:
        file, line = declared[key]
        return f"{file.path}:{line}"

    for circle in find_circles(steps, lambda key: steps.get(key, ())):
        for holder, needed in pairwise(circle):
            file, place = steps[holder][needed]
            file.problem(place, explain_circle(circle, holder, where))
