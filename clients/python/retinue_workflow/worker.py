"""`python -m retinue_workflow.worker`: waits to be told what to run, runs it once, and ends."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from retinue.engine.v1.run_pb2 import RunError
from retinue.engine.v1.worker_pb2 import WorkerBegin, WorkerFailure, WorkerResult, WorkRequest
from retinue.errors import RetinueError
from retinue_workflow.connection import Connection, open_connection
from retinue_workflow.context import Context
from retinue_workflow.loading import Code, NotLoadedError, load
from retinue_workflow.thread_context import ThreadContext

NICE = 5
"""Code that computes without end leaves the services their share of the processor."""
MAX_SAID = 64 * 1024
"""Characters of what a failure tells."""


def main() -> None:
    """Wait for a line of JSON on stdin, and do what it says."""
    line = sys.stdin.buffer.readline()
    if not line:
        return  # the engine has ended
    told = json.loads(line)
    threading.Thread(target=_end_with_engine, daemon=True).start()
    _settle_in(told)
    asyncio.run(_work(told["address"], told["token"]))
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads that the code has left behind hold nothing up.
    os._exit(0)


def _end_with_engine() -> None:
    """When the engine is gone so is the pipe that it holds; then this group has no business here."""
    while sys.stdin.buffer.read(1024):
        pass
    os.killpg(0, signal.SIGKILL)


def _settle_in(told: dict[str, Any]) -> None:
    os.environ.update(told["env"])
    with contextlib.suppress(OSError):
        os.nice(NICE)
    if sys.platform == "linux":
        import resource  # noqa: PLC0415 - not everywhere

        resource.setrlimit(resource.RLIMIT_DATA, (told["memory_bytes"], told["memory_bytes"]))
    if told["folder"]:
        os.chdir(told["folder"])
        sys.path.insert(0, str(Path(told["folder"])))
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")


async def _work(address: str, token: str) -> None:
    async with open_connection(address, token) as connection:
        begin = await connection.begin()
        listening = asyncio.create_task(connection.listen())
        running = asyncio.create_task(_outcome(begin, connection))
        await asyncio.wait((listening, running), return_when=asyncio.FIRST_COMPLETED)
        if running.done() and not listening.done():
            sys.stdout.flush()
            await connection.send(running.result())
            # The engine ends the stream when it has all that it wants.
        await listening
        running.cancel()


async def _outcome(begin: WorkerBegin, connection: Connection) -> WorkRequest:
    """Run the code; the last message to the engine."""
    try:
        code = await asyncio.to_thread(load, begin.entry_point)
    except (NotLoadedError, Exception) as error:  # noqa: BLE001 - importing raises what the module raises
        return WorkRequest(failure=_failure(error, not_loaded=True))
    except SystemExit as error:
        return WorkRequest(failure=_failure(error, not_loaded=True))
    try:
        given = code.read_input(begin.input_json)
        output = await _run(code, Context(begin, connection), given)
        return WorkRequest(result=WorkerResult(output_json=code.write_output(output)))
    except Exception as error:  # noqa: BLE001 - code raises what it raises
        return WorkRequest(failure=_failure(error))


async def _run(code: Code, context: Context, given: Any) -> Any:
    if code.is_async:
        return await code.run(context, given)
    plain = ThreadContext(context, asyncio.get_running_loop())
    return await asyncio.to_thread(code.run, plain, given)


def _failure(error: BaseException, *, not_loaded: bool = False) -> WorkerFailure:
    failure = WorkerFailure(
        type=type(error).__name__,
        message=_plain(str(error))[:MAX_SAID],
        traceback=_plain("".join(traceback.format_exception(error)))[-MAX_SAID:],
        not_loaded=not_loaded,
    )
    if isinstance(error, RetinueError):
        facts = {name: _plain(value)[:MAX_SAID] for name, value in error.facts.items()}
        failure.error.CopyFrom(
            RunError(reason=error.reason, message=_plain(str(error))[:MAX_SAID], metadata=facts)
        )
    return failure


def _plain(text: str) -> str:
    """A text that can be sent."""
    return text.encode(errors="replace").decode()


if __name__ == "__main__":
    main()
