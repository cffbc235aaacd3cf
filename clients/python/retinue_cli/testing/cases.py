"""The format of a file of tests, and how it is read."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictStr, model_validator
from typer import BadParameter

from retinue_cli.durations import parse_duration
from retinue_cli.scripted_model.loader import ScriptError, validated

TIMEOUT_S = 60.0
MAX_TESTS = 1000


def _is_pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return text


def _is_span(text: str) -> str:
    try:
        parse_duration(text)
    except BadParameter as error:
        raise ValueError(error.message) from None
    return text


Texts = StrictStr | list[StrictStr]
StepEnd = Literal["completed", "skipped", "failed", "open", "absent"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Expectations(_Part):
    """What must hold of a run that has ended; all of it."""

    state: Literal["succeeded", "failed", "cancelled"] = "succeeded"
    error: StrictStr | None = None
    """The reason, `ROUTE_UNKNOWN`."""
    error_contains: Texts | None = None
    output: StrictStr | None = None
    output_contains: Texts | None = None
    output_matches: Annotated[StrictStr, AfterValidator(_is_pattern)] | None = None
    structured: Any = None
    """The whole structured answer."""
    steps: dict[str, StepEnd] = Field(default_factory=dict)
    outputs: dict[str, Any] = Field(default_factory=dict)
    """Of steps."""
    routes: dict[str, StrictStr] = Field(default_factory=dict)
    """The route that each router took."""
    tools: list[StrictStr] | None = None
    """`SERVER/TOOL`, in the order of the calls."""
    asked: list[StrictStr] | None = None
    """What each question to a person has in it, or each tool that was to be approved, in order."""
    max_turns: Annotated[int, Field(strict=True, ge=0)] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> "Expectations":
        if (self.error or self.error_contains) and self.state == "succeeded":
            raise ValueError("an error goes with state: failed")
        return self


class Case(_Part):
    """One test."""

    name: Annotated[StrictStr, Field(min_length=1)]
    run: Annotated[StrictStr, Field(min_length=1)]
    """The agent or workflow."""
    kind: Literal["agent", "linear_workflow", "graph_workflow", "custom_workflow"] | None = None
    input: Any
    """A text, or what is sent as JSON."""
    answers: list[Any] = Field(default_factory=list)
    """To what it asks people, in order; true or false to an approval."""
    timeout: Annotated[StrictStr, AfterValidator(_is_span)] | None = None
    expect: Expectations = Expectations()


class TestFile(_Part):
    """A whole file."""

    __test__ = False

    project: StrictStr | None = None
    """The project's folder, from that of the file; else the nearest upward."""
    model: StrictStr | None = None
    """The scripted model's script, from the file's folder; else the project's model.yaml."""
    namespace: StrictStr = "default"
    tests: Annotated[list[Case], Field(min_length=1, max_length=MAX_TESTS)]

    @model_validator(mode="after")
    def _names_are_unique(self) -> "TestFile":
        names = [case.name for case in self.tests]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise ValueError(f"two tests have the name {twice!r}")
        return self


def load_tests(path: Path) -> TestFile:
    """Read a file of tests. Raises ScriptError that names file, line and the nearest valid key."""
    try:
        source = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ScriptError(f"{path}: cannot be read: {error}") from None
    return validated(TestFile, source, str(path))
