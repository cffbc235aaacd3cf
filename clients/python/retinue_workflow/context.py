"""What the code of a workflow is given: each thing that it asks of the engine is in the run's journal."""

import json
from collections.abc import Mapping
from typing import Any, Protocol

from google.protobuf.duration_pb2 import Duration
from pydantic import TypeAdapter

from retinue.engine.v1.call_pb2 import (
    EmitCall,
    InputCall,
    ListTools,
    ReadState,
    RunCall,
    SleepCall,
    ToolUse,
    WorkflowCall,
    WriteState,
)
from retinue.engine.v1.worker_pb2 import WorkerBegin
from retinue.registry.v1.component_pb2 import (
    COMPONENT_KIND_AGENT,
    COMPONENT_KIND_CUSTOM_WORKFLOW,
    COMPONENT_KIND_GRAPH_WORKFLOW,
    COMPONENT_KIND_LINEAR_WORKFLOW,
    ComponentKind,
    ComponentRef,
)

_KINDS: Mapping[str, ComponentKind.ValueType] = {
    "linear": COMPONENT_KIND_LINEAR_WORKFLOW,
    "graph": COMPONENT_KIND_GRAPH_WORKFLOW,
    "custom": COMPONENT_KIND_CUSTOM_WORKFLOW,
}


class Calls(Protocol):
    """Asks the engine."""

    async def call(self, key: str, call: WorkflowCall) -> Any:
        """What a call gives. Raises the RetinueError with which it fails."""


class Context:
    """The run, and what its code may ask for.

    Every method here that is awaited is a call with a key: its `key`, else its kind, its target and a count,
    `agent:writer#1`. When the code runs again, after a crash or a wait, a call that has ended gives what it
    gave, and is not made again. So the code has to ask for the same each time it runs with the same input:
    the time, chance and the world outside belong into calls. Calls side by side (`asyncio.gather`) whose
    order is not fixed need keys of their own. A call that fails raises a `RetinueError`, each time the same.
    """

    def __init__(self, begin: WorkerBegin, calls: Calls) -> None:
        self.run_id = begin.run_id
        self.session_id = begin.session_id
        self.name = begin.workflow
        """The workflow's name in the config."""
        self.depth = begin.depth
        """How deep the run is inside others."""
        self._begin = begin
        self._calls = calls

    async def agent(
        self,
        name: str,
        message: object,
        *,
        output: Any = None,
        timeout_s: float | None = None,
        key: str = "",
    ) -> Any:
        """Run an agent of the config's `agents`; its structured answer, else its text.

        What is no text is asked as JSON. `output` is a type that the answer is validated to.
        """
        target = ComponentRef(kind=COMPONENT_KIND_AGENT, name=name)
        run = RunCall(target=target, message=_text(message))
        return _typed(await self._calls.call(key, _limited(WorkflowCall(run=run), timeout_s)), output)

    async def workflow(
        self,
        name: str,
        input: object = "",
        *,
        kind: str = "",
        output: Any = None,
        timeout_s: float | None = None,
        key: str = "",
    ) -> Any:
        """Run a workflow of the config; `kind` is `linear`, `graph` or `custom` if several have the name."""
        number = _KINDS[kind] if kind else ComponentKind.ValueType(0)
        run = RunCall(target=ComponentRef(kind=number, name=name), message=_text(input))
        return _typed(await self._calls.call(key, _limited(WorkflowCall(run=run), timeout_s)), output)

    async def tool(
        self,
        server: str,
        tool: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        output: Any = None,
        timeout_s: float | None = None,
        key: str = "",
    ) -> Any:
        """Call a tool of one of the config's `mcp_servers`; its structured result, else its text."""
        use = ToolUse(server=server, tool=tool, arguments_json=_json(dict(arguments or {})))
        return _typed(await self._calls.call(key, _limited(WorkflowCall(tool=use), timeout_s)), output)

    async def ask(
        self, question: str, *, answer: Any = None, timeout_s: float | None = None, key: str = ""
    ) -> Any:
        """Ask a person or another system, and wait for the answer, for a day where nothing else is said.

        `answer` is the type of the answer, a pydantic model for example. The process ends while the run
        waits, and the code runs again over the journal when the answer is there.
        """
        schema = _json(TypeAdapter(answer).json_schema()) if answer is not None else ""
        asked = InputCall(question=question, answer_schema_json=schema)
        if timeout_s is not None:
            asked.timeout.CopyFrom(_span(timeout_s))
        return _typed(await self._calls.call(key, WorkflowCall(input=asked)), answer)

    async def list_tools(self, *, key: str = "") -> list[str]:
        """The tools of the config's `mcp_servers`, each as `server.tool`."""
        found: list[str] = await self._calls.call(key, WorkflowCall(list_tools=ListTools()))
        return found

    async def sleep(self, seconds: float, *, key: str = "") -> None:
        """Wait. The time counts from the first time; a long wait holds no process."""
        await self._calls.call(key, WorkflowCall(sleep=SleepCall(duration=_span(seconds))))

    async def read_state(self, name: str, default: Any = None, *, output: Any = None, key: str = "") -> Any:
        """A value of the run's state; `default` where there is none."""
        value = await self._calls.call(key, WorkflowCall(read_state=ReadState(name=name)))
        return default if value is None else _typed(value, output)

    async def write_state(self, name: str, value: object, *, key: str = "") -> None:
        """Write a value of the run's state, with which watchers see where it stands; None removes it."""
        text = "" if value is None else _json(value)
        await self._calls.call(key, WorkflowCall(write_state=WriteState(name=name, value_json=text)))

    async def emit(self, name: str, data: object = None, *, key: str = "") -> None:
        """Tell those who watch the run something: an event of the run."""
        await self._calls.call(key, WorkflowCall(emit=EmitCall(name=name, data_json=_json(data))))


def _limited(call: WorkflowCall, timeout_s: float | None) -> WorkflowCall:
    if timeout_s is not None:
        call.timeout.CopyFrom(_span(timeout_s))
    return call


def _span(seconds: float) -> Duration:
    whole, nanos = divmod(int(seconds * 1_000_000_000), 1_000_000_000)
    return Duration(seconds=whole, nanos=nanos)


_ANY: TypeAdapter[Any] = TypeAdapter(Any)


def _json(value: object) -> str:
    # Models, dates and the like as pydantic writes them.
    return json.dumps(_ANY.dump_python(value, mode="json"), ensure_ascii=False)


def _text(value: object) -> str:
    return value if isinstance(value, str) else _json(value)


def _typed(value: Any, wanted: Any) -> Any:
    return value if wanted is None else TypeAdapter(wanted).validate_python(value)
