"""Reads the files of one anchor: itself, and what it includes."""

from dataclasses import dataclass, field

from retinue_registry.component import Key
from retinue_registry.files.anchors import Anchor
from retinue_registry.files.discover import find_included
from retinue_registry.files.packaged import ENTRY_POINTS
from retinue_registry.files.reading import FileReader
from retinue_registry.files.source_file import INCLUDE, SourceFile
from retinue_registry.files.tree import Fault


@dataclass(slots=True)
class Project:
    """The files of one anchor, as they were when they were read."""

    anchor: Anchor
    read: list[SourceFile]
    """As the reader has them: the anchor first, then in the order of its `include`."""
    complete: bool
    """Whether the anchor could be read, so that every file is among them."""
    faults: tuple[Fault, ...] = ()
    """What is wrong with the anchor's `include`."""
    files: list[SourceFile] = field(default_factory=list)
    """The same, to note what is wrong between them in."""

    @property
    def prefix(self) -> str:
        """With what the paths of its files begin."""
        relative = self.anchor.root.relative_to(self.anchor.folder).as_posix()
        return "" if relative == "." else f"{relative}/"

    @property
    def state(self) -> tuple[object, ...]:
        """Equal where nothing has changed."""
        return (self.anchor, self.complete, self.faults, tuple(self.read))

    def open_files(self) -> None:
        """Begin to check it, from what the reader has."""
        self.files = [file.copy() for file in self.read]
        for fault in (*self.anchor.faults, *self.faults):
            self.files[0].problem(fault.place, fault.message)
        self._check_unique()

    def _check_unique(self) -> None:
        declared: dict[Key, tuple[SourceFile, int]] = {}
        for file in self.files:
            for key, line in file.declared.items():
                other, first = declared.setdefault(key, (file, line))
                if other is not file:
                    message = f"the {key.kind} {key.name!r} stands in {other.path}:{first} already"
                    file.problem((f"{key.kind}s", key.name), message, line=line)


def read_project(anchor: Anchor, reader: FileReader) -> Project:
    """Read the files of an anchor. It blocks."""
    if anchor.missing:
        return Project(anchor, [_missing(anchor)], complete=False)
    first = reader.read(anchor.path, anchor)
    if first.include is None or first.projects is None:
        return Project(anchor, [first], complete=False)
    found = list(find_included(anchor.root, first.include, anchor.path, anchor.others))
    faults = tuple(each._replace(place=(INCLUDE, *each.place)) for each in found if isinstance(each, Fault))
    files = [reader.read(each, anchor) for each in found if not isinstance(each, Fault)]
    return Project(anchor, [first, *files], complete=True, faults=faults)


def _missing(anchor: Anchor) -> SourceFile:
    path = anchor.path.relative_to(anchor.folder).as_posix()
    file = SourceFile(ENTRY_POINTS if anchor.distribution else path, anchor.layer, anchor.distribution)
    file.problem((), anchor.missing)
    return file
