"""`init`: a project that runs, without a key and without a network."""

import shlex
import shutil
import sys
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from retinue_cli.call import Call, calling, known_file
from retinue_cli.failures import CommandError
from retinue_cli.project import ANCHOR, MODEL_SCRIPT

_FILES = (ANCHOR, MODEL_SCRIPT)
_TIME_SERVER = "mcp-server-time"


@calling
def init(
    call: Call,
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where; made if it is not there.")] = Path(),
) -> None:
    """Make a project that runs without a key and without a network.

    It has an agent with its model and tools in retinue.yaml, and a script that plays the model in model.yaml.
    """
    taken = [name for name in _FILES if (folder / name).exists()]
    if taken:
        raise CommandError(
            f"{known_file(folder / taken[0])} is there already and stays as it is: choose another folder"
        )
    if folder.exists() and not folder.is_dir():
        raise CommandError(f"{folder} is a file: name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    templates = files("retinue_cli") / "templates"
    for name in _FILES:
        # `x`: what somebody made in the meantime stays too.
        with (folder / name).open("x", encoding="utf-8") as file:
            file.write((templates / name).read_text("utf-8"))
    output = call.output
    here = folder.resolve() == Path.cwd()
    missing = _missing_programs()
    if output.as_json:
        output.object({"project": str(folder.resolve()), "files": list(_FILES), "missing_programs": missing})
        return
    output.parts(
        ("✓ ", "green"), (f"made {' and '.join(str(known_file(folder / name)) for name in _FILES)}", "")
    )
    for program in missing:
        output.parts(("! ", "yellow"), (f"the agent's tools need {program}: `pip install {program}`", ""))
    output.line()
    output.line("Next:")
    if not here:
        output.line(f"  cd {shlex.quote(str(folder))}", style="bold")
    output.line("  retinue up", style="bold")
    output.line("and in another terminal:")
    output.line('  retinue run assistant "What time is it in Tokyo?"', style="bold")


def _missing_programs() -> list[str]:
    beside = shutil.which(_TIME_SERVER, path=str(Path(sys.executable).parent))
    return [] if beside or shutil.which(_TIME_SERVER) else [_TIME_SERVER]
