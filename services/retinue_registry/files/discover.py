"""Finds a project's files: the anchor, and what it includes. Nothing outside the project's folder is read."""

import os
import stat
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from retinue_registry.files.tree import MAX_FILE_BYTES, Fault, UnreadableError

ANCHOR = "retinue.yaml"
SUFFIXES = (".yaml", ".yml", ".json")
MAX_FILES = 10_000


def find_anchor(start: Path) -> Path | None:
    """The anchor file in a folder or the nearest one above it; None where there is none."""
    start = start.absolute()
    return next((folder / ANCHOR for folder in (start, *start.parents) if (folder / ANCHOR).is_file()), None)


def find_included(
    root: Path, patterns: Sequence[str], taken: Path, others: Sequence[Path] = ()
) -> Iterator[Path | Fault]:
    """Yield the files that match, each once whatever its names, without `taken` and what lies in `others`.

    What is wrong comes as faults: their place is the number of the pattern, their line is 0.
    """
    real_root = os.path.realpath(root)
    seen = {os.path.realpath(taken)}
    passed_over = {os.path.realpath(each) for each in others}
    for number, pattern in enumerate(patterns):
        paths = _matching(root, pattern)
        if isinstance(paths, str):
            yield Fault(0, (number,), paths)
            continue
        for path in paths:
            real = os.path.realpath(path)
            if real in seen or (passed_over and _inside(real, passed_over)):
                continue
            seen.add(real)
            where = path.relative_to(root).as_posix()
            if not _is_text(where):
                shown = where.encode(errors="backslashreplace").decode()
                yield Fault(0, (number,), f"{shown} has a name that is not UTF-8: rename it")
            elif os.path.commonpath([real, real_root]) != real_root:
                yield Fault(0, (number,), f"{where} is a link to a file outside the project's folder")
            elif path.suffix not in SUFFIXES:
                yield Fault(0, (number,), f"{where} does not end in .yaml, .yml or .json")
            elif len(seen) > MAX_FILES:
                yield Fault(0, (number,), f"more than {MAX_FILES} files are included")
                return
            else:
                yield path


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _inside(path: str, folders: Collection[str]) -> bool:
    return any(str(parent) in folders for parent in Path(path).parents)


def _matching(root: Path, pattern: str) -> list[Path] | str:
    """The files that match a pattern, sorted; or what is wrong with it."""
    if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
        return "must stay inside the project's folder: use a relative path without .."
    try:
        paths = sorted(path for path in root.glob(pattern) if not path.is_dir())
    except (ValueError, IndexError, NotImplementedError, OSError, RuntimeError) as error:
        return f"is not a pattern of files: {error}"
    if not paths and not any(sign in pattern for sign in "*?["):
        return "there is no such file"
    return paths


def read_text(path: Path) -> str:
    """The text of a file. Raises UnreadableError."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UnreadableError(0, "is not a regular file")
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UnreadableError(0, f"cannot be read: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise UnreadableError(0, f"is larger than {MAX_FILE_BYTES // 1024 // 1024} MiB: split it")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UnreadableError(line, "is not UTF-8: save it in that encoding") from None
