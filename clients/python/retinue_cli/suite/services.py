"""The services by name: their modules, their environment, what has to be installed for them."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from retinue_cli.call import ENGINE_ADDRESS, MCP_HOST_ADDRESS, REGISTRY_ADDRESS
from retinue_cli.failures import CommandError


@dataclass(frozen=True, slots=True)
class Service:
    """One of the three services."""

    name: str
    module: str
    address: str
    """Where it listens unless told otherwise."""
    metrics_address: str
    needs: str
    """A module that only its extra brings."""

    @property
    def address_variable(self) -> str:
        return f"RETINUE_{self.name.upper().replace('-', '_')}_ADDRESS"

    @property
    def metrics_variable(self) -> str:
        return f"RETINUE_{self.name.upper().replace('-', '_')}_METRICS_ADDRESS"

    @property
    def option(self) -> str:
        return f"--{self.name}"

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", self.module]

    def check_installed(self) -> None:
        """Raise CommandError where the service's extra is not installed."""
        if find_spec(self.module) is None or find_spec(self.needs) is None:
            raise CommandError(
                f"the {self.name} is not installed here: `pip install 'retinue[{self.name}]'`, or "
                "`pip install 'retinue[all]'` for all services"
            )


REGISTRY = Service("registry", "retinue_registry", REGISTRY_ADDRESS, "127.0.0.1:7411", "structlog")
MCP_HOST = Service("mcp-host", "retinue_mcp_host", MCP_HOST_ADDRESS, "127.0.0.1:7412", "mcp")
ENGINE = Service("engine", "retinue_engine", ENGINE_ADDRESS, "127.0.0.1:7413", "litellm")

SERVICES = (REGISTRY, MCP_HOST, ENGINE)
"""In the order in which they depend on each other: they are stopped in the reverse of it."""


def service_environment(**values: str | Path | None) -> dict[str, str]:
    """This process's environment with further variables, and PATH so that programs beside Python are found.

    An MCP server that is installed next to Retinue is then found also where the virtual environment is not
    activated. A value of None leaves the variable as it is.
    """
    environment = dict(os.environ)
    # gRPC's fork handlers start threads in a child before it becomes another program; some crash there.
    environment.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    environment.update({name: str(value) for name, value in values.items() if value is not None})
    here = str(Path(sys.executable).parent)
    folders = environment.get("PATH", os.defpath).split(os.pathsep)
    if here not in folders:
        environment["PATH"] = os.pathsep.join([here, *folders])
    return environment


def given_or(environment: Mapping[str, str], name: str, default: str) -> str:
    """A variable's value; the default where it is not set or empty."""
    return environment.get(name) or default
