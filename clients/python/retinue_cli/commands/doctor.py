"""`doctor`: looks at all that a run needs, and says what to do about each problem."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from retinue_cli.call import Call, calling
from retinue_cli.failures import FAILED
from retinue_cli.output import Output
from retinue_cli.project import find_project
from retinue_cli.wording import count

if TYPE_CHECKING:
    from retinue_cli.doctor.finding import Finding

_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "problem": ("✗", "red")}
_AREAS = {
    "project": "Project",
    "service": "Services",
    "store": "Stores",
    "llm": "LLMs",
    "mcp_server": "MCP servers",
}


@calling
async def doctor(call: Call) -> None:
    """Look for what is wrong, and say what to do about it.

    It checks services, stores, the project's files, keys and MCP servers.

    Exit status 1 where something is wrong. Engine and MCP host say which keys they lack; where one does not
    run, its keys are looked for in this shell.
    """
    from retinue_cli.doctor.components import look_at_components
    from retinue_cli.doctor.services import (
        look_at_files,
        look_at_project,
        look_at_services,
        look_at_stores,
    )

    services = await look_at_services(call.addresses(), call.access)
    findings = [look_at_project(find_project()), *services.values()]
    async with call.open_client() as client:
        findings += await look_at_stores(client, services)
        if not services["registry"].todo:
            findings += await look_at_files(client)
            findings += await look_at_components(
                client, engine_runs=not services["engine"].todo, host_runs=not services["mcp-host"].todo
            )
    problems = sum(finding.level == "problem" for finding in findings)
    output = call.output
    if output.as_json:
        output.object({"healthy": not problems, "findings": [asdict(finding) for finding in findings]})
    else:
        _show(output, findings, problems)
    if problems:
        raise typer.Exit(FAILED)


def _show(output: Output, findings: "Sequence[Finding]", problems: int) -> None:
    width = max(len(finding.subject) for finding in findings)
    for area, title in _AREAS.items():
        mine = [finding for finding in findings if finding.area == area]
        if mine:
            output.line(title, style="bold")
        for finding in mine:
            mark, style = _MARKS[finding.level]
            output.parts(
                (f"{mark} ", style), (f"{finding.subject:<{width}}  ", ""), (finding.found, ""), indent=2
            )
            if finding.todo:
                output.parts(("→ ", style), (finding.todo, ""), indent=6)
    output.line()
    warnings = sum(finding.level == "warning" for finding in findings)
    also = f", {count(warnings, 'warning')}" if warnings else ""
    if problems:
        output.line(f"{count(problems, 'problem')}{also}.", style="bold red")
    else:
        output.line(f"No problems{also}.", style="bold green")
