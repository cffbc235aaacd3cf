"""`chat`: a conversation with an agent, one session, a run for each message."""

import asyncio
import contextlib
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from retinue_cli.call import Call, calling, taking
from retinue_cli.commands.run import Full, Quiet
from retinue_cli.events import RunPrinter
from retinue_cli.failures import FAILED, report
from retinue_cli.following import detached, follow
from retinue_cli.run_options import run_options
from retinue_cli.start_options import SessionId, StartOptions, start_options

if TYPE_CHECKING:
    from retinue.client import Client
    from retinue.engine.v1 import run_pb2

_CANCELLED_BY_HAND = "Ctrl-C in chat"
_CANCEL_TIMEOUT_S = 15.0


@calling
@taking("start", start_options)
@taking("options", run_options)
def chat(
    call: Call,
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="Whom to talk to.", show_default=False)],
    *,
    session: SessionId = "",
    start: StartOptions,
    options: "run_pb2.RunOptions",
    full: Full = False,
    quiet: Quiet = False,
) -> None:
    """Talk with an agent; it remembers what was said in the session.

    A line is a message. Ctrl-C ends the answer that is being written, Ctrl-D ends the chat. Messages may also
    be piped in, one a line; the exit status is then 1 where one failed.
    """
    talk = _Talk(call, agent, session, start, options, full=full, quiet=quiet)
    with asyncio.Runner() as runner:
        status = talk.hold(runner)
    raise typer.Exit(status)


class _Talk:
    """One conversation. Its loop runs only while there is something to wait for, so input stays simple."""

    def __init__(
        self,
        call: Call,
        agent: str,
        session: str,
        start: StartOptions,
        options: "run_pb2.RunOptions",
        *,
        full: bool,
        quiet: bool,
    ) -> None:
        self._call = call
        self._output = call.output
        self._agent = agent
        self._session = session
        self._start = start
        self._options = options
        self._full = full
        self._quiet = quiet
        self._interactive = sys.stdin.isatty()
        self._failed = False

    def hold(self, runner: asyncio.Runner) -> int:
        """Read messages and show the answers until there are no more; the exit status."""
        stack = AsyncExitStack()
        client = runner.run(self._open(stack))
        try:
            if self._interactive and not self._quiet:
                where = f", session {self._session}" if self._session else ""
                self._output.line(f"Talking with {self._agent}{where}. Ctrl-D ends.", style="dim")
            while (message := self._read()) is not None:
                if message.strip():
                    self._turn(runner, client, message)
        finally:
            runner.run(stack.aclose())
        self._say_goodbye()
        return FAILED if self._failed and not self._interactive else 0

    async def _open(self, stack: AsyncExitStack) -> "Client":
        from retinue.registry.v1 import component_pb2

        client = await stack.enter_async_context(self._call.open_client())
        try:
            # A wrong name is better said before the first message than after it.
            await client.components.resolve(
                component_pb2.COMPONENT_KIND_UNSPECIFIED, self._agent, llm=self._options.llm
            )
        except BaseException:
            await stack.aclose()
            raise
        return client

    def _read(self) -> str | None:
        """The next message; None at the end of the input."""
        prompt = "\n> " if self._interactive and not self._output.as_json else ""
        while True:
            try:
                return input(prompt)
            except EOFError:
                return None
            except KeyboardInterrupt:
                if not self._interactive:
                    raise
                self._output.note("\n(Ctrl-D ends the chat)")

    def _turn(self, runner: asyncio.Runner, client: "Client", message: str) -> None:
        printer = RunPrinter(self._output, full=self._full, quiet=self._quiet, brief=True)
        try:
            runner.run(self._ask(client, message, printer))
        except KeyboardInterrupt:
            printer.end_line()
            if not printer.run_id:
                raise
            if not self._interactive:
                raise detached(self._call, printer) from None
            self._cancel_run(runner, client, printer)
        except Exception as error:  # noqa: BLE001 - a failed message does not end the conversation
            printer.end_line()
            self._failed = True
            report(error, as_json=self._output.as_json)
        self._session = printer.session_id or self._session
        if printer.result is not None and printer.result.HasField("error"):
            self._failed = True

    def _cancel_run(self, runner: asyncio.Runner, client: "Client", printer: RunPrinter) -> None:
        try:
            runner.run(self._cancel(client, printer))
        except Exception as error:  # noqa: BLE001 - a failed cancel does not end the conversation
            report(error, as_json=self._output.as_json)

    async def _ask(self, client: "Client", message: str, printer: RunPrinter) -> None:
        run = await client.runs.start(
            self._agent, message, session_id=self._session, options=self._options, **self._start._asdict()
        )
        printer.session_id = run.session_id
        await follow(self._call, client, run.run_id, printer, interactive=not self._quiet)

    async def _cancel(self, client: "Client", printer: RunPrinter) -> None:
        """Cancel the run and show its end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CANCEL_TIMEOUT_S):
                await client.runs.cancel(printer.run_id, reason=_CANCELLED_BY_HAND)
                await follow(self._call, client, printer.run_id, printer, after_sequence=printer.sequence)

    def _say_goodbye(self) -> None:
        if self._output.as_json or self._quiet or not self._interactive:
            return
        self._output.line()
        if self._session:
            self._output.line(
                f"Go on with: retinue chat {self._agent} --session {self._session}{self._call.repeated()}",
                style="dim",
            )
