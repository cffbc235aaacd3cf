"""`graph` draws a workflow, or how far a run of it came."""

from typing import TYPE_CHECKING, Annotated

import typer

from retinue_cli.call import Call, calling
from retinue_cli.failures import USAGE, CommandError
from retinue_cli.mermaid import Drawn, draw

if TYPE_CHECKING:
    from retinue.client import Client
    from retinue.registry.v1 import component_pb2

_STATES = ("step_started", "step_skipped", "step_completed", "step_failed")
_CALLS = ("call_started", "call_completed", "call_failed")


@calling
async def graph(
    call: Call,
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="The workflow to draw.", show_default=False)
    ] = "",
    *,
    run: Annotated[
        str, typer.Option("--run", metavar="RUN", help="Draw this run's, coloured by what happened.")
    ] = "",
) -> None:
    """Draw a workflow as a Mermaid flowchart."""
    if bool(name) == bool(run):
        raise CommandError("name a workflow, or a run of one with --run", status=USAGE)
    async with call.open_client() as client:
        component, steps = await (_of_run(client, run) if run else _of_name(client, name))
    kind = component.WhichOneof("spec")
    if kind not in ("linear_workflow", "graph_workflow", "custom_workflow"):
        raise CommandError(f"{component.name} is no workflow: it is of the kind {kind}", status=USAGE)
    picture = draw(component, steps)
    if call.output.as_json:
        states = {name: step.state for name, step in (steps or {}).items()}
        call.output.object({"mermaid": picture, "steps": states})
    else:
        call.output.raw(picture)


async def _of_name(client: "Client", name: str) -> tuple["component_pb2.Component", None]:
    from retinue.registry.v1 import component_pb2

    resolved = await client.components.resolve(component_pb2.COMPONENT_KIND_UNSPECIFIED, name)
    return resolved.component, None


async def _of_run(client: "Client", run_id: str) -> tuple["component_pb2.Component", dict[str, Drawn]]:
    run = await client.runs.get(run_id)
    target = run.target
    component = await client.components.get(target.kind, target.name, version=target.version)
    steps: dict[str, Drawn] = {}
    calls: dict[str, Drawn] = {}
    async for event in client.runs.events(run_id, event_types=(*_STATES, *_CALLS)):
        if event.run_id == run_id:
            which = event.WhichOneof("event") or ""
            what, _, state = which.partition("_")
            said = getattr(event, which)
            found, name = (steps, said.step) if what == "step" else (calls, said.key)
            begun = found[name].begun if name in found else event.sequence
            found[name] = Drawn(state, begun, event.sequence if state != "started" else None)
    # Where code is made of steps its calls are theirs.
    return component, steps or calls
