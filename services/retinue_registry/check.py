"""`--check`: says what is wrong with a project's files, without serving them."""

import json
import sys
from collections import Counter
from pathlib import Path

from retinue_registry.component import Problem
from retinue_registry.files.discover import ANCHOR
from retinue_registry.files.project import Project, load_project
from retinue_registry.kinds import KINDS


def check(path: Path, *, as_json: bool) -> int:
    """Print what is wrong with the files of a project; the exit status.

    `path` is the project's folder, or one file, which is then checked as an anchor would be.
    """
    anchor = path / ANCHOR if path.is_dir() else path
    project = load_project(anchor)
    problems = project.problems
    out = sys.stdout
    if as_json:
        out.write(json.dumps([_to_json(problem) for problem in problems], indent=2) + "\n")
    elif problems:
        out.writelines(f"{problem}\n" for problem in problems)
    else:
        out.write(_summary(project) + "\n")
    return 1 if problems else 0


def _to_json(problem: Problem) -> dict[str, str | int]:
    return {
        "path": problem.path,
        "line": problem.line,
        "field": problem.field,
        "message": problem.message,
    }


def _summary(project: Project) -> str:
    counts = Counter(draft.key.kind for file in project.files for draft in file.drafts)
    kinds = ", ".join(
        f"{count} {kind.name if count == 1 else kind.plural}"
        for kind in KINDS.values()
        if (count := counts[kind.name])
    )
    total, files = counts.total(), len(project.files)
    components = f"{total} component{'' if total == 1 else 's'}{f' ({kinds})' if kinds else ''}"
    return f"no problems: {components} in {files} file{'' if files == 1 else 's'}"
