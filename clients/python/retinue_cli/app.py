"""The `retinue` command: its commands and the options that come before them."""

from typing import Annotated

import typer

from retinue_cli.call import Call, Engine, Json, McpHost, Namespace, Registry, Token
from retinue_cli.commands import (
    about,
    apply,
    call_tool,
    chat,
    config,
    control,
    dev,
    doctor,
    export,
    graph,
    history,
    init,
    inputs,
    login,
    logs,
    memory,
    prompts,
    report,
    resources,
    run,
    schema,
    serve,
    servers,
    session,
    shadowed,
    show,
    store,
    test,
    tools,
    up,
    versions,
)

app = typer.Typer(
    name="retinue",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"retinue {version('retinue')}")
        raise typer.Exit


@app.callback()
def options(
    ctx: typer.Context,
    *,
    engine: Engine = None,
    registry: Registry = None,
    mcp_host: McpHost = None,
    namespace: Namespace = None,
    token: Token = None,
    as_json: Json = False,
    version: Annotated[  # noqa: ARG001 - acts by its callback
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and end."),
    ] = False,
) -> None:
    """Run LLM agents through the services of Retinue, and look after those.

    `retinue init` makes a project, `retinue up` starts the services, `retinue run` runs an agent.
    """
    ctx.obj = Call(
        engine=engine,
        registry=registry,
        mcp_host=mcp_host,
        namespace=namespace,
        token=token,
        as_json=as_json,
    )


_USE, _LOOK, _CONFIGURE, _SERVE = "Run agents", "Look", "Configure", "Services"

app.command(rich_help_panel=_USE)(run.run)
app.command(rich_help_panel=_USE)(chat.chat)
app.command(rich_help_panel=_USE)(run.watch)
app.command(rich_help_panel=_USE)(run.cancel)
app.command(rich_help_panel=_USE)(control.pause)
app.command(rich_help_panel=_USE)(control.resume)
app.command(rich_help_panel=_USE)(control.retry)
app.command(rich_help_panel=_USE)(inputs.inputs)
app.command(rich_help_panel=_USE)(inputs.approve)
app.command(rich_help_panel=_USE)(inputs.deny)
app.command(rich_help_panel=_USE)(inputs.answer)
app.command("test", rich_help_panel=_USE)(test.run_file)
app.command(rich_help_panel=_LOOK)(history.runs)
app.command(rich_help_panel=_LOOK)(show.show)
app.command(rich_help_panel=_LOOK)(history.sessions)
app.add_typer(session.app, name="session", rich_help_panel=_LOOK)
app.add_typer(memory.app, name="memory", rich_help_panel=_LOOK)
app.command(rich_help_panel=_LOOK)(graph.graph)
app.command(rich_help_panel=_LOOK)(report.report)
app.command(rich_help_panel=_LOOK)(report.trace)
app.command(rich_help_panel=_LOOK)(tools.tools)
app.command("call", rich_help_panel=_LOOK)(call_tool.call_tool)
app.command(rich_help_panel=_LOOK)(resources.resources)
app.command(rich_help_panel=_LOOK)(prompts.prompts)
app.command(rich_help_panel=_LOOK)(servers.servers)
app.command(rich_help_panel=_LOOK)(logs.logs)
app.command(rich_help_panel=_LOOK)(servers.restart)
app.command(rich_help_panel=_USE)(login.login)
app.command(rich_help_panel=_USE)(login.logout)
app.command(rich_help_panel=_LOOK)(doctor.doctor)
app.command(rich_help_panel=_CONFIGURE)(init.init)
app.command(rich_help_panel=_CONFIGURE)(config.get)
app.command(rich_help_panel=_CONFIGURE)(apply.apply)
app.command(rich_help_panel=_CONFIGURE)(apply.diff)
app.command(rich_help_panel=_CONFIGURE)(export.export)
app.command(rich_help_panel=_CONFIGURE)(versions.history)
app.command(rich_help_panel=_CONFIGURE)(versions.rollback)
app.command(rich_help_panel=_CONFIGURE)(versions.delete)
app.command(rich_help_panel=_CONFIGURE)(config.problems)
app.command(rich_help_panel=_CONFIGURE)(shadowed.shadowed)
app.command(rich_help_panel=_CONFIGURE)(config.validate)
app.command(rich_help_panel=_CONFIGURE)(schema.schema)
app.command(rich_help_panel=_SERVE)(up.up)
app.add_typer(serve.app, name="serve", rich_help_panel=_SERVE)
app.add_typer(store.app, name="store", rich_help_panel=_SERVE)
app.add_typer(dev.app, name="dev", rich_help_panel=_SERVE)
app.command(rich_help_panel=_SERVE)(about.protos)
app.command("version", rich_help_panel=_SERVE)(about.show_version)
