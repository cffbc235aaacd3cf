"""Checks one file: from its tree to drafts, and to everything that is wrong with it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from retinue_registry.component import DEFAULT_NAMESPACE, Draft, FileSource, Key, Layer, Problem
from retinue_registry.files.discover import ANCHOR, read_text
from retinue_registry.files.json_tree import read_json
from retinue_registry.files.tree import Place, Tree, UnreadableError
from retinue_registry.files.yaml_tree import read_yaml
from retinue_registry.kinds import KINDS, Kind
from retinue_registry.models.fields import Broken
from retinue_registry.nearest import did_you_mean
from retinue_registry.validation import LABELS, check_labels, check_name, check_spec, field_text

NAMESPACE = "namespace"
INCLUDE = "include"
PROJECTS = "projects"
_OF_ANCHOR = (INCLUDE, PROJECTS)
_PLURALS = {kind.plural: kind for kind in KINDS.values()}


class Need(NamedTuple):
    """That one component needs another one."""

    place: Place
    """In the file, where the other one is named."""
    holder: Key
    needed: Key


@dataclass(slots=True, eq=False)
class SourceFile:
    """What one file gives."""

    path: str
    """Relative to the folder of its layer, with `/`."""
    layer: Layer = Layer.PROJECT
    distribution: str = ""
    namespace: str | None = None
    """None where it could not be read."""
    drafts: list[Draft] = field(default_factory=list)
    """Those of its components that break no rule of their own."""
    declared: dict[Key, int] = field(default_factory=dict)
    """The line of each component whose name could be read, right or wrong."""
    include: list[str] | None = None
    """The anchor's patterns; None where they could not be read, or it is not the anchor."""
    projects: list[str] | None = None
    """The folders that a workspace's anchor lists, as `include`."""
    problems: list[Problem] = field(default_factory=list)
    needs: list[Need] = field(default_factory=list)
    """What its components refer to, those of wrong ones too."""
    tree: Tree = field(default_factory=Tree)

    def problem(self, place: Place, message: str, *, line: int | None = None) -> None:
        """Note what is wrong at a place."""
        line = self.tree.line(place) if line is None else line
        self.problems.append(
            Problem(
                self.path, line, field_text(place), message, self.namespace, self.layer, self.distribution
            )
        )

    def copy(self) -> "SourceFile":
        """The same file, to note further problems in, and what its drafts name without its kind."""
        return replace(self, problems=[*self.problems], drafts=[*self.drafts], needs=[*self.needs])

    def note_needs(self, place: Place, holder: Key, entry: Mapping[str, Any]) -> None:
        """Note what a component at a place refers to and is not noted yet."""
        known = {need.place for need in self.needs}
        for where, kind, name in KINDS[holder.kind].references(entry):
            if (*place, *where) not in known and not check_name(name):
                self.needs.append(Need((*place, *where), holder, Key(holder.namespace, kind, name)))


def read_source_file(path: Path, relative: str, *, anchor: bool = False) -> SourceFile:
    """Read and check one file. It never raises for what the file holds."""
    result = SourceFile(relative)
    try:
        check_text(result, read_text(path), path, anchor=anchor)
    except UnreadableError as error:
        result.problem((), error.message, line=error.line)
    return result


def check_text(result: SourceFile, text: str, path: Path, *, anchor: bool) -> None:
    """Check the text of a file, which stands at `path`. Raises UnreadableError."""
    result.tree = read_json(text) if path.suffix == ".json" else read_yaml(text)
    _check(result, path.parent.absolute(), anchor=anchor)


def _check(result: SourceFile, folder: Path, *, anchor: bool) -> None:
    data = {} if result.tree.data is None else result.tree.data
    if not isinstance(data, dict):
        result.problem((), f"must be a mapping with the keys {', '.join([NAMESPACE, *_PLURALS])}")
        return
    given = data.get(NAMESPACE, DEFAULT_NAMESPACE)
    wrong = check_name(given) if isinstance(given, str) else "must be text: put it in quotes"
    result.namespace = None if wrong else given
    if wrong:
        result.problem((NAMESPACE,), wrong)
    for line, place, message in result.tree.faults:
        result.problem(place, message, line=line)
    if anchor:
        result.include = _texts(result, data, INCLUDE, 'patterns, for example ["agents/*.yaml"]')
        result.projects = _texts(result, data, PROJECTS, 'folders, for example ["services/billing"]')
    for name in _OF_ANCHOR:
        if name in data and not anchor:
            result.problem((name,), f"is only allowed in {ANCHOR}")
    names = [NAMESPACE, *(_OF_ANCHOR if anchor else []), *_PLURALS]
    for name, value in data.items():
        if name in _PLURALS:
            _check_kind(result, _PLURALS[name], value, folder)
        elif name not in {NAMESPACE, *_OF_ANCHOR}:
            near = did_you_mean(name, names)
            result.problem((name,), "there is no such key" + (near or f"; there are {', '.join(names)}"))


def _texts(result: SourceFile, data: Mapping[str, Any], name: str, what: str) -> list[str] | None:
    texts = data.get(name, [])
    if isinstance(texts, list) and all(isinstance(each, str) and each for each in texts):
        return texts
    result.problem((name,), f"must be a list of {what}")
    return None


def _check_kind(result: SourceFile, kind: Kind, components: object, folder: Path) -> None:
    if components is None:
        return
    if not isinstance(components, dict):
        result.problem((kind.plural,), f"must be a mapping from name to {kind.name}")
        return
    for name, entry in components.items():
        place = (kind.plural, name)
        wrong = check_name(name)
        if wrong:
            result.problem(place, wrong)
        elif result.namespace:
            result.declared[Key(result.namespace, kind.name, name)] = result.tree.line(place)
        if entry is not None and not isinstance(entry, dict):
            result.problem(place, f"must be a mapping with the fields of the {kind.name}")
        else:
            _check_entry(result, kind, name, entry or {}, folder)


def _check_entry(result: SourceFile, kind: Kind, name: str, entry: Mapping[str, Any], folder: Path) -> None:
    place = (kind.plural, name)
    spec, broken = check_spec(kind.name, {key: value for key, value in entry.items() if key != LABELS})
    labels, broken_labels = check_labels(entry.get(LABELS, {}))
    _note(result, place, (*broken, *broken_labels))
    if result.namespace:
        result.note_needs(place, Key(result.namespace, kind.name, name), entry)
    if spec is None or broken_labels or result.namespace is None:
        return
    source = FileSource(result.path, result.tree.line(place), result.layer, result.distribution)
    key = Key(result.namespace, kind.name, name)
    result.drafts.append(Draft(key, labels, spec.in_folder(folder), source, field_text(place)))


def _note(result: SourceFile, place: Place, broken: Iterable[Broken]) -> None:
    for each in broken:
        result.problem((*place, *each.place), each.message)
