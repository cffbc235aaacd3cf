"""Asks the person at the terminal what a run wants to know, beside the stream of its events."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from retinue_cli.call import Call
from retinue_cli.events import RunPrinter
from retinue_cli.failures import CommandError, words
from retinue_cli.inputs import arguments_of, told, value_of

if TYPE_CHECKING:
    from retinue.client import Client
    from retinue.engine.v1 import event_pb2, input_pb2

_LONGEST_LINE = 1024 * 1024


class _LeftOpenError(Exception):
    """The person gives no answer here."""


class _AnsweredElsewhereError(Exception):
    """Somebody else was quicker."""


class Asker:
    """Takes what a run asks, one thing after another, to the person; or says which command answers it."""

    def __init__(self, call: Call, client: "Client", printer: RunPrinter, *, interactive: bool) -> None:
        self._call = call
        self._client = client
        self._printer = printer
        self._interactive = interactive
        self._waiting: asyncio.Queue[input_pb2.InputRequest] = asyncio.Queue()
        self._received: set[str] = set()
        self._asked = ""
        """The id of what the person is being asked."""
        self._over = asyncio.Event()
        """Set when that has its answer from elsewhere."""

    def hear(self, event: "event_pb2.RunEvent") -> None:
        """Take in an event of the run."""
        kind = event.WhichOneof("event")
        if kind == "input_requested":
            self._waiting.put_nowait(event.input_requested.request)
        elif kind == "input_received":
            input_id = event.input_received.input_id
            self._received.add(input_id)
            if input_id == self._asked:
                self._over.set()

    async def work(self) -> None:
        """Ask until cancelled."""
        from retinue.errors import RetinueError

        while True:
            request = await self._waiting.get()
            self._asked = request.input_id
            self._over.clear()
            try:
                # An old story is full of questions that have their answers.
                if request.input_id in self._received or not await self._is_pending(request):
                    continue
                if self._interactive:
                    await self._ask(request)
                else:
                    self._tell(request)
            except RetinueError as error:
                self._printer.end_line()
                self._call.output.note(f"error: {words(error)}")
                self._tell(request)
            except _LeftOpenError:
                self._tell(request)

    async def _is_pending(self, request: "input_pb2.InputRequest") -> bool:
        async for each in self._client.inputs.list(request.root_run_id or request.run_id):
            if each.input_id == request.input_id:
                return True
        return False

    def _tell(self, request: "input_pb2.InputRequest") -> None:
        if request.input_id not in self._received:
            self._printer.end_line()
            self._call.output.note(told(self._call, request))

    async def _ask(self, request: "input_pb2.InputRequest") -> None:
        with contextlib.suppress(_AnsweredElsewhereError):
            if request.HasField("approval"):
                await self._ask_approval(request)
            else:
                await self._ask_question(request)

    async def _ask_approval(self, request: "input_pb2.InputRequest") -> None:
        inputs = self._client.inputs
        taken = False
        while not taken:
            word, _, reason = (await self._line("approve? [y/N/edit] ")).partition(" ")
            if word.lower() in {"y", "yes"}:
                taken = await self._taken(inputs.approve(request))
            elif word.lower() in {"", "n", "no"}:
                taken = await self._taken(inputs.deny(request, reason.strip()))
            elif word.lower() in {"e", "edit"}:
                taken = await self._edited(request)
            else:
                self._call.output.note("y: call it; n [WHY]: do not; edit: call it with other arguments")

    async def _edited(self, request: "input_pb2.InputRequest") -> bool:
        text = await self._line("arguments: ")
        try:
            arguments_json = arguments_of(text)
        except CommandError as error:
            self._call.output.note(error.message)
            return False
        return await self._taken(self._client.inputs.approve(request, arguments_json))

    async def _ask_question(self, request: "input_pb2.InputRequest") -> None:
        while True:
            text = await self._line("answer: ")
            if not text:
                raise _LeftOpenError
            try:
                value = value_of(text, request.question.schema_json)
            except CommandError as error:
                self._call.output.note(error.message)
            else:
                if await self._taken(self._client.inputs.provide(request, value)):
                    return

    async def _taken(self, answer: "Awaitable[input_pb2.InputRequest]") -> bool:
        """Whether the person need not be asked again."""
        from retinue.errors import InputClosedError, InvalidArgumentError

        try:
            await answer
        except InputClosedError:
            return True  # somebody was quicker, which an event tells
        except InvalidArgumentError as error:
            self._call.output.note(words(error))
            return False
        return True

    async def _line(self, prompt: str) -> str:
        """A line that is typed, stripped. Raises where there is none, or none is wanted any more."""
        terminal = sys.stdin.fileno()
        _forget_what_was_typed(terminal)
        self._printer.prompt(prompt)
        typing = asyncio.ensure_future(_typed(terminal))
        over = asyncio.ensure_future(self._over.wait())
        try:
            await asyncio.wait({typing, over}, return_when=asyncio.FIRST_COMPLETED)
            if not typing.done():
                raise _AnsweredElsewhereError
            line = typing.result()
        finally:
            typing.cancel()
            over.cancel()
            await asyncio.wait({typing, over})
        if not line:
            raise _LeftOpenError
        self._printer.entered()
        return line.strip()


async def _typed(terminal: int) -> str:
    """A line from the terminal; empty where the person closes the input."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def set_ready() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(terminal, set_ready)
    try:
        await ready
    finally:
        loop.remove_reader(terminal)
    try:
        # A terminal gives a whole line at a time.
        return os.read(terminal, _LONGEST_LINE).decode(errors="replace")
    except OSError:
        return ""  # it was closed


def _forget_what_was_typed(terminal: int) -> None:
    """What was typed before it was asked is no answer to it."""
    import termios

    with contextlib.suppress(termios.error):
        termios.tcflush(terminal, termios.TCIFLUSH)


def can_ask(call: Call) -> bool:
    """Whether there is a person at a terminal, and the terminal can be read beside other work."""
    return not call.as_json and sys.stdin.isatty() and sys.stdout.isatty() and sys.platform != "win32"


@asynccontextmanager
async def open_asker(
    call: Call, client: "Client", printer: RunPrinter, *, interactive: bool
) -> AsyncIterator[Asker]:
    """Open an asker; leaving asks nothing more."""
    asker = Asker(call, client, printer, interactive=interactive and can_ask(call))
    working = asyncio.create_task(asker.work())
    try:
        yield asker
    finally:
        working.cancel()
        await asyncio.wait([working])
        if not working.cancelled():
            working.result()
