"""`up`: all services on this machine, a process each, until Ctrl-C."""

import asyncio
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from retinue_cli.call import Call, calling, known_file
from retinue_cli.failures import INTERRUPTED, CommandError
from retinue_cli.kinds import file_place
from retinue_cli.output import LastingOutput
from retinue_cli.project import (
    ANCHOR,
    MODEL_SCRIPT,
    RunningSuite,
    logs_folder,
    make_state_folder,
    project_folder,
    read_suite,
    remove_suite,
    state_folder,
    write_suite,
)
from retinue_cli.suite.announcing import UpAnnouncer, follow_logs
from retinue_cli.suite.launching import find_script, launch_commands, wait_all_healthy
from retinue_cli.suite.ports import choose_addresses
from retinue_cli.suite.process import Launch, ServiceProcess
from retinue_cli.suite.services import SERVICES, given_or, service_environment
from retinue_cli.suite.supervisor import Supervisor

MODEL_ADDRESS = "127.0.0.1:7410"
_ASK_TIMEOUT_S = 5.0
_FIRST = (
    ("COMPONENT_KIND_CUSTOM_WORKFLOW", "MESSAGE"),
    ("COMPONENT_KIND_GRAPH_WORKFLOW", "MESSAGE"),
    ("COMPONENT_KIND_LINEAR_WORKFLOW", "MESSAGE"),
    ("COMPONENT_KIND_AGENT", "What time is it in Tokyo?"),
)
"""What is proposed to be run, the first kind of which there is one; who has workflows begins with those."""


@calling
def up(
    call: Call,
    *,
    project: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help=f"The project; else the nearest folder upward with {ANCHOR}."),
    ] = None,
    model_script: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help=f"Script of the scripted model; else the project's {MODEL_SCRIPT}."
        ),
    ] = None,
    model: Annotated[
        bool | None, typer.Option("--model/--no-model", help="Whether to start the scripted model.")
    ] = None,
    model_address: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where the scripted model listens.")
    ] = MODEL_ADDRESS,
    store: Annotated[
        str | None,
        typer.Option(metavar="STORE", help="The engine's store: `sqlite` or a mongodb:// address."),
    ] = None,
    free_ports: Annotated[
        bool,
        typer.Option("--free-ports", help="Let free ports be chosen: for a second suite on this machine."),
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the services' logs.")] = False,
) -> None:
    """Start all services on this machine, until Ctrl-C.

    --registry, --mcp-host and --engine say where they listen; port 0 takes a free one. A service that dies is
    started again.
    """
    folder = project_folder(project)
    running = read_suite(folder)
    if running:
        raise CommandError(f"`retinue up` runs in {folder} already (process {running.pid}): stop it first")
    for service in SERVICES:
        service.check_installed()
    script = find_script(folder, model_script, wanted=model)
    addresses, metrics = _addresses(call, model_address if script else None, free=free_ports)
    environment = _environment(call, folder, addresses, metrics, store=store, verbose=verbose)
    services = [
        ServiceProcess(Launch(name, command, environment, _fresh_log(folder, name)))
        for name, command in launch_commands(script, addresses).items()
    ]
    asyncio.run(_up(call, folder, services, script, addresses, verbose=verbose))


async def _up(
    call: Call,
    folder: Path,
    services: list[ServiceProcess],
    script: Path | None,
    addresses: Mapping[str, str],
    *,
    verbose: bool,
) -> None:
    announcer = UpAnnouncer(LastingOutput(as_json=call.as_json))
    supervisor = Supervisor(services, announcer)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, supervisor.stop)
    began = time.monotonic()
    announcer.starting(folder, [service.name for service in services])

    async def on_ready() -> None:
        where = {service.name: service.address for service in services}
        pids = {service.name: service.pid or 0 for service in services}
        await wait_all_healthy(addresses, call.access)
        suite = RunningSuite(
            os.getpid(), addresses["registry"], addresses["mcp-host"], addresses["engine"], where.get("model")
        )
        write_suite(folder, suite)
        took_s = time.monotonic() - began
        logs = known_file(logs_folder(folder))
        announcer.ready(where, pids, took_s, script=known_file(script) if script else None, logs=logs)
        await _first_look(call, addresses, announcer)

    logs = asyncio.create_task(follow_logs(services, announcer)) if verbose else None
    try:
        await supervisor.run(on_ready)
    finally:
        remove_suite(folder)
        if logs is not None:
            logs.cancel()
            await asyncio.wait([logs])
    if supervisor.forced:
        raise typer.Exit(INTERRUPTED)


async def _first_look(call: Call, addresses: Mapping[str, str], announcer: UpAnnouncer) -> None:
    """Say what is wrong in the project's files, and what to type next."""
    from retinue.client import open_client
    from retinue.errors import RetinueError
    from retinue.registry.v1 import component_pb2

    first = ""
    try:
        async with asyncio.timeout(_ASK_TIMEOUT_S):
            async with open_client(registry=addresses["registry"], access=call.access) as client:
                problems = [
                    ": ".join(filter(None, (file_place(each), each.field, each.message)))
                    async for each in client.components.problems()
                ]
                for kind, message in _FIRST:
                    listed = client.components.list(component_pb2.ComponentKind.Value(kind), page_size=1)
                    if names := [each.name async for each in listed]:
                        first = f'{names[0]} "{message}"'
                        break
    except (RetinueError, TimeoutError) as error:
        problems = [f"the registry does not answer: {error}"]
    if problems:
        announcer.problems(problems)
    if first:
        announcer.next_step(f"retinue run {first}")
    else:
        announcer.next_step("retinue validate")


def _addresses(call: Call, model: str | None, *, free: bool) -> tuple[dict[str, str], dict[str, str]]:
    """The addresses to listen on by service, and those of their metrics, port 0 replaced."""
    given = {"registry": call.registry, "mcp-host": call.mcp_host, "engine": call.engine}
    wanted: dict[str, str] = {}
    for service in SERVICES:
        default = "127.0.0.1:0" if free else service.address
        address = given[service.name] or given_or(os.environ, service.address_variable, default)
        # A second suite that takes free ports must not stumble over the first one's metrics.
        metrics = "127.0.0.1:0" if address.endswith(":0") else service.metrics_address
        wanted[service.option] = address
        wanted[service.metrics_variable] = os.environ.get(service.metrics_variable, metrics)
    if model:
        wanted["--model-address"] = model
    chosen = choose_addresses({option: address for option, address in wanted.items() if address})
    addresses = {service.name: chosen[service.option] for service in SERVICES}
    if model:
        addresses["model"] = chosen["--model-address"]
    return addresses, {
        service.metrics_variable: chosen.get(service.metrics_variable, "") for service in SERVICES
    }


def _environment(
    call: Call,
    folder: Path,
    addresses: Mapping[str, str],
    metrics: Mapping[str, str],
    *,
    store: str | None,
    verbose: bool,
) -> dict[str, str]:
    listen = {service.address_variable: addresses[service.name] for service in SERVICES}
    data = given_or(os.environ, "RETINUE_DATA_DIR", str(state_folder(folder)))
    return service_environment(
        RETINUE_PROJECT=folder,
        RETINUE_DATA_DIR=data,
        # Nobody wants to log in again after each start; set and empty, logins last as long as the host.
        RETINUE_LOGINS_FILE=os.environ.get("RETINUE_LOGINS_FILE", str(Path(data, "logins.json"))),
        RETINUE_TOKEN=call.token,
        RETINUE_STORE=store,
        RETINUE_LOG_FORMAT=given_or(os.environ, "RETINUE_LOG_FORMAT", "text" if verbose else "json"),
        **listen,
        **metrics,
    )


def _fresh_log(folder: Path, name: str) -> Path:
    """The path of a service's log; the one of the last time is kept beside it as `.log.1`."""
    make_state_folder(folder)
    path = logs_folder(folder) / f"{name}.log"
    path.parent.mkdir(exist_ok=True)
    if path.exists():
        path.replace(path.with_suffix(".log.1"))
    return path
