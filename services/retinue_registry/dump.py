"""`--dump`: prints what files hold as protojson, for tools that send it to a registry by API."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from google.protobuf.json_format import MessageToDict

from retinue_registry.component import Key, Problem
from retinue_registry.convert import draft_to_proto
from retinue_registry.files.discover import ANCHOR, SUFFIXES, find_included
from retinue_registry.files.source_file import INCLUDE, SourceFile, check_text, read_source_file
from retinue_registry.files.tree import MAX_FILE_BYTES, Fault, UnreadableError
from retinue_registry.nearest import nearest
from retinue_registry.validation import field_text

STDIN = "-"
_SHOWN = "stdin"


def dump(paths: Iterable[str]) -> int:
    """Print the components of files as a JSON list of Component; the exit status.

    Where something is wrong that is on stderr, and on stdout, as JSON, also what the components refer to.

    A path is a file, a folder, or `-` for stdin. A folder that is a project gives what its anchor includes,
    any other one the files that lie in it. What components refer to is not looked for: it may be in the
    registry already. The source of each says where it stands, for messages about it.
    """
    files = list(_read(paths))
    _check_unique(files)
    if problems := sorted(problem for file in files for problem in file.problems):
        sys.stderr.writelines(f"{problem}\n" for problem in problems)
        found = [{"path": each.path, "line": each.line, "text": str(each)} for each in problems]
        json.dump({"problems": found, "needs": list(_needs(files))}, sys.stdout)
        return 1
    json.dump(
        [
            MessageToDict(draft_to_proto(draft), preserving_proto_field_name=True)
            for file in files
            for draft in file.drafts
        ],
        sys.stdout,
    )
    sys.stdout.write("\n")
    return 0


def _read(paths: Iterable[str]) -> Iterator[SourceFile]:
    """Yield each file once, whatever its names."""
    seen = set()
    for given in paths:
        if given == STDIN:
            yield _read_stdin()
            continue
        path = Path(given)
        if path.is_dir() and not (path / ANCHOR).is_file():
            found = sorted(each for each in path.iterdir() if each.suffix in SUFFIXES and each.is_file())
            files = [read_source_file(each, str(each)) for each in found]
        elif path.is_dir() or path.name == ANCHOR:
            files = list(_read_project(path / ANCHOR if path.is_dir() else path))
        else:
            files = [read_source_file(path, str(path))]
        for file in files:
            real = os.path.realpath(file.path)
            if real not in seen:
                seen.add(real)
                yield file


def _read_project(anchor: Path) -> Iterator[SourceFile]:
    first = read_source_file(anchor, str(anchor), anchor=True)
    yield first
    for found in find_included(anchor.parent.absolute(), first.include or [], anchor.absolute()):
        if isinstance(found, Fault):
            first.problem((INCLUDE, *found.place), found.message)
        else:
            yield read_source_file(found, str(anchor.parent / found.relative_to(anchor.parent.absolute())))


def _read_stdin() -> SourceFile:
    """What stands on stdin, JSON or YAML; its relative paths begin at the working folder."""
    result = SourceFile(_SHOWN)
    try:
        text = _stdin_text()
        suffix = ".json" if _is_json(text) else ".yaml"
        check_text(result, text, Path.cwd() / f"{_SHOWN}{suffix}", anchor=False)
    except UnreadableError as error:
        result.problem((), error.message, line=error.line)
    return result


def _stdin_text() -> str:
    data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise UnreadableError(0, f"is larger than {MAX_FILE_BYTES // 1024 // 1024} MiB: split it")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UnreadableError(0, "is not UTF-8") from None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _needs(files: Sequence[SourceFile]) -> Iterator[dict[str, object]]:
    """Yield what the components refer to that is not in the files, those of wrong ones too."""
    declared = {key for file in files for key in file.declared}
    for file in files:
        for place, _, needed in file.needs:
            if needed not in declared:
                line = file.tree.line(place)
                text = f"{file.path}:{line}: {field_text(place)}"
                near = nearest(needed.name, (key.name for key in declared if key.kind == needed.kind))
                yield {"path": file.path, "line": line, "text": text, "near": near, **needed._asdict()}


def _check_unique(files: Iterable[SourceFile]) -> None:
    declared: dict[Key, tuple[SourceFile, int]] = {}
    for file in files:
        for key, line in file.declared.items():
            other, first = declared.setdefault(key, (file, line))
            if other is not file:
                message = f"the {key.kind} {key.name!r} stands in {other.path}:{first} already"
                file.problems.append(
                    Problem(file.path, line, f"{key.kind}s.{key.name}", message, file.namespace)
                )
