"""`version` and `protos`: what this is, and its protos for other languages."""

import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from retinue_cli.call import Call, calling
from retinue_cli.failures import CommandError

_PARTS = ("grpcio", "protobuf", "mcp", "litellm")


@calling
def show_version(call: Call) -> None:
    """Print the version of Retinue and of what it stands on."""
    output = call.output
    parts = {name: found for name in _PARTS if (found := _version(name))}
    if output.as_json:
        output.object({"retinue": version("retinue"), "python": platform.python_version(), **parts})
        return
    output.line(f"retinue {version('retinue')}")
    below = [f"Python {platform.python_version()}", *(f"{name} {found}" for name, found in parts.items())]
    output.line(", ".join(below), style="dim")


@calling
def protos(
    call: Call,
    *,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where to; made if it is not there.", show_default=False)
    ],
) -> None:
    """Write the .proto files: what a client in any language is generated from."""
    root = _protos_folder()
    written = []
    for source in sorted(root.rglob("*.proto")):
        target = out / source.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
        written.append(str(target))
    output = call.output
    if output.as_json:
        output.object({"files": written})
        return
    output.parts(("✓ ", "green"), (f"wrote {len(written)} files below {out}", ""))
    output.line(
        f"Next, for example: protoc -I {out} --python_out=. $(find {out} -name '*.proto')", style="dim"
    )


def _protos_folder() -> Path:
    """In an installed wheel they are the package's data, in a checkout the `protos` folder."""
    package = Path(str(files("retinue_cli")))
    for folder in (package / "protos", package.parents[2] / "protos"):
        if (folder / "retinue").is_dir():
            return folder
    raise CommandError("this installation has no .proto files: install retinue again from its wheel")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
