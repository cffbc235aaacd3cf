"""Looks at the project, the services and their stores."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from retinue.errors import RetinueError, ServiceUnavailableError, UnauthenticatedError
from retinue_cli.call import Addresses
from retinue_cli.doctor.finding import Finding, ok, problem, warning
from retinue_cli.failures import words
from retinue_cli.kinds import file_place
from retinue_cli.project import ANCHOR, read_suite
from retinue_cli.suite.health import check_health

if TYPE_CHECKING:
    from retinue.client import Access, Client

_START = "start it with `retinue up`, or say where it is: --{name}, RETINUE_{variable}_ADDRESS"


def look_at_project(project: Path | None) -> Finding:
    """Whether there is one, and whether `retinue up` runs for it."""
    if project is None:
        return warning(
            "project",
            "project",
            f"there is no {ANCHOR} here or above",
            "go to the project's folder, or make one: `retinue init`",
        )
    suite = read_suite(project)
    runs = f"`retinue up` runs for it (process {suite.pid})" if suite else "`retinue up` does not run for it"
    return ok("project", "project", f"{project}; {runs}")


async def look_at_services(addresses: Addresses, access: "Access") -> dict[str, Finding]:
    """Whether each answers its health check, by name."""
    named = {
        "registry": addresses.registry,
        "mcp-host": addresses.mcp_host,
        "engine": addresses.engine,
    }
    found = await asyncio.gather(*(_service(name, address, access) for name, address in named.items()))
    return dict(zip(named, found, strict=True))


async def _service(name: str, address: str, access: "Access") -> Finding:
    try:
        await check_health(name, address, access)
    except ServiceUnavailableError as error:
        state = error.facts.get("state")
        found = f"answers {state} at {address}" if state else f"is not running at {address}"
        todo = _START.format(name=name, variable=name.upper().replace("-", "_"))
        return problem("service", name, found, "see its log" if state else todo)
    except RetinueError as error:
        return problem("service", name, f"{address}: {error}", "look into its log")
    return ok("service", name, f"serves at {address}")


async def look_at_stores(client: "Client", services: dict[str, Finding]) -> list[Finding]:
    """Whether the stores of the registry and the engine can be read, where those run."""
    found: list[Finding] = []
    if not services["registry"].todo:
        found.append(await _store("registry", client))
    if not services["engine"].todo:
        found.append(await _store("engine", client))
    return found


async def _store(name: str, client: "Client") -> Finding:
    try:
        if name == "registry":
            count = len([component async for component in client.components.list()])
            return ok("store", "registry store", f"answers; components: {count}")
        async for _ in client.runs.list(page_size=1):
            break
    except UnauthenticatedError as error:
        return problem("store", f"{name} store", error.message, "export RETINUE_TOKEN here, or give --token")
    except RetinueError as error:
        todo = "see the engine's log and RETINUE_STORE" if name == "engine" else "see the registry's log"
        return problem("store", f"{name} store", words(error), todo)
    return ok("store", "engine store", "answers")


async def look_at_files(client: "Client") -> list[Finding]:
    """What is wrong in the files of all layers, as the registry sees them."""
    try:
        return [
            problem(
                "project",
                file_place(each),
                f"{each.field}: {each.message}" if each.field else each.message,
                "correct the file",
            )
            async for each in client.components.problems()
        ]
    except RetinueError:
        return []  # said already where the stores were looked at
