"""`dev test`: runs tests of agents against services of their own, where a script plays every model."""

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retinue_cli.call import known_file
from retinue_cli.failures import USAGE, CommandError
from retinue_cli.kinds import file_place
from retinue_cli.output import Output
from retinue_cli.project import MODEL_SCRIPT, project_folder
from retinue_cli.suite.announcing import SilentAnnouncer
from retinue_cli.suite.launching import find_script, launch_commands, wait_all_healthy
from retinue_cli.suite.ports import choose_addresses
from retinue_cli.suite.process import Launch, ServiceProcess, descendants
from retinue_cli.suite.services import SERVICES, service_environment
from retinue_cli.suite.supervisor import Supervisor

if TYPE_CHECKING:
    from retinue.client import Components

_END_WITHIN_S = 5.0
"""From each word to the tests to end to the next, stronger one."""


def run_tests(
    command: Annotated[
        list[str],
        typer.Argument(metavar="COMMAND...", help="What runs the tests: `pytest -q`.", show_default=False),
    ],
    *,
    project: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The project; else the nearest folder upward with retinue.yaml."),
    ] = None,
    script: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help=f"What the models say; else the project's {MODEL_SCRIPT}."),
    ] = None,
    namespace: Annotated[
        str, typer.Option(metavar="NAME", help="The namespace whose llms the script plays.")
    ] = "default",
    keep: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep the services' data and logs here; else they are deleted."),
    ] = None,
) -> None:
    """Run tests of a project's agents: real services, real tools, and models that say what a script says.

    Services are started on free ports with nothing stored, and the command finds them by its environment
    (RETINUE_ENGINE_ADDRESS and so on; RETINUE_MODEL_URL is the scripted model's). Other RETINUE_ variables of
    this shell do not count. The exit status is that of the command.
    """
    for service in SERVICES:
        service.check_installed()
    folder = project_folder(project)
    played = find_script(folder, script, wanted=True)
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
        if any(keep.iterdir()):
            raise CommandError(f"{keep} is not empty: tests begin with nothing stored")
    with tempfile.TemporaryDirectory(prefix="retinue-test-") as temporary:
        bench = _Bench(folder, played, namespace, (keep or Path(temporary)).resolve())
        status = asyncio.run(bench.run(command))
    raise typer.Exit(status)


class _Bench:
    """The services of one call, and the tests that run against them."""

    def __init__(self, folder: Path, script: Path | None, namespace: str, data: Path) -> None:
        self._namespace = namespace
        self._script = script
        wanted = dict.fromkeys(["model", *(service.name for service in SERVICES)], "127.0.0.1:0")
        self._addresses = choose_addresses(wanted)
        # What is set for other services, say those of production, must not reach these.
        plain = {
            name: value for name, value in service_environment().items() if not name.startswith("RETINUE_")
        }
        self._path = plain["PATH"]
        where = {service.address_variable: self._addresses[service.name] for service in SERVICES}
        self._of_command = plain | where | {"RETINUE_PROJECT": str(folder)}
        of_services = self._of_command | {service.metrics_variable: "" for service in SERVICES}
        of_services["RETINUE_DATA_DIR"] = str(data)
        # The llms are led to the scripted model by API; it listens on this machine.
        of_services["RETINUE_API_HOSTS"] = "127.0.0.1"
        self._services = [
            ServiceProcess(Launch(name, line, of_services, data / f"{name}.log"))
            for name, line in launch_commands(script, self._addresses).items()
        ]
        self._supervisor = Supervisor(self._services, SilentAnnouncer())
        self._status = 1
        self._stopped_by: signal.Signals | None = None

    async def run(self, command: Sequence[str]) -> int:
        """Start the services, run the command and stop them; the command's exit status."""
        if shutil.which(command[0], path=self._path) is None:
            raise CommandError(f"there is no program {command[0]}: name what runs the tests", status=USAGE)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop, number)

        async def on_ready() -> None:
            await self._prepare()
            self._status = await self._run_tests(command)
            self._supervisor.stop()

        await self._supervisor.run(on_ready)
        return self._status

    def _stop(self, number: signal.Signals) -> None:
        self._stopped_by = number
        self._supervisor.stop()

    async def _run_tests(self, command: Sequence[str]) -> int:
        process = await asyncio.create_subprocess_exec(*command, env=self._of_command)
        try:
            status = await process.wait()
        except asyncio.CancelledError:
            await self._end_tests(process)
            raise
        return status if status >= 0 else 128 - status

    async def _end_tests(self, process: asyncio.subprocess.Process) -> None:
        """See that the tests end, and what they started."""
        tree = [process.pid, *descendants(process.pid)]
        if self._stopped_by == signal.SIGINT:
            # Ctrl-C in a terminal has told them, too: they may say how far they came.
            await _ended(process)
        _tell(tree, signal.SIGTERM)
        await _ended(process)
        _tell(tree, signal.SIGKILL)
        await process.wait()

    async def _prepare(self) -> None:
        """Let the script play the models, and tell where it is."""
        from retinue.client import Access, open_client

        await wait_all_healthy(self._addresses, Access())
        base_url = next(service.address for service in self._services if service.name == "model")
        self._of_command["RETINUE_MODEL_URL"] = base_url
        async with open_client(
            registry=self._addresses["registry"], namespace=self._namespace, access=Access()
        ) as client:
            problems = [
                ": ".join(filter(None, (file_place(each), each.field, each.message)))
                async for each in client.components.problems()
            ]
            if problems:
                raise CommandError("\n".join(["the project's files have problems:", *problems]))
            await _play_llms(client.components, base_url)
        if self._script:
            said = f"Every llm of these tests is a script, no real model: {known_file(self._script)}"
            Output(as_json=False).note(said)


async def _play_llms(components: "Components", base_url: str) -> None:
    """Lead every llm to the scripted model. Its model's name, prices and bounds stay."""
    from retinue.registry.v1 import component_pb2, llm_pb2

    llms = [each async for each in components.list(component_pb2.COMPONENT_KIND_LLM)]
    for each in llms:
        each.llm.protocol = llm_pb2.LLM_PROTOCOL_OPENAI_CHAT
        each.llm.transport = llm_pb2.LLM_TRANSPORT_DIRECT
        each.llm.base_url = base_url
        each.llm.ClearField("api_key")
        each.llm.ClearField("headers")
    if llms:
        await components.apply(llms)


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Wait for a process's end, for a while."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_END_WITHIN_S):
            await process.wait()


def _tell(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
