"""`export`: what the registry has, as a file that `apply` takes again."""

import contextlib
import json
import os
from pathlib import Path
from typing import Annotated

import typer

from retinue_cli.call import Call, calling, taking
from retinue_cli.kinds import kind_number
from retinue_cli.which_options import Which, which_options
from retinue_cli.wording import count

_MOST_FILE_BYTES = 4 * 1024 * 1024
"""The registry reads no larger one."""


@calling
@taking("which", which_options)
async def export(
    call: Call,
    *,
    kind: Annotated[str, typer.Option("--kind", metavar="KIND", help="Only this kind: `agent`.")] = "",
    which: Which,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Where to; stdout where it is not set.")
    ] = None,
) -> None:
    """Write components as one file of a project: YAML, or JSON with --json and for a FILE.json.

    To apply it again changes nothing. Secrets are what they are in the registry: references.
    """
    from retinue_cli.file_form import file_form, to_yaml, write_file_form

    number = kind_number(kind)
    async with call.open_client() as client:
        found = [component async for component in client.components.list(number, **which._asdict())]
    form = file_form(found)
    output = call.output
    as_json = out.suffix == ".json" if out else output.as_json
    text = json.dumps(form, ensure_ascii=False, indent=2) + "\n" if as_json else to_yaml(form)
    if len(text.encode()) > _MOST_FILE_BYTES:
        output.note(
            "a file of a project has at most 4 MiB, and this is more: --kind and --name make parts of it"
        )
    if out is None:
        write_file_form(output, text)
        return
    draft = out.with_name(f"{out.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(out)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
    if output.as_json:
        output.object({"file": str(out), "components": len(found)})
    else:
        output.parts(("✓ ", "green"), (f"wrote {count(len(found), 'component')} to {out}", ""))
