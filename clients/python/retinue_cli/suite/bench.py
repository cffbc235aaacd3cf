"""Services for tests alone, on free ports, where a script plays every model."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from retinue_cli.call import known_file
from retinue_cli.failures import CommandError
from retinue_cli.kinds import file_place
from retinue_cli.output import Output
from retinue_cli.suite.announcing import SilentAnnouncer
from retinue_cli.suite.launching import launch_commands, wait_all_healthy
from retinue_cli.suite.ports import choose_addresses
from retinue_cli.suite.process import Launch, ServiceProcess
from retinue_cli.suite.services import SERVICES, service_environment
from retinue_cli.suite.supervisor import Supervisor

if TYPE_CHECKING:
    from retinue.client import Components


class Bench:
    """Services of one command, with nothing stored; what works with them finds them by `environment`."""

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
        self.environment = plain | where | {"RETINUE_PROJECT": str(folder)}
        of_services = self.environment | {service.metrics_variable: "" for service in SERVICES}
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

    @property
    def path(self) -> str:
        """Where programs are looked for."""
        return self._path

    @property
    def stopped_by(self) -> signal.Signals | None:
        """The signal that ended it; None where none did."""
        return self._stopped_by

    async def run(self, work: Callable[[], Awaitable[int]]) -> int:
        """Start the services, do the work and stop them; what it gave, 1 where it did not come to that."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop, number)

        async def on_ready() -> None:
            await self._prepare()
            self._status = await work()
            self._supervisor.stop()

        await self._supervisor.run(on_ready)
        return self._status

    def _stop(self, number: signal.Signals) -> None:
        self._stopped_by = number
        self._supervisor.stop()

    async def _prepare(self) -> None:
        """Let the script play the models, and tell where it is."""
        from retinue.client import Access, open_client

        await wait_all_healthy(self._addresses, Access())
        base_url = next(service.address for service in self._services if service.name == "model")
        self.environment["RETINUE_MODEL_URL"] = base_url
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
