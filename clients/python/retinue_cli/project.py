"""A project's folder: how it is found, where its data and logs are, which services run for it now."""

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from retinue_cli.failures import USAGE, CommandError

ANCHOR = "retinue.yaml"
MODEL_SCRIPT = "model.yaml"
STATE_FOLDER = ".retinue"
_SERVICES_FILE = "services.json"


@dataclass(frozen=True, slots=True)
class RunningSuite:
    """What `retinue up` runs for a project."""

    pid: int
    """Of `retinue up` itself."""
    registry: str
    mcp_host: str
    engine: str
    model: str | None = None
    """The scripted model's base URL, where one runs."""


def find_project(start: Path | None = None) -> Path | None:
    """The folder with retinue.yaml: RETINUE_PROJECT, else the nearest from here upward."""
    named = os.environ.get("RETINUE_PROJECT")
    if named and start is None:
        return Path(named).resolve()
    here = (start or Path.cwd()).resolve()
    return next((folder for folder in (here, *here.parents) if (folder / ANCHOR).is_file()), None)


def project_folder(given: Path | None) -> Path:
    """The given folder, which must be a project, else the one found. Raises CommandError."""
    folder = find_project(given) if given else find_project()
    if given and folder != given.resolve():
        raise CommandError(
            f"there is no {ANCHOR} in {given}: `retinue init {given}` makes a project", status=USAGE
        )
    if folder is None or not (folder / ANCHOR).is_file():
        raise CommandError(f"there is no {ANCHOR} here or above: `retinue init` makes a project here")
    return folder


def state_folder(project: Path) -> Path:
    """Where Retinue keeps what it makes for a project: data, logs, the addresses of what runs."""
    return project / STATE_FOLDER


def make_state_folder(project: Path) -> None:
    """Make that folder; git leaves it alone."""
    folder = state_folder(project)
    folder.mkdir(exist_ok=True)
    ignore = folder / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n")


def logs_folder(project: Path) -> Path:
    """Where `retinue up` keeps the services' logs."""
    return state_folder(project) / "logs"


def read_suite(project: Path) -> RunningSuite | None:
    """What runs for a project now; None where nothing does."""
    try:
        data = json.loads((state_folder(project) / _SERVICES_FILE).read_text())
        known = {field.name for field in fields(RunningSuite)}
        suite = RunningSuite(**{name: value for name, value in data.items() if name in known})
        os.kill(suite.pid, 0)
    except PermissionError:
        return suite  # it runs as somebody else
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return suite


def write_suite(project: Path, suite: RunningSuite) -> None:
    """Let the other commands find what runs."""
    path = state_folder(project) / _SERVICES_FILE
    make_state_folder(project)
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(asdict(suite), indent=2) + "\n")
    draft.replace(path)


def remove_suite(project: Path) -> None:
    """Nothing runs any more."""
    (state_folder(project) / _SERVICES_FILE).unlink(missing_ok=True)
