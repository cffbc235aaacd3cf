"""What each command has in common: whom it calls, and how it answers."""

import asyncio
import functools
import inspect
import os
import shlex
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec, TypeVar

import typer

from retinue_cli.output import Output
from retinue_cli.project import find_project, read_suite

if TYPE_CHECKING:
    from retinue.client import Access, Client

P = ParamSpec("P")
Result = TypeVar("Result")

_PANEL = "Services"

REGISTRY_ADDRESS = "127.0.0.1:7401"
MCP_HOST_ADDRESS = "127.0.0.1:7402"
ENGINE_ADDRESS = "127.0.0.1:7403"

Engine = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        rich_help_panel=_PANEL,
        help="The engine (RETINUE_ENGINE_ADDRESS).",
    ),
]
Registry = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        rich_help_panel=_PANEL,
        help="The registry (RETINUE_REGISTRY_ADDRESS).",
    ),
]
McpHost = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        rich_help_panel=_PANEL,
        help="The MCP host (RETINUE_MCP_HOST_ADDRESS).",
    ),
]
Namespace = Annotated[
    str | None,
    typer.Option(metavar="NAME", rich_help_panel=_PANEL, help="The namespace, else `default`."),
]
Token = Annotated[
    str | None,
    typer.Option(
        metavar="TOKEN",
        rich_help_panel=_PANEL,
        help="The bearer token (RETINUE_TOKEN, which no process list shows).",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON: one object, or one a line where it streams.")]


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the three services are, `host:port`."""

    registry: str
    mcp_host: str
    engine: str


@dataclass(frozen=True, slots=True)
class Call:
    """What the options that all commands share say."""

    engine: str | None = None
    registry: str | None = None
    mcp_host: str | None = None
    namespace: str | None = None
    token: str | None = None
    as_json: bool = False

    @property
    def output(self) -> Output:
        """Where the answer goes."""
        return Output(as_json=self.as_json)

    @property
    def access(self) -> "Access":
        """How to be let in: the environment's TLS settings, and the token."""
        from retinue.client import Access

        access = Access.from_environment()
        return replace(access, token=self.token) if self.token else access

    def repeated(self) -> str:
        """The options that a command which is proposed has to repeat to reach the same engine."""
        given = (("--engine", self.engine), ("--namespace", self.namespace))
        return "".join(f" {option} {shlex.quote(value)}" for option, value in given if value)

    def addresses(self) -> Addresses:
        """By option, else by environment, else what runs for the project here, else the default ports."""
        project = find_project()
        running = read_suite(project) if project else None
        given = os.environ.get
        return Addresses(
            registry=self.registry
            or given("RETINUE_REGISTRY_ADDRESS")
            or (running.registry if running else REGISTRY_ADDRESS),
            mcp_host=self.mcp_host
            or given("RETINUE_MCP_HOST_ADDRESS")
            or (running.mcp_host if running else MCP_HOST_ADDRESS),
            engine=self.engine
            or given("RETINUE_ENGINE_ADDRESS")
            or (running.engine if running else ENGINE_ADDRESS),
        )

    @asynccontextmanager
    async def open_client(self) -> "AsyncIterator[Client]":
        """Open a client of the services. Nothing is connected before the first call."""
        from retinue.client import open_client

        where = self.addresses()
        async with open_client(
            where.engine,
            registry=where.registry,
            mcp_host=where.mcp_host,
            namespace=self.namespace or "default",
            access=self.access,
        ) as client:
            yield client


def common_options(
    ctx: typer.Context,
    *,
    engine: Engine = None,
    registry: Registry = None,
    mcp_host: McpHost = None,
    namespace: Namespace = None,
    token: Token = None,
    as_json: Json = False,
) -> Call:
    """The call that the options describe; one given before the command counts where it is not given after."""
    before = ctx.find_root().obj or Call()
    return Call(
        engine=engine or before.engine,
        registry=registry or before.registry,
        mcp_host=mcp_host or before.mcp_host,
        namespace=namespace or before.namespace,
        token=token or before.token,
        as_json=as_json or before.as_json,
    )


_COMMON = list(inspect.signature(common_options).parameters.values())


def calling(
    command: Callable[Concatenate[Call, P], Coroutine[Any, Any, None] | None],
) -> Callable[..., None]:
    """Give a command the options that all share, and run it: `command(call, ...)`, async or not."""
    signature = inspect.signature(command)
    own = list(signature.parameters.values())[1:]
    names = [parameter.name for parameter in _COMMON]

    @functools.wraps(command)
    def run(**values: Any) -> None:
        call = common_options(**{name: values.pop(name) for name in names})
        result = command(call, **values)  # type: ignore[call-arg]
        if inspect.iscoroutine(result):
            asyncio.run(result)

    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in [*own, *_COMMON]]
    run.__signature__ = signature.replace(parameters=parameters, return_annotation=None)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def taking(name: str, make: Callable[..., Any]) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Give a command the options that `make` takes; what it makes of them is the command's `name`."""
    options = list(inspect.signature(make).parameters.values())

    def give(command: Callable[..., Result]) -> Callable[..., Result]:
        signature = inspect.signature(command)
        own = [each for each in signature.parameters.values() if each.name != name]

        @functools.wraps(command)
        def run(call: Call, **values: Any) -> Result:
            made = make(**{option.name: values.pop(option.name) for option in options})
            return command(call, **values, **{name: made})

        parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in [*own[1:], *options]]
        run.__signature__ = signature.replace(parameters=[own[0], *parameters])  # type: ignore[attr-defined]
        return run

    return give


def known_file(path: Path) -> Path:
    """The path as it should be shown: relative where it is below here."""
    try:
        return path.resolve().relative_to(Path.cwd())
    except ValueError:
        return path
