"""What the checker found."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from retinue.engine.v1 import run_pb2


@dataclass
class Report:
    """What was found."""

    violations: list[str] = field(default_factory=list)
    states: Counter[run_pb2.RunState.ValueType] = field(default_factory=Counter)
    takeovers: int = 0
    suspended: int = 0
    children: int = 0
    inputs: int = 0
    discarded: int = 0
    repeated: int = 0
    approved: int = 0
    """Calls that were made again because a person said so."""
    stale: int = 0
    """Requests that an engine made before it heard that it had lost the run."""
    lost: int = 0
    """Requests that told a model of results which died with the engine, before they were stored."""

    def hold(self, what: str, wrong: Iterable[str]) -> None:
        """Add what is wrong with something."""
        self.violations += [f"{what}{each}" for each in wrong]

    def __str__(self) -> str:
        names = {value: name.removeprefix("RUN_STATE_").lower() for name, value in run_pb2.RunState.items()}
        states = ", ".join(f"{count} {names[state]}" for state, count in sorted(self.states.items()))
        return (
            f"{states}, {self.children} children, {self.inputs} inputs, {self.suspended} suspensions, "
            f"{self.takeovers} takeovers, {self.discarded} answers asked again, "
            f"{self.repeated} calls repeated, {self.approved} by a person's word, "
            f"{self.stale} stale requests, {self.lost} with results that were lost"
        )
