"""What is wrong with a request to run something: all of it at once."""

import time
from collections.abc import Iterator, Mapping

from google.protobuf.duration_pb2 import Duration

from retinue.engine.v1 import run_pb2
from retinue.engine.v1.service_pb2 import RunRequest, SessionBusyPolicy
from retinue.errors import InvalidArgumentError, Violation
from retinue.registry.v1.agent_pb2 import Budget

MAX_MESSAGE_BYTES = 512 * 1024
MAX_FILES = 20
MAX_FILES_BYTES = 3 * 1024 * 1024
"""Together; a call takes 4 MiB."""
MAX_SESSION_ID = 256
MAX_REQUEST_ID = 128
MAX_LABELS = 64
MAX_LABEL = 256
MAX_PRIORITY = 100
MAX_VARIABLES = 64
MIN_CONTEXT_TOKENS = 256


def check_request(request: RunRequest, *, goes_on: bool = False) -> None:
    """Raise InvalidArgumentError with all that is wrong. One that goes on from another needs no message."""
    found = [
        *_target(request),
        *_texts(request, goes_on=goes_on),
        *labels("run.labels", request.labels),
        *_turn(request),
        *_files(request),
        *_options(request.options),
    ]
    if found:
        raise InvalidArgumentError("the run cannot be accepted as it is", violations=found)


def check_options(options: run_pb2.RunOptions) -> None:
    """The same for options alone."""
    found = list(_options(options))
    if found:
        raise InvalidArgumentError("the options cannot be accepted as they are", violations=found)


_OF_WORKFLOWS = frozenset(("timeout", "budget", "session_budget", "variables", "include_history"))


def check_workflow_options(options: run_pb2.RunOptions) -> None:
    """Refuse options that a workflow's run has no use for: its steps have settings of their own."""
    found = [
        Violation(
            f"run.options.{field.name}", "has no effect on a workflow: set it in the agents of its steps"
        )
        for field, _ in options.ListFields()
        if field.name not in _OF_WORKFLOWS
    ]
    if found:
        raise InvalidArgumentError("a workflow's run does not take these options", violations=found)


def _target(request: RunRequest) -> Iterator[Violation]:
    if not request.target.name:
        yield Violation("run.target.name", "is missing: name the agent to run")
    if request.target.version:
        yield Violation("run.target.version", "runs use the current version: leave it 0")


def _texts(request: RunRequest, *, goes_on: bool) -> Iterator[Violation]:
    size = len(request.message.encode())
    if not size and not request.files and not goes_on:
        yield Violation("run.message", "is empty: say what to ask")
    if size > MAX_MESSAGE_BYTES:
        yield Violation("run.message", f"has {size} bytes and a run takes {MAX_MESSAGE_BYTES}: send less")
    if len(request.session_id) > MAX_SESSION_ID:
        yield Violation("run.session_id", f"is longer than {MAX_SESSION_ID} characters")
    if len(request.request_id) > MAX_REQUEST_ID:
        yield Violation("run.request_id", f"is longer than {MAX_REQUEST_ID} characters")


def labels(field: str, given: Mapping[str, str]) -> Iterator[Violation]:
    """What is wrong with labels."""
    if len(given) > MAX_LABELS:
        yield Violation(field, f"are more than {MAX_LABELS}")
    for name, value in given.items():
        if not name or len(name) > MAX_LABEL or len(value) > MAX_LABEL:
            yield Violation(
                f"{field}[{name!r}]", f"names have 1 to {MAX_LABEL} characters, values up to that"
            )


def _turn(request: RunRequest) -> Iterator[Violation]:
    if request.session_busy not in SessionBusyPolicy.values():
        yield Violation("run.session_busy", f"is {request.session_busy}: use a value of SessionBusyPolicy")
    if abs(request.priority) > MAX_PRIORITY:
        yield Violation("run.priority", f"is {request.priority}: use -{MAX_PRIORITY} to {MAX_PRIORITY}")
    if request.HasField("queue_timeout"):
        yield from _above_zero("run.queue_timeout", request.queue_timeout)


def _files(request: RunRequest) -> Iterator[Violation]:
    if len(request.files) > MAX_FILES:
        yield Violation("run.files", f"are more than {MAX_FILES}")
    size = sum(len(each.data) for each in request.files)
    if size > MAX_FILES_BYTES:
        yield Violation("run.files", f"have {size} bytes and a run takes {MAX_FILES_BYTES}: send less")
    for index, each in enumerate(request.files):
        kind, slash, name = each.mime_type.partition("/")
        if not (kind and slash and name) or ";" in each.mime_type or len(each.mime_type) > MAX_LABEL:
            yield Violation(f"run.files[{index}].mime_type", "is no media type, as in image/png")
        if not each.data:
            yield Violation(f"run.files[{index}].data", "is empty")


def _options(options: run_pb2.RunOptions) -> Iterator[Violation]:
    for name, least, most in (
        ("max_iterations", 1, 1000),
        ("tool_concurrency", 1, 128),
        ("max_repairs", 0, 20),
        ("max_context_tokens", MIN_CONTEXT_TOKENS, 2**53),
    ):
        value = getattr(options, name)
        if options.HasField(name) and not least <= value <= most:  # type: ignore[arg-type]
            yield Violation(f"run.options.{name}", f"is {value}: use {least} to {most}")
    for name in ("timeout", "input_timeout"):
        if options.HasField(name):  # type: ignore[arg-type]
            yield from _above_zero(f"run.options.{name}", getattr(options, name))
    yield from _budget("run.options.budget", options.budget)
    yield from _budget("run.options.session_budget", options.session_budget)
    if len(options.variables) > MAX_VARIABLES:
        yield Violation("run.options.variables", f"are more than {MAX_VARIABLES}")
    generation = options.generation
    for name, least_f, most_f in (("temperature", 0, 2), ("top_p", 0, 1)):
        value = getattr(generation, name)
        if generation.HasField(name) and not least_f <= value <= most_f:  # type: ignore[arg-type]
            yield Violation(f"run.options.generation.{name}", f"is {value}: use {least_f} to {most_f}")
    if generation.HasField("max_output_tokens") and generation.max_output_tokens < 1:
        yield Violation("run.options.generation.max_output_tokens", "must be at least 1")
    if len(generation.stop) > 4:  # noqa: PLR2004 - what the OpenAI protocol takes
        yield Violation("run.options.generation.stop", "are more than 4")


def _budget(field: str, budget: Budget) -> Iterator[Violation]:
    for name, least in (("max_tokens", 1), ("max_cost_nano_usd", 0), ("max_tool_calls", 0), ("max_turns", 1)):
        if budget.HasField(name) and getattr(budget, name) < least:  # type: ignore[arg-type]
            yield Violation(f"{field}.{name}", f"must be at least {least}")
    if budget.HasField("max_duration"):
        yield from _above_zero(f"{field}.max_duration", budget.max_duration)


def _above_zero(field: str, duration: Duration) -> Iterator[Violation]:
    if duration.ToNanoseconds() <= 0:
        yield Violation(field, "must be above 0")
    elif duration.ToMicroseconds() > _LONGEST_US - time.time_ns() // 1000:
        yield Violation(field, "ends later than a Timestamp can say")


_LONGEST_US = 253_402_300_799 * 1_000_000
"""The last moment of a Timestamp: the end of the year 9999."""
