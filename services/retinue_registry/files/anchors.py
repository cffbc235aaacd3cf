"""Finds the anchor files of all layers, in their order of priority: project, workspace, user, packaged."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from retinue_registry.component import Layer
from retinue_registry.files.discover import ANCHOR
from retinue_registry.files.packaged import Package
from retinue_registry.files.source_file import PROJECTS, SourceFile
from retinue_registry.files.tree import Fault

MAX_PROJECTS = 1000
"""Of one workspace."""


@dataclass(frozen=True, slots=True)
class Roots:
    """Where files are looked for: fixed while the registry runs. The workspace is found anew each time."""

    project: Path | None = None
    """The nearest anchor, which may be that of a workspace; None: there is neither."""
    user: Path | None = None
    """The user's folder; None: it is left out."""
    packages: tuple[Package, ...] = ()


@dataclass(frozen=True, slots=True)
class Anchor:
    """An anchor file and how what it leads to is named."""

    path: Path
    layer: Layer
    folder: Path
    """The layer's, from which the paths of its files are counted."""
    distribution: str = ""
    faults: tuple[Fault, ...] = ()
    """What is wrong with the projects that it lists."""
    others: tuple[Path, ...] = ()
    """Folders whose files are not its own: those of the projects that it lists."""
    missing: str = ""
    """Why there is no such file, where that is known."""

    @property
    def root(self) -> Path:
        """The folder that holds it."""
        return self.path.parent


@dataclass(slots=True)
class Anchors:
    """What was found."""

    found: list[Anchor] = field(default_factory=list)
    """The first is the first to be served."""
    unsure: frozenset[Layer] = frozenset()
    """Layers that may have further anchors, as the file that says so cannot be read."""
    looked_at: list[Path] = field(default_factory=list)
    """Files above the project that are no workspace of it now."""


Read: TypeAlias = Callable[[Anchor], SourceFile]


def find_user_folder(given: str | None) -> Path | None:
    """The user's folder: as given, or where the XDG base directory specification has it; empty: none."""
    if given is not None:
        return Path(given).expanduser().absolute() if given else None
    config = os.environ.get("XDG_CONFIG_HOME", "")
    if Path(config).is_absolute():  # the specification says to pass over a relative one
        return Path(config) / "retinue"
    try:
        return Path.home() / ".config" / "retinue"
    except RuntimeError:  # a container's user may have none
        return None


def find_anchors(roots: Roots, read: Read) -> Anchors:
    """The anchors of all layers, each file once. `read` reads one."""
    result = Anchors()
    if roots.project:
        _find_project(result, roots.project.absolute(), read)
    if roots.user and os.path.lexists(roots.user / ANCHOR):
        result.found.append(Anchor(roots.user / ANCHOR, Layer.USER, roots.user))
    result.found += _packaged(roots.packages)
    # Whoever works in the user's folder, or on a package, has it as the project.
    once: dict[str, Anchor] = {}
    for number, each in enumerate(result.found):
        once.setdefault(str(number) if each.missing else os.path.realpath(each.path), each)
    result.found = list(once.values())
    return result


def _packaged(packages: Sequence[Package]) -> Iterator[Anchor]:
    for package in packages:
        folder = package.folder or Path(os.sep)
        anchor = Anchor(folder / ANCHOR, Layer.PACKAGE, folder, package.distribution)
        yield replace(anchor, missing=package.wrong)


def _find_project(result: Anchors, nearest: Path, read: Read) -> None:
    root = nearest.parent
    first = read(Anchor(nearest, Layer.PROJECT, root))
    if first.projects or (first.projects is None and first.include is not None):
        _add_workspace(result, nearest, read, None)
        return
    result.found.append(Anchor(nearest, Layer.PROJECT, root))
    for folder in root.parents:
        path = folder / ANCHOR
        if not _is_file(path):
            continue
        above = read(Anchor(path, Layer.WORKSPACE, folder))
        if above.projects is None or _lists(folder, above.projects, root):
            _add_workspace(result, path, read, root)
            return
        result.looked_at.append(path)
    if first.include is None:  # it may be that of a workspace itself
        result.unsure = frozenset({Layer.WORKSPACE})


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _lists(folder: Path, projects: Sequence[str], root: Path) -> bool:
    real = os.path.realpath(root)
    return any("\0" not in each and os.path.realpath(folder / each) == real for each in projects)


def _add_workspace(result: Anchors, path: Path, read: Read, project: Path | None) -> None:
    """Add a workspace and its projects, of which `project` is a layer of its own."""
    root = path.parent
    anchor = Anchor(path, Layer.WORKSPACE, root)
    projects = read(anchor).projects
    if projects is None:
        result.unsure = frozenset({Layer.WORKSPACE})
        result.found.append(anchor)
        return
    members = _Members(root)
    faults = [
        Fault(0, (PROJECTS, number), wrong)
        for number, entry in enumerate(projects)
        if (wrong := members.take(number, entry))
    ]
    below: list[Anchor] = []
    for number, folder in members.taken.values():
        member = Anchor(folder / ANCHOR, Layer.WORKSPACE, root, missing=_missing(folder))
        if not member.missing and read(member).projects:
            wrong = "is a workspace itself, and a workspace holds none: list its projects here"
            faults.append(Fault(0, (PROJECTS, number), wrong))
        if project is None or os.path.realpath(folder) != os.path.realpath(project):
            below.append(member)
    folders = tuple(folder for _, folder in members.taken.values())
    result.found += [replace(anchor, faults=tuple(faults), others=folders), *below]


def _missing(folder: Path) -> str:
    if os.path.lexists(folder / ANCHOR):
        return ""
    return f"there is no such file, and {PROJECTS} lists its folder: make one, or take the folder out"


class _Members:
    """The folders of a workspace's projects."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._real_root = os.path.realpath(root)
        self.taken: dict[str, tuple[int, Path]] = {}
        """By real path: the number in the list, and the folder as it is listed."""
        self._above: dict[str, int] = {}
        """Folders that hold one that is taken."""

    def take(self, number: int, entry: str) -> str:
        """Take one of the list; or say what is wrong with it."""
        if "\0" in entry or Path(entry).is_absolute() or ".." in Path(entry).parts:
            return "must stay inside the workspace's folder: use a relative path without .."
        real = os.path.realpath(self._root / entry)
        parents = [str(each) for each in Path(real).parents]
        if wrong := self._refuse(entry, real, parents):
            return wrong
        self.taken[real] = (number, self._root / entry)
        for each in parents:
            self._above.setdefault(each, number)
        return ""

    def _refuse(self, entry: str, real: str, parents: Sequence[str]) -> str:
        outer = next((self.taken[each][0] for each in parents if each in self.taken), self._above.get(real))
        if real == self._real_root:
            return "is the workspace itself, whose own components need no entry"
        if self._real_root not in parents:
            return f"{entry} is a link to a folder outside the workspace's folder"
        if real in self.taken:
            return f"stands here a second time; the first is {PROJECTS}[{self.taken[real][0]}]"
        if outer is not None:
            return f"and {PROJECTS}[{outer}] lie one inside the other: projects must lie side by side"
        return f"more than {MAX_PROJECTS} projects are listed" if len(self.taken) >= MAX_PROJECTS else ""
