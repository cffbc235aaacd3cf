"""Reads all layers of files, and checks what they say of each other: all that is wrong comes at once."""

import functools
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from retinue_registry.circles import explain_circle, find_circles
from retinue_registry.component import FileSource, Key, Layer, Problem
from retinue_registry.files.anchors import Anchors, Roots, find_anchors
from retinue_registry.files.project import Project, read_project
from retinue_registry.files.reading import FileReader
from retinue_registry.files.source_file import SourceFile
from retinue_registry.files.tree import Place
from retinue_registry.inference import infer, is_short
from retinue_registry.kinds import KINDS
from retinue_registry.mismatches import mismatches
from retinue_registry.references import explain

MAX_SUGGESTIONS = 200
"""Dangling references that get the nearest names: looking for those takes milliseconds each."""

_ORDER = {layer: number for number, layer in enumerate(Layer)}

Rank = tuple[int, int]
"""Order of the layer, and of the project in all of them: the lowest is in effect."""


@dataclass(slots=True)
class Layers:
    """The files of all layers, as they were when they were read."""

    anchors: Anchors
    projects: list[Project]
    """The first is in effect where several have a component."""

    @property
    def files(self) -> Iterator[SourceFile]:
        """All files, in the order of priority."""
        return (file for project in self.projects for file in project.files)

    @property
    def ranked(self) -> Iterator[tuple[Rank, SourceFile]]:
        """All files with their priority."""
        for number, project in enumerate(self.projects):
            for file in project.files:
                yield (_ORDER[project.anchor.layer], number), file

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

    @property
    def state(self) -> tuple[object, ...]:
        """Equal where nothing has changed."""
        return (self.anchors.unsure, tuple(project.state for project in self.projects))

    def open(self) -> None:
        """Begin to check: note what is wrong within each project."""
        for project in self.projects:
            project.open_files()

    def check(self, api: Collection[Key] = (), kept: Collection[Key] = ()) -> None:
        """Note what is wrong between the files. `api` and `kept` name what exists without them."""
        declared = self.declared
        _infer(self.files, {*declared, *api, *kept})
        _check_references(self.files, declared, {*api, *kept})
        _check_circles(self.files, declared, frozenset(api))
        _check_schemas(self.files, declared, frozenset(api))

    def keeper(self) -> "Keeper":
        """Who keeps what a file gave that is not there or not right now."""
        return Keeper(self)


class Keeper:
    """Finds the project that a file belongs to."""

    def __init__(self, layers: Layers) -> None:
        self._unsure = layers.anchors.unsure
        self._owners: dict[tuple[Layer, str, str], tuple[Rank, bool]] = {}
        self._there: set[tuple[Layer, str, str]] = set()
        for number, project in enumerate(layers.projects):
            anchor = project.anchor
            rank = (_ORDER[anchor.layer], number)
            place = (anchor.layer, anchor.distribution, project.prefix)
            self._owners.setdefault(place, (rank, project.complete))
            self._there |= {(anchor.layer, anchor.distribution, file.path) for file in project.read}

    def rank(self, layer: Layer, distribution: str, path: str) -> Rank | None:
        """The priority of what such a file gave; None where it is gone for good."""
        parts = path.split("/")[:-1]
        for count in range(len(parts), -1, -1):
            prefix = "".join(f"{part}/" for part in parts[:count])
            if owner := self._owners.get((layer, distribution, prefix)):
                rank, complete = owner
                if not complete or (layer, distribution, path) in self._there:
                    return rank
                break
        return (_ORDER[layer], 0) if layer in self._unsure else None


def read_layers(roots: Roots, reader: FileReader) -> Layers:
    """Read the files of all layers. It blocks: call it from a thread."""
    anchors = find_anchors(roots, lambda anchor: reader.read(anchor.path, anchor))
    layers = Layers(anchors, [read_project(anchor, reader) for anchor in anchors.found])
    reader.forget_unused()
    return layers


def load_layers(roots: Roots, *, elsewhere: Collection[Key] = ()) -> Layers:
    """Read and check the files of all layers; `elsewhere` names what exists without them. It blocks."""
    layers = read_layers(roots, FileReader())
    layers.open()
    layers.check(elsewhere)
    return layers


def _infer(files: Iterable[SourceFile], there: set[Key]) -> None:
    """Put what is meant in the place of short forms, and note the names that are none or several things."""

    def names(namespace: str, kind: str) -> list[str]:
        return [key.name for key in there if key[:2] == (namespace, kind)]

    for file in files:
        for index, draft in enumerate(file.drafts):
            if not is_short(draft):
                continue
            place = tuple(draft.field.split("."))
            known, broken = infer(draft, there.__contains__, functools.partial(names, draft.key.namespace))
            for each in broken:
                file.problem((*place, *each.place), each.message)
            if known:
                file.drafts[index] = known
                if "agents" not in draft.spec.model_fields_set:  # what those are is noted already
                    file.note_needs(place, known.key, known.spec.model_dump(exclude_none=True))


def _check_references(
    files: Iterable[SourceFile], declared: dict[Key, tuple[SourceFile, int]], elsewhere: set[Key]
) -> None:
    names: dict[tuple[str, str], list[str]] = {}
    for namespace, kind, name in {*declared, *elsewhere}:
        names.setdefault((namespace, kind), []).append(name)

    @functools.cache
    def why(missing: Key) -> str:
        suggest = why.cache_info().currsize < MAX_SUGGESTIONS
        return explain(missing, sorted(names.get((missing.namespace, missing.kind), ())) if suggest else ())

    for file in files:
        for place, _, needed in file.needs:
            if needed not in declared and needed not in elsewhere:
                file.problem(place, why(needed))


def _check_circles(
    files: Iterable[SourceFile], declared: dict[Key, tuple[SourceFile, int]], api: frozenset[Key]
) -> None:
    """Note each step of the circles among the files; what the API has replaced is no step."""
    steps: dict[Key, dict[Key, tuple[SourceFile, Place]]] = {}
    for file in files:
        for place, holder, needed in file.needs:
            if KINDS[needed.kind].refers and holder not in api and declared.get(holder, (None,))[0] is file:
                steps.setdefault(holder, {}).setdefault(needed, (file, place))

    def where(key: Key) -> str:
        file, line = declared[key]
        return str(FileSource(file.path, line, file.layer, file.distribution))

    for circle in find_circles(steps, lambda key: steps.get(key, ())):
        for holder, needed in pairwise(circle):
            file, place = steps[holder][needed]
            file.problem(place, explain_circle(circle, holder, where))


def _check_schemas(
    files: Iterable[SourceFile], declared: dict[Key, tuple[SourceFile, int]], api: frozenset[Key]
) -> None:
    """Note what workflows name that a schema in the files lacks; what the API has replaced has others."""
    given = [(file, draft) for file in files for draft in file.drafts]
    specs = {
        draft.key: draft.spec
        for file, draft in given
        if draft.key not in api and declared.get(draft.key, (None,))[0] is file
    }

    @functools.cache
    def spec_of(key: Key) -> Mapping[str, Any] | None:
        return specs[key].model_dump(exclude_none=True) if key in specs else None

    for file, draft in given:
        for place, message in mismatches(draft, spec_of):
            file.problem((*draft.field.split("."), *place), message)
