"""The registry's own strict loader, asked as a process: the CLI reads no project file itself."""

import asyncio
import difflib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retinue_cli.failures import USAGE, CommandError
from retinue_cli.suite.services import REGISTRY, service_environment

STDIN = "-"
_TIMEOUT_S = 60.0
_MOST_STDIN_BYTES = 5 * 1024 * 1024
"""More than a file may have, so that the registry says what is wrong with it."""


async def run_loader(*arguments: str | Path, stdin: bytes = b"") -> tuple[int, str, str]:
    """Run `python -m retinue_registry` with arguments; its exit status, stdout and stderr."""
    REGISTRY.check_installed()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        REGISTRY.module,
        *map(str, arguments),
        env=service_environment(),
        stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            out, err = await process.communicate(stdin or None)
    except TimeoutError:
        raise CommandError(f"the check did not end within {_TIMEOUT_S:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, out.decode(errors="replace"), err.decode(errors="replace")


class WrongFilesError(Exception):
    """Something in the files breaks a rule."""

    def __init__(self, problems: list[dict[str, Any]], needs: list[dict[str, Any]]) -> None:
        super().__init__(f"{len(problems)} problems")
        self.problems = problems
        """Each with `path`, `line`, counted from 1, and `text`, which has both."""
        self.needs = needs
        """What the components refer to that is not in the files: `path`, `line`, `text` for where they do,
        `namespace`, `kind` and `name` for what, and `near`, names in the files that come near to it."""


async def load_components(paths: Sequence[str]) -> list[dict[str, Any]]:
    """The components in files, in folders and on stdin (`-`), as protojson.

    Raises WrongFilesError, and CommandError where they cannot be looked at.
    """
    for path in paths:
        _check_exists(path)
    stdin = sys.stdin.buffer.read(_MOST_STDIN_BYTES) if STDIN in paths else b""
    status, out, err = await run_loader("--dump", *paths, stdin=stdin)
    try:
        answer = json.loads(out)
    except ValueError:
        raise CommandError(f"the files could not be looked at: {err.strip() or out.strip()}") from None
    if status:
        raise WrongFilesError(answer["problems"], answer["needs"])
    components: list[dict[str, Any]] = answer
    return components


def _check_exists(given: str) -> None:
    path = Path(given)
    if given == STDIN or path.exists():
        return
    there = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, there, n=1)
    hint = f"; did you mean {path.with_name(near[0])}?" if near else ""
    raise CommandError(f"there is no {given}{hint}", status=USAGE)
