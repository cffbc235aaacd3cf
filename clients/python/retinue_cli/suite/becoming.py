"""Turning this process into a service's, for a project."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from retinue_cli.project import find_project, state_folder
from retinue_cli.suite.services import Service, service_environment


def become_service(
    service: Service, arguments: Sequence[str], project: Path | None, **variables: str | Path | None
) -> None:
    """Become the service's process, with further variables: no process of the CLI stays in between."""
    service.check_installed()
    folder = project.resolve() if project else find_project()
    if folder:
        # The data that `retinue up` uses for this project.
        inherited = os.environ.get("RETINUE_DATA_DIR")
        variables["RETINUE_DATA_DIR"] = variables.get("RETINUE_DATA_DIR") or inherited or state_folder(folder)
    environment = service_environment(RETINUE_PROJECT=folder, **variables)
    sys.stdout.flush()
    os.execve(service.command[0], [*service.command, *arguments], environment)  # noqa: S606 - becoming it is the point
