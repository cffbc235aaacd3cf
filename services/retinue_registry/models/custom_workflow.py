"""The rules of a custom workflow: what starts it, where its code lies, and what it may use."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator

from retinue_registry.models.agent import Budget
from retinue_registry.models.fields import (
    Broken,
    Duration,
    EnvName,
    Name,
    RefersTo,
    Required,
    Secret,
    SecretText,
    Spec,
    Text,
    once_each,
    optional,
    relative_references,
    secret_in_folder,
)
from retinue_registry.models.json_schema import JsonSchema

_IDENTIFIER = r"[A-Za-z_]\w*"
_ENTRY_POINT = re.compile(rf"{_IDENTIFIER}(\.{_IDENTIFIER})*:{_IDENTIFIER}", re.ASCII)


def _entry_point(text: str) -> str:
    if not _ENTRY_POINT.fullmatch(text):
        raise ValueError(f"{text[:80]!r} names no class: write MODULE:CLASS, as in reports.nightly:Nightly")
    return text


EntryPoint = Annotated[Required, AfterValidator(_entry_point)]
_Names = AfterValidator(once_each)


class CustomWorkflowSpec(Spec):
    """A workflow that is code."""

    description: Text | None = optional("Writes the nightly report.")
    entry_point: EntryPoint | None = optional("reports.nightly:NightlyReport")
    folder: Required | None = optional("workflows")
    command: Required | None = optional("node")
    args: list[Text] | None = optional(["worker.js"])
    env: Annotated[dict[EnvName, SecretText], Secret()] | None = optional({"TOKEN": "${env:TOKEN}"})
    agents: Annotated[list[Name], _Names, RefersTo("agent")] | None = optional(["writer"])
    linear_workflows: Annotated[list[Name], _Names, RefersTo("linear_workflow")] | None = optional(["report"])
    graph_workflows: Annotated[list[Name], _Names, RefersTo("graph_workflow")] | None = optional(["research"])
    custom_workflows: Annotated[list[Name], _Names, RefersTo("custom_workflow")] | None = optional(
        ["nightly"]
    )
    mcp_servers: Annotated[list[Name], _Names, RefersTo("mcp_server")] | None = optional(["time"])
    input_schema: JsonSchema | None = optional({"type": "object", "properties": {"day": {"type": "string"}}})
    timeout: Duration | None = optional("10m")
    budget: Budget | None = optional({"max_turns": 30})
    session_budget: Budget | None = optional({"max_tokens": 500_000})

    @classmethod
    def across(cls, given: Mapping[str, Any]) -> Iterator[Broken]:
        """Yield what is wrong with how it is started."""
        both = "entry_point" in given, "command" in given
        if both == (False, False):
            yield Broken(
                ("entry_point",), "is missing: name a class as MODULE:CLASS, or a program with `command`"
            )
        elif both == (True, True):
            yield Broken(("command",), "takes the place of entry_point: set one of the two")
        if "args" in given and "command" not in given:
            yield Broken(("args",), "are for `command`")

    def without_folder(self) -> Iterator[Broken]:
        """Yield the relative paths of the code and its secrets."""
        if self.folder and not Path(self.folder).is_absolute():
            yield Broken(("folder",), "must be an absolute path where it comes by API")
        if self.command and _is_relative(self.command):
            yield Broken(("command",), "must be a name on PATH or an absolute path where it comes by API")
        for name, value in (self.env or {}).items():
            yield from relative_references(("env", name), value)

    def in_folder(self, folder: Path) -> Self:
        """The same with the paths of its code and its secrets made absolute."""
        changes: dict[str, Any] = {}
        if self.folder:
            changes["folder"] = str(folder / self.folder)
        if self.command and _is_relative(self.command):
            changes["command"] = str(folder / self.command)
        if self.env:
            changes["env"] = {k: secret_in_folder(v, folder) for k, v in self.env.items()}
        return self.model_copy(update=changes)


def _is_relative(command: str) -> bool:
    """Whether a command is a relative path, not a name to be found on PATH."""
    return "/" in command and not Path(command).is_absolute()
