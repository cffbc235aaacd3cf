"""Says which folders must be watched so that no change of the files is missed; those, and no others."""

import os
from collections.abc import Iterator
from pathlib import Path

from retinue_registry.files.anchors import Roots
from retinue_registry.files.layers import Layers
from retinue_registry.files.project import Project

UNWATCHED = frozenset({".git", ".retinue", ".venv", "__pycache__", "node_modules"})
"""Folders below a `**` that are large or change all the time, and hold no files of components."""

_WILD = frozenset("*?[")


def folders_to_watch(roots: Roots, layers: Layers) -> frozenset[Path]:
    """The folders in which something can appear, change or go; none of them stands for what is below it.

    Where one does not exist, it is the nearest above it that does. One that may not be read is left out. It
    blocks.
    """
    wanted = {path.parent for path in layers.anchors.looked_at}
    if roots.user:
        wanted.add(roots.user)
    for project in layers.projects:
        if project.anchor.distribution and project.anchor.missing:
            continue
        wanted.add(project.anchor.root)
        wanted |= set(_of_files(project))
        for pattern in project.read[0].include or ():
            wanted |= set(_of_pattern(project.anchor.root, Path(pattern)))
    return frozenset(folder for each in wanted if os.access(folder := _existing(each), os.R_OK))


def _of_files(project: Project) -> Iterator[Path]:
    """Yield the folders of the files that are read; of links also those of what they lead to."""
    for file in project.read:
        path = project.anchor.folder / file.path
        yield path.parent
        yield Path(os.path.realpath(path)).parent


def _of_pattern(root: Path, pattern: Path) -> Iterator[Path]:
    """Yield the folders in which a match of a pattern, or of a part of it, can appear."""
    if pattern.is_absolute() or ".." in pattern.parts:
        return
    for count in range(1, len(pattern.parts)):
        above = Path(*pattern.parts[:count])
        if not _WILD & set(str(above)):
            yield root / above
            continue
        try:
            found = [folder for folder in root.glob(str(above)) if folder.is_dir()]
        except (ValueError, IndexError, NotImplementedError, OSError, RuntimeError):
            return
        yield from (each for each in found if not UNWATCHED & set(each.relative_to(root).parts))


def _existing(folder: Path) -> Path:
    while not os.path.isdir(folder) and folder != folder.parent:  # noqa: PTH112 - Path's raises where it may not look
        folder = folder.parent
    return folder
