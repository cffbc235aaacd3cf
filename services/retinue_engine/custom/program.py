"""What is started for a custom workflow, and what the operator's lists say of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from retinue_kit.allowed import Allowed, Place
from retinue_kit.secrets import resolve_secret

_KIND = "custom_workflow"


@dataclass(frozen=True, slots=True)
class Launch:
    """What a worker is started with: its secrets are filled in."""

    workflow: str
    entry_point: str
    folder: str
    command: str
    args: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Program:
    """A class in Python, or a program that speaks the worker protocol."""

    workflow: str
    """The component's name."""
    entry_point: str = ""
    """`module:Class`; empty where a command is started."""
    folder: str = ""
    """Where the code lies; empty: beside the engine."""
    command: str = ""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Its values may hold secret references."""
    by_api: bool = False
    """Whether it came by API, and not from a file."""

    def launch(self, allowed: Allowed) -> Launch:
        """What to start now. Raises SecretNotFoundError, ComponentNotAllowedError."""
        if self.by_api:
            self._check(allowed)
        env = {
            name: resolve_secret(text, field=f"custom_workflows.{self.workflow}.env.{name}")
            for name, text in self.env.items()
        }
        return Launch(self.workflow, self.entry_point, self.folder, self.command, self.args, env)

    def _check(self, allowed: Allowed) -> None:
        for name, text in self.env.items():
            allowed.check_secret(Place(_KIND, self.workflow, f"env.{name}"), text)
        if self.folder:
            allowed.check_file(Place(_KIND, self.workflow, "folder"), self.folder)
        if self.command:
            allowed.check_command(Place(_KIND, self.workflow, "command"), self.command, self.env)
        else:
            module = self.entry_point.partition(":")[0]
            allowed.check_module(Place(_KIND, self.workflow, "entry_point"), module, self.env)
