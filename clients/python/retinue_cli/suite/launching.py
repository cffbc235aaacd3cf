"""How the services of a suite are started together: their commands, their ports, and when all answer."""

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from retinue_cli.call import known_file
from retinue_cli.failures import USAGE, CommandError
from retinue_cli.project import MODEL_SCRIPT
from retinue_cli.suite.services import SERVICES

if TYPE_CHECKING:
    from retinue.client import Access

_HEALTHY_WITHIN_S = 30.0


def find_script(folder: Path, given: Path | None, *, wanted: bool | None) -> Path | None:
    """The scripted model's script: the given one, else the project's; None where there is to be no model."""
    if wanted is False:
        if given:
            raise CommandError("--model-script and --no-model exclude each other", status=USAGE)
        return None
    script = given.resolve() if given else folder / MODEL_SCRIPT
    if script.is_file():
        return script
    if given or wanted:
        raise CommandError(f"there is no script {known_file(script)} for the scripted model", status=USAGE)
    return None


def launch_commands(script: Path | None, addresses: Mapping[str, str]) -> dict[str, list[str]]:
    """How to start each process, in the order of dependency; the scripted model where there is a script."""
    commands: dict[str, list[str]] = {}
    if script:
        model = [sys.executable, "-m", "retinue_cli", "dev", "model", "--json"]
        commands["model"] = [*model, "--script", str(script), "--address", addresses["model"]]
    return commands | {service.name: service.command for service in SERVICES}


async def wait_all_healthy(addresses: Mapping[str, str], access: "Access") -> None:
    """Wait until all services answer. Raises RetinueError where one does not."""
    from retinue.errors import RetinueError
    from retinue_cli.suite.health import wait_healthy

    try:
        async with asyncio.TaskGroup() as checks:
            for service in SERVICES:
                where = addresses[service.name]
                checks.create_task(wait_healthy(service.name, where, access, timeout_s=_HEALTHY_WITHIN_S))
    except* RetinueError as errors:
        raise errors.exceptions[0] from None
