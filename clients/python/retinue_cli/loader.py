"""The registry's own strict loader, asked as a process: the CLI reads no project file itself."""

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retinue_cli.failures import CommandError
from retinue_cli.suite.services import REGISTRY, service_environment

_TIMEOUT_S = 60.0


async def run_loader(*arguments: str | Path) -> tuple[int, str, str]:
    """Run `python -m retinue_registry` with arguments; its exit status, stdout and stderr."""
    REGISTRY.check_installed()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        REGISTRY.module,
        *map(str, arguments),
        env=service_environment(),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            out, err = await process.communicate()
    except TimeoutError:
        raise CommandError(f"the check did not end within {_TIMEOUT_S:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, out.decode(errors="replace"), err.decode(errors="replace")


async def load_components(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The components in files, as protojson. Raises CommandError with all that is wrong in them."""
    components: list[dict[str, Any]] = []
    faults: list[str] = []
    for path in paths:
        if not path.is_file():
            raise CommandError(f"there is no file {path}")
        status, out, err = await run_loader("--dump", path)
        if status:
            faults.append((err or out).strip())
        else:
            components += json.loads(out)
    if faults:
        raise CommandError("nothing was applied:\n" + "\n".join(faults))
    return components
