"""The context for code that is not async: the same calls, each of which blocks its thread."""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from retinue_workflow.context import Context

Given = TypeVar("Given")


class ThreadContext:
    """What a plain `def run` is given; each method is that of `Context`, and waits for its outcome."""

    def __init__(self, context: Context, loop: asyncio.AbstractEventLoop) -> None:
        self.run_id = context.run_id
        self.session_id = context.session_id
        self.name = context.name
        self.depth = context.depth
        self._context = context
        self._loop = loop

    def _wait(self, doing: Coroutine[Any, Any, Given]) -> Given:
        return asyncio.run_coroutine_threadsafe(doing, self._loop).result()

    def agent(
        self,
        name: str,
        message: object,
        *,
        output: Any = None,
        timeout_s: float | None = None,
        key: str = "",
    ) -> Any:
        """Run an agent; its structured answer, else its text."""
        return self._wait(self._context.agent(name, message, output=output, timeout_s=timeout_s, key=key))

    def workflow(
        self,
        name: str,
        input: object = "",
        *,
        kind: str = "",
        output: Any = None,
        timeout_s: float | None = None,
        key: str = "",
    ) -> Any:
        """Run a workflow; its output."""
        doing = self._context.workflow(name, input, kind=kind, output=output, timeout_s=timeout_s, key=key)
        return self._wait(doing)

    def tool(
        self,
        server: str,
        tool: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        output: Any = None,
        timeout_s: float | None = None,
        key: str = "",
    ) -> Any:
        """Call a tool; its structured result, else its text."""
        doing = self._context.tool(server, tool, arguments, output=output, timeout_s=timeout_s, key=key)
        return self._wait(doing)

    def ask(self, question: str, *, answer: Any = None, timeout_s: float | None = None, key: str = "") -> Any:
        """Ask a person or another system, and wait for the answer."""
        return self._wait(self._context.ask(question, answer=answer, timeout_s=timeout_s, key=key))

    def list_tools(self, *, key: str = "") -> list[str]:
        """The tools of the config's `mcp_servers`, each as `server.tool`."""
        return self._wait(self._context.list_tools(key=key))

    def sleep(self, seconds: float, *, key: str = "") -> None:
        """Wait."""
        self._wait(self._context.sleep(seconds, key=key))

    def read_state(self, name: str, default: Any = None, *, output: Any = None, key: str = "") -> Any:
        """A value of the run's state; `default` where there is none."""
        return self._wait(self._context.read_state(name, default, output=output, key=key))

    def write_state(self, name: str, value: object, *, key: str = "") -> None:
        """Write a value of the run's state; None removes it."""
        self._wait(self._context.write_state(name, value, key=key))

    def emit(self, name: str, data: object = None, *, key: str = "") -> None:
        """Tell those who watch the run something."""
        self._wait(self._context.emit(name, data, key=key))
