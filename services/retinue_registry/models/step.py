"""The rules of a step: what it runs, when, how often, and what becomes of it."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from retinue_kit.expressions import compile_expression, step_names
from retinue_registry.models.fields import (
    MAX_LABELS,
    Broken,
    Count,
    Duration,
    LabelKey,
    Name,
    Part,
    RefersTo,
    Required,
    Text,
    once_each,
    optional,
    required,
)
from retinue_registry.models.json_schema import JsonSchema
from retinue_registry.models.json_value import JsonMapping
from retinue_registry.models.template import free_names, template_names, template_steps
from retinue_registry.nearest import did_you_mean

Place = tuple[str | int, ...]

RUNS = ("agent", "linear_workflow", "graph_workflow", "custom_workflow", "tool", "run")
"""What a step, a branch, a round and a fallback can run; `run` is any of them by its name."""
ASKED = ("agent", "linear_workflow", "graph_workflow", "custom_workflow", "run")
"""Those that have an input."""
TARGETS = (
    *RUNS,
    "transform",
    "ask",
    "fail",
    "router",
    "each",
    "loop",
    "failover",
    "memory_write",
    "memory_read",
)
"""The fields of the protos' oneof `target` of a step."""
VARIABLES = ("input", "run", "session", "state", "steps")
"""What templates and expressions may name."""
RESULT = "result"
"""What the expressions of a step's own output, and of what it sets, may name as well."""
MAX_ROUTES = 1000
MAX_CHOICES = 100

_RUN = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}(/\S{1,256})?")
_STEP_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_REASON = re.compile(r"[A-Z][A-Z0-9_]*")


def _step_name(name: str) -> str:
    if not _STEP_NAME.fullmatch(name):
        raise ValueError(
            f"{name[:80]!r} cannot be a step's name: use 1 to 63 of A-Z, a-z, 0-9 and _, no digit first"
        )
    return name


def _run_name(text: str) -> str:
    if not _RUN.fullmatch(text):
        raise ValueError(f"{text[:80]!r} names nothing that could run: write NAME, or SERVER/TOOL")
    return text


def _expression(text: str) -> str:
    compile_expression(text)
    return text


def _template(text: str) -> str:
    template_names(text)
    return text


def _reason(text: str) -> str:
    if not _REASON.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is not a reason: write it as errors do, LLM_TIMEOUT")
    return text


StepName = Annotated[str, AfterValidator(_step_name)]
Expression = Annotated[Required, AfterValidator(_expression)]
Template = Annotated[Text, AfterValidator(_template)]
MemoryLabels = Annotated[dict[LabelKey, Template], Field(max_length=MAX_LABELS)]
Reasons = Annotated[list[Annotated[Required, AfterValidator(_reason)]], AfterValidator(once_each)]
RunName = Annotated[str, AfterValidator(_run_name)]
Agent = Annotated[Name, RefersTo("agent")]
Linear = Annotated[Name, RefersTo("linear_workflow")]
Graph = Annotated[Name, RefersTo("graph_workflow")]
Custom = Annotated[Name, RefersTo("custom_workflow")]


StateChanges = Annotated[dict[StepName, Expression], Field(min_length=1, max_length=100)]


class ToolTarget(Part):
    """A tool of an MCP server."""

    server: Annotated[Name, RefersTo("mcp_server")] = required("time")
    tool: Annotated[Required, Field(max_length=256)] = required("get_current_time")
    arguments: JsonMapping | None = optional({"timezone": "{{ input }}"})


class TransformTarget(Part):
    """A value that is worked out."""

    expression: Expression | None = optional("size(steps.draft.output)")
    template: Template | None = optional("{{ steps.draft.output }}!")


class AskTarget(Part):
    """A question to a person or another system."""

    question: Annotated[Template, Field(min_length=1)] = required("May the report on {{ input }} go out?")
    answer_schema: JsonSchema | None = optional({"type": "boolean"})
    timeout: Duration | None = optional("2h", default="24h")


class FailTarget(Part):
    """The end of the workflow, as a failure."""

    message: Annotated[Template, Field(min_length=1)] = required("there is nothing on {{ input }}")


class Route(Part):
    """One way on."""

    name: StepName = required("bug")
    when: Expression | None = optional("steps.draft.output.contains('error')")
    description: Text | None = optional("Something does not work.")


class RouterTarget(Part):
    """A choice among routes."""

    routes: Annotated[list[Route], Field(min_length=1, max_length=MAX_ROUTES)] = required(
        [{"name": "bug", "description": "Something does not work."}]
    )
    default: StepName = required("bug")
    agent: Agent | None = optional("clerk")
    input: Template | None = optional("Sort this ticket: {{ input }}")


class StepFallback(Part):
    """What runs in place of a step that failed for good, or is tried in its turn."""

    agent: Agent | None = optional("writer")
    linear_workflow: Linear | None = optional("report")
    tool: ToolTarget | None = optional({"server": "time", "tool": "get_current_time"})
    input: Template | None = optional("Write on {{ input }}.")
    graph_workflow: Graph | None = optional("research")
    run: RunName | None = optional("writer")
    arguments: JsonMapping | None = optional({"timezone": "{{ input }}"})
    custom_workflow: Custom | None = optional("nightly")


class EachTarget(Part):
    """The same for each item of a list, side by side."""

    items: Expression = required("steps.plan.output.questions")
    agent: Agent | None = optional("searcher")
    linear_workflow: Linear | None = optional("report")
    tool: ToolTarget | None = optional({"server": "time", "tool": "get_current_time"})
    input: Template | None = optional("Search for {{ item }}.")
    concurrency: Count | None = optional(4, default=8)
    on_failure: Literal["fail_fast", "wait_all", "continue"] | None = optional(
        "continue", default="fail_fast"
    )
    quorum: Count | None = optional(2)
    graph_workflow: Graph | None = optional("research")
    run: RunName | None = optional("searcher")
    branch_timeout: Duration | None = optional("30s")
    arguments: JsonMapping | None = optional({"timezone": "{{ item }}"})
    custom_workflow: Custom | None = optional("nightly")


class LoopTarget(Part):
    """The same again and again."""

    agent: Agent | None = optional("writer")
    linear_workflow: Linear | None = optional("report")
    tool: ToolTarget | None = optional({"server": "time", "tool": "get_current_time"})
    input: Template | None = optional("Make it better: {{ loop.last }}")
    until: Expression = required("loop.output.score >= 0.8")
    max_rounds: Annotated[int, Field(ge=1, le=10_000)] | None = optional(5, default=10)
    graph_workflow: Graph | None = optional("research")
    run: RunName | None = optional("writer")
    arguments: JsonMapping | None = optional({"timezone": "{{ loop.last }}"})
    custom_workflow: Custom | None = optional("nightly")


class FailoverTarget(Part):
    """One of several, in order, until one succeeds."""

    choices: Annotated[list[StepFallback], Field(min_length=2, max_length=MAX_CHOICES)] = required(
        [{"agent": "searcher"}, {"agent": "writer"}]
    )
    errors: Reasons | None = optional(["LLM_TIMEOUT"])


class MemoryWriteTarget(Part):
    """Writes a text that later runs can find."""

    text: Annotated[Template, Field(min_length=1)] = required("{{ steps.draft.output }}")
    labels: MemoryLabels | None = optional({"topic": "{{ input }}"})
    expire_after: Duration | None = optional("720h")


class MemoryReadTarget(Part):
    """Finds texts that were written before."""

    query: Template | None = optional("{{ input }}")
    labels: MemoryLabels | None = optional({"topic": "{{ input }}"})
    limit: Annotated[int, Field(ge=1, le=100)] | None = optional(5, default=10)


class StepRetry(Part):
    """How often a step is tried."""

    attempts: Annotated[int, Field(ge=1, le=100)] | None = optional(5, default=3)
    backoff: Duration | None = optional("500ms", default="1s")
    max_backoff: Duration | None = optional("10s", default="60s")
    errors: Reasons | None = optional(["LLM_TIMEOUT"])


class Join(Part):
    """How the branches that lead to a node come together."""

    mode: Literal["all", "any", "quorum"] | None = optional("quorum")
    quorum: Count | None = optional(2)
    cancel_rest: bool | None = optional(True, default=False)
    timeout: Duration | None = optional("30s")
    merge: Literal["first", "list", "object"] | None = optional("list", default="first")


class WorkflowStep(Part):
    """One step of a workflow, or one node of a graph."""

    name: StepName = required("draft")
    agent: Agent | None = optional("writer")
    linear_workflow: Linear | None = optional("report")
    tool: ToolTarget | None = optional({"server": "time", "tool": "get_current_time"})
    transform: TransformTarget | None = optional({"template": "{{ input }}!"})
    ask: AskTarget | None = optional({"question": "Go on?"})
    fail: FailTarget | None = optional({"message": "no"})
    router: RouterTarget | None = optional(
        {"routes": [{"name": "long", "when": "size(input) > 99"}], "default": "short"}
    )
    each: EachTarget | None = optional({"items": "steps.plan.output", "agent": "searcher"})
    loop: LoopTarget | None = optional({"agent": "writer", "until": "loop.round == 3"})
    failover: FailoverTarget | None = optional({"choices": [{"agent": "searcher"}, {"agent": "writer"}]})
    input: Template | None = optional("Write a report on {{ input }}.")
    condition: Expression | None = optional("steps.judgement.output.score < 0.8")
    timeout: Duration | None = optional("30s")
    retry: StepRetry | None = optional({"attempts": 3})
    on_error: Literal["fail", "continue", "fallback"] | None = optional("continue", default="fail")
    fallback: StepFallback | None = optional({"agent": "writer"})
    output: Expression | None = optional("result.text")
    join: Join | None = optional({"mode": "all"})
    graph_workflow: Graph | None = optional("research")
    run: RunName | None = optional("writer")
    memory_write: MemoryWriteTarget | None = optional({"text": "{{ steps.draft.output }}"})
    memory_read: MemoryReadTarget | None = optional({"query": "{{ input }}"})
    arguments: JsonMapping | None = optional({"timezone": "{{ input }}"})
    set: StateChanges | None = optional({"draft": "result.text"})
    custom_workflow: Custom | None = optional("nightly")


def broken_step(place: Place, step: Mapping[str, Any], known: Collection[str]) -> Iterator[Broken]:
    """Yield what is wrong with a step as it was written; `known` are the steps that it may name."""
    yield from _one_of(place, step, TARGETS)
    if "input" in step and not set(ASKED) & step.keys():
        yield Broken((*place, "input"), "is for agents and workflows: say what is asked in the target itself")
    fallback = step.get("fallback")
    if (step.get("on_error") == "fallback") != (fallback is not None):
        yield Broken((*place, "on_error"), "must be fallback where there is a fallback, and there alone")
    texts = _Texts(known)
    yield from texts.expression((*place, "condition"), step.get("condition"))
    yield from texts.expression((*place, "output"), step.get("output"), RESULT)
    yield from _arguments(place, step)
    yield from texts.runs(place, step)
    changes = step.get("set")
    for key, source in changes.items() if isinstance(changes, dict) else ():
        yield from texts.expression((*place, "set", key), source, RESULT)
    yield from _part(place, step, "memory_write", lambda where, given: _memory(texts, where, given, "text"))
    yield from _part(place, step, "memory_read", lambda where, given: _memory(texts, where, given, "query"))
    yield from _part(place, step, "fallback", lambda where, given: _runs_one(texts, where, given))
    yield from _part(place, step, "transform", lambda where, given: _transform(texts, where, given))
    yield from _part(place, step, "ask", lambda where, given: texts.template((*where, "question"), given))
    yield from _part(place, step, "fail", lambda where, given: texts.template((*where, "message"), given))
    yield from _part(place, step, "router", lambda where, given: _router(texts, where, given))
    yield from _part(place, step, "each", lambda where, given: _each(texts, where, given))
    yield from _part(place, step, "loop", lambda where, given: _loop(texts, where, given))
    yield from _part(place, step, "failover", lambda where, given: _failover(texts, where, given))
    yield from _part(place, step, "join", _join)


def _part(place: Place, step: Mapping[str, Any], name: str, check: Any) -> Iterator[Broken]:
    given = step.get(name)
    if isinstance(given, dict):
        yield from check((*place, name), given)


def _runs_one(texts: "_Texts", place: Place, given: Mapping[str, Any], *more: str) -> Iterator[Broken]:
    yield from _one_of(place, given, RUNS)
    yield from _arguments(place, given)
    yield from texts.runs(place, given, *more)


def _arguments(place: Place, given: Mapping[str, Any]) -> Iterator[Broken]:
    """`run: SERVER/TOOL` has arguments; `run: NAME` an input."""
    name = given.get("run")
    is_tool = isinstance(name, str) and "/" in name
    if "arguments" in given and not is_tool:
        yield Broken((*place, "arguments"), "is for `run: SERVER/TOOL`: a `tool` has arguments of its own")
    if is_tool and "input" in given:
        yield Broken((*place, "input"), "is for agents and workflows: a tool has `arguments`")


def _memory(texts: "_Texts", place: Place, given: Mapping[str, Any], field: str) -> Iterator[Broken]:
    yield from texts.template((*place, field), given)
    labels = given.get("labels")
    if isinstance(labels, dict):
        for key in labels:
            yield from texts.template((*place, "labels", key), labels)


def _transform(texts: "_Texts", place: Place, given: Mapping[str, Any]) -> Iterator[Broken]:
    yield from _one_of(place, given, ("expression", "template"))
    yield from texts.expression((*place, "expression"), given.get("expression"))
    yield from texts.template((*place, "template"), given)


def _router(texts: "_Texts", place: Place, given: Mapping[str, Any]) -> Iterator[Broken]:
    routes = given.get("routes")
    names: list[str] = []
    for index, route in enumerate(routes if isinstance(routes, list) else ()):
        if not isinstance(route, dict):
            continue
        where = (*place, "routes", index)
        if route.get("name") in names:
            yield Broken((*where, "name"), f"{route['name']!r} is the name of an earlier route")
        names.append(str(route.get("name")))
        if ("agent" in given) == ("when" in route):
            yield Broken(
                (*where, "when"), "is needed where no agent chooses, and has no place where one does"
            )
        yield from texts.expression((*where, "when"), route.get("when"))
    default = given.get("default")
    if "agent" in given and isinstance(default, str) and default not in names:
        near = did_you_mean(default, names)
        yield Broken((*place, "default"), f"must be one of the routes that the agent chooses among{near}")
    yield from texts.template((*place, "input"), given)


def _each(texts: "_Texts", place: Place, given: Mapping[str, Any]) -> Iterator[Broken]:
    yield from texts.expression((*place, "items"), given.get("items"))
    yield from _runs_one(texts, place, given, "item", "index")
    if given.get("quorum") is not None and given.get("on_failure") == "wait_all":
        yield Broken((*place, "on_failure"), "wait_all waits for all, and a quorum does not: set one of them")


def _loop(texts: "_Texts", place: Place, given: Mapping[str, Any]) -> Iterator[Broken]:
    yield from _runs_one(texts, place, given, "loop")
    yield from texts.expression((*place, "until"), given.get("until"), "loop")


def _failover(texts: "_Texts", place: Place, given: Mapping[str, Any]) -> Iterator[Broken]:
    choices = given.get("choices")
    for index, choice in enumerate(choices if isinstance(choices, list) else ()):
        if isinstance(choice, dict):
            yield from _runs_one(texts, (*place, "choices", index), choice)


def _join(place: Place, given: Mapping[str, Any]) -> Iterator[Broken]:
    if (given.get("mode") == "quorum") != ("quorum" in given):
        yield Broken((*place, "quorum"), "is needed with mode: quorum, and there alone")


def _one_of(place: Place, given: Mapping[str, Any], names: tuple[str, ...]) -> Iterator[Broken]:
    found = [name for name in names if name in given]
    if not found:
        yield Broken(place, f"runs nothing: set one of {', '.join(names)}")
    elif len(found) > 1:
        yield Broken((*place, found[-1]), f"has {' and '.join(found)}: set one of them")


class _Texts:
    """Checks what templates and expressions name."""

    def __init__(self, known: Collection[str]) -> None:
        self._known = known

    def runs(self, place: Place, given: Mapping[str, Any], *more: str) -> Iterator[Broken]:
        """What is asked of an agent, a workflow or a tool."""
        yield from self.template((*place, "input"), given, *more)
        tool = given.get("tool")
        held = [((*place, "arguments"), given.get("arguments"))]
        if isinstance(tool, dict):
            held.append(((*place, "tool", "arguments"), tool.get("arguments")))
        for above, arguments in held:
            for where, text in _texts(above, arguments):
                yield from self._template(where, text, more, said=False)

    def template(self, place: Place, owner: Mapping[str, Any], *more: str) -> Iterator[Broken]:
        """A field of a message that is a template; the field itself says what is no template."""
        text = owner.get(str(place[-1]))
        if isinstance(text, str):
            yield from self._template(place, text, more, said=True)

    def _template(self, place: Place, text: str, more: Iterable[str], *, said: bool) -> Iterator[Broken]:
        try:
            names, steps = free_names(text), template_steps(text)
        except ValueError as error:
            if not said:
                yield Broken(place, str(error))
            return
        yield from self._unknown(place, names, steps, (*VARIABLES, *more))

    def expression(self, place: Place, source: object, *more: str) -> Iterator[Broken]:
        """An expression; the field itself says what is none."""
        if not isinstance(source, str):
            return
        try:
            expression = compile_expression(source)
        except ValueError:
            return
        bound = set(re.findall(r"\(\s*([A-Za-z_]\w*)\s*,", source))
        yield from self._unknown(place, expression.names - bound, step_names(source), (*VARIABLES, *more))

    def _unknown(
        self, place: Place, names: Iterable[str], steps: Iterable[str], allowed: tuple[str, ...]
    ) -> Iterator[Broken]:
        for name in sorted(set(names) - set(allowed)):
            near = did_you_mean(name, allowed)
            yield Broken(place, f"names {name!r}, and there are {', '.join(allowed)}{near}")
        for name in sorted(set(steps) - set(self._known)):
            near = did_you_mean(name, self._known)
            yield Broken(place, f"names the step {name!r}, and no step before this one has that name{near}")


def broken_output(place: Place, source: object, known: Collection[str]) -> Iterator[Broken]:
    """Yield what is wrong with the expression of a workflow's output."""
    yield from _Texts(known).expression(place, source)


def _texts(place: Place, value: object) -> Iterator[tuple[Place, str]]:
    waiting: list[tuple[Place, object]] = [(place, value)]
    while waiting:
        where, each = waiting.pop()
        if isinstance(each, str):
            yield where, each
        elif isinstance(each, dict):
            waiting += [((*where, key), inner) for key, inner in each.items()]
        elif isinstance(each, list):
            waiting += [((*where, index), inner) for index, inner in enumerate(each)]
