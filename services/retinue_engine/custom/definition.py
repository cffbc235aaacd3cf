"""What a custom workflow's run runs, resolved."""

from dataclasses import dataclass

from retinue_engine.custom.program import Program
from retinue_engine.definition import Server
from retinue_engine.workflow.definition import RunAction, WorkflowDefinition

NO_PROGRAM = Program("")


@dataclass(frozen=True, slots=True)
class CustomDefinition(WorkflowDefinition):
    """A custom workflow with all that its code may use. It has no steps that the engine knows."""

    program: Program = NO_PROGRAM
    runs: tuple[RunAction, ...] = ()
    """The agents and workflows that it may run."""
    servers: tuple[Server, ...] = ()
    """The MCP servers whose tools it may call."""
