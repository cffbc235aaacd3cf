"""`--check`: says what is wrong with files, without serving them."""

import json
import os
import sys
from collections import Counter
from pathlib import Path

from retinue_registry.component import Problem
from retinue_registry.files.anchors import Roots, find_user_folder
from retinue_registry.files.discover import ANCHOR
from retinue_registry.files.layers import Layers, load_layers
from retinue_registry.files.packaged import find_packages
from retinue_registry.kinds import KINDS


def check(path: Path, *, as_json: bool) -> int:
    """Print what is wrong with the files of a project and of the layers below it; the exit status.

    `path` is the project's folder, or one file, which is then checked as an anchor would be.
    """
    anchor = path / ANCHOR if path.is_dir() else path
    user = find_user_folder(os.environ.get("RETINUE_USER_DIR"))
    layers = load_layers(Roots(anchor, user, find_packages()))
    problems = layers.problems
    out = sys.stdout
    if as_json:
        out.write(json.dumps([_to_json(problem) for problem in problems], indent=2) + "\n")
    elif problems:
        out.writelines(f"{problem}\n" for problem in problems)
    else:
        out.write(_summary(layers) + "\n")
    return 1 if problems else 0


def _to_json(problem: Problem) -> dict[str, str | int]:
    return {
        "path": problem.path,
        "line": problem.line,
        "field": problem.field,
        "message": problem.message,
        "layer": problem.layer.value,
        "distribution": problem.distribution,
    }


def _summary(layers: Layers) -> str:
    files = list(layers.files)
    counts = Counter(draft.key.kind for file in files for draft in file.drafts)
    kinds = ", ".join(
        f"{count} {kind.name if count == 1 else kind.plural}"
        for kind in KINDS.values()
        if (count := counts[kind.name])
    )
    total = counts.total()
    components = f"{total} component{'' if total == 1 else 's'}{f' ({kinds})' if kinds else ''}"
    return f"no problems: {components} in {len(files)} file{'' if len(files) == 1 else 's'}"
