"""Reads files, each again only when it has changed since."""

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

from retinue_registry.files.anchors import Anchor
from retinue_registry.files.discover import read_text
from retinue_registry.files.source_file import SourceFile, check_text
from retinue_registry.files.tree import UnreadableError

YOUNG_NS = 2_000_000_000
"""A file that was changed this short a time ago may change again and look the same."""

Stamp: TypeAlias = tuple[int, ...]


class _Place(NamedTuple):
    path: Path
    relative: str
    anchor: Anchor
    is_anchor: bool


@dataclass(slots=True)
class _Known:
    file: SourceFile
    digest: bytes
    stamp: Stamp | None
    """None where it cannot be told from that whether the file has changed."""
    used: bool = True


class FileReader:
    """Owns the files as they were read last. It has one caller at a time, and it blocks."""

    def __init__(self) -> None:
        self._known: dict[_Place, _Known] = {}

    def read(self, path: Path, anchor: Anchor) -> SourceFile:
        """What a file gives; the same object as before where it holds the same. It must not be changed."""
        relative = os.path.relpath(path, anchor.folder).replace(os.sep, "/")
        place = _Place(path, relative, _plain(anchor), path == anchor.path)
        known = self._known.get(place)
        stamp = _stamp(path)
        if known and stamp and known.stamp == stamp:
            known.used = True
            return known.file
        file = SourceFile(relative, anchor.layer, anchor.distribution)
        digest = b""
        try:
            text = read_text(path)
            digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
            if not (known and known.digest == digest):
                check_text(file, text, path, anchor=place.is_anchor)
        except UnreadableError as error:
            file.problem((), error.message, line=error.line)
        if known and known.digest == digest and (digest or known.file.problems == file.problems):
            file = known.file
        self._known[place] = _Known(file, digest, stamp)
        return file

    def forget_unused(self) -> None:
        """Let go of what has not been read since the last call."""
        self._known = {place: known for place, known in self._known.items() if known.used}
        for known in self._known.values():
            known.used = False


def _plain(anchor: Anchor) -> Anchor:
    """An anchor without what may change about it."""
    return Anchor(anchor.path, anchor.layer, anchor.folder, anchor.distribution)


def _stamp(path: Path) -> Stamp | None:
    """What changes about a file when it does; None where that is not sure."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    changed = max(found.st_mtime_ns, found.st_ctime_ns)
    if changed > time.time_ns() - YOUNG_NS:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
