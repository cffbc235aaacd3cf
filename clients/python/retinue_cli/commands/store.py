"""`store migrate`, `check` and `prune`: looks after the engine's store, without its engine."""

from pathlib import Path
from typing import Annotated

import typer

from retinue_cli.call import Call, Json
from retinue_cli.suite.becoming import become_service
from retinue_cli.suite.services import ENGINE

app = typer.Typer(no_args_is_help=True, help="Look after the engine's store.")

Store = Annotated[
    str | None,
    typer.Option(
        metavar="STORE",
        help="`sqlite`, `sqlite:PATH` or a mongodb:// address (RETINUE_STORE).",
    ),
]
Project = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="The project; else the nearest folder upward with retinue.yaml."),
]
DataDir = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Where the SQLite file lies (RETINUE_DATA_DIR), else in the project."),
]


@app.command()
def migrate(
    ctx: typer.Context,
    *,
    store: Store = None,
    project: Project = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Bring a store of an older version to this one. An engine does the same when it starts.

    Stop all engines of the older version first.
    """
    _look_after(ctx, ["--store-migrate"], store, project, data_dir, as_json=as_json)


@app.command()
def check(
    ctx: typer.Context,
    *,
    store: Store = None,
    project: Project = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Look for what does not fit together in a store; engines may be at work.

    Exit status 1 where it finds any.
    """
    _look_after(ctx, ["--store-check"], store, project, data_dir, as_json=as_json)


@app.command()
def prune(
    ctx: typer.Context,
    *,
    days: Annotated[
        float | None,
        typer.Option(min=0.001, metavar="N", help="Delete sessions that were not used for so many days."),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Keep so many sessions of each namespace, those that were used last."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would be deleted, and delete nothing.")
    ] = False,
    store: Store = None,
    project: Project = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Delete old sessions with their runs, for good; one in use is left alone.

    Without --days and --keep RETINUE_RETAIN_DAYS and RETINUE_RETAIN_SESSIONS count; an engine that has these
    prunes by itself.
    """
    arguments = ["--store-prune", *(["--dry-run"] if dry_run else [])]
    arguments += ["--days", str(days)] if days is not None else []
    arguments += ["--keep", str(keep)] if keep is not None else []
    _look_after(ctx, arguments, store, project, data_dir, as_json=as_json)


def _look_after(
    ctx: typer.Context,
    arguments: list[str],
    store: str | None,
    project: Path | None,
    data_dir: Path | None,
    *,
    as_json: bool,
) -> None:
    before = ctx.find_root().obj or Call()
    as_json = as_json or before.as_json
    become_service(
        ENGINE,
        [*arguments, *(["--json"] if as_json else [])],
        project,
        RETINUE_STORE=store,
        RETINUE_DATA_DIR=data_dir,
    )
