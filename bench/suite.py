"""What is compared under load: Retinue and the floor, over one fake model."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from bench.processes import Process, children_of, cores, started
from bench.services import open_retinue, tool_server_arguments


@dataclass(frozen=True)
class System:
    """One system under load."""

    name: str
    address: str
    """Where it serves RunService."""
    processes: tuple[Process, ...]
    """Its own processes, which are what is compared."""
    around: tuple[Process, ...] = ()
    """Others of it, that have no part in a run."""

    def tool_servers(self) -> list[int]:
        """The tool servers that it has started."""
        return [child for process in self.processes for child in children_of(process.pid)]


@dataclass(frozen=True)
class Suite:
    """All that runs during a measurement."""

    floor: System
    retinue: System
    model: Process
    model_url: str
    pinned: bool
    """Whether what is measured has a core of its own."""


@contextmanager
def open_suite(
    *, litellm: bool = False, engine_environment: Mapping[str, str] | None = None
) -> Iterator[Suite]:
    """Start the fake model, the floor and Retinue; leaving ends them. With `litellm` both ask by it."""
    transport = "litellm" if litellm else "direct"
    with open_retinue(transport=transport, engine_environment=engine_environment) as retinue:
        floor_arguments = ["-m", "bench.floor", "--model", retinue.model_url, "--transport", transport, "--"]
        floor_arguments += tool_server_arguments(retinue.rest)
        with started("floor", floor_arguments, core=retinue.measured) as floor:
            floor.read_first_line()
            yield Suite(
                floor=System("floor", f"127.0.0.1:{int(floor.first_line)}", (floor,)),
                retinue=System(
                    "retinue",
                    retinue.engine.address,
                    (retinue.engine.process, retinue.host),
                    around=(retinue.registry,),
                ),
                model=retinue.model,
                model_url=retinue.model_url,
                pinned=cores() is not None,
            )
