"""Group commit: many small writes of the event loop become few transactions of one thread."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from retinue_engine.stores.company import Company

Operation = TypeVar("Operation")
Answer = TypeVar("Answer")

MAX_BATCH = 2_000
"""Most writes in one commit, so that none waits long for the others."""

_Entry = tuple[Operation, asyncio.Future[Answer]]


class GroupWriter(Generic[Operation, Answer]):
    """Hands what the loop submits to `commit`, in order and together, on a thread of its own.

    `commit` gets a batch and returns one answer or exception for each write; an exception that it raises
    fails the whole batch.
    """

    def __init__(self, commit: Callable[[Sequence[Operation]], Sequence[Answer | Exception]]) -> None:
        self._commit = commit
        self._waiting: list[_Entry[Operation, Answer]] = []
        self._wake = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Begin to write, for the running loop."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def submit(self, operation: Operation) -> asyncio.Future[Answer]:
        """Write this; done once it is committed."""
        if self._loop is None or self._closing:
            raise RuntimeError("the writer is not open")
        future: asyncio.Future[Answer] = self._loop.create_future()
        with self._wake:
            self._waiting.append((operation, future))
            if len(self._waiting) == 1:
                self._wake.notify()
        return future

    async def aclose(self) -> None:
        """Write what is submitted, then end."""
        if self._thread is None:
            return
        with self._wake:
            self._closing = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join)
        self._thread = None

    def _run(self) -> None:
        company = Company()
        while True:
            with self._wake:
                while not self._waiting and not self._closing:
                    self._wake.wait()
                if not self._waiting:
                    return
                if linger_s := company.linger_s():
                    self._wake.wait_for(lambda: self._closing, linger_s)
                batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
            company.note(len(batch))
            try:
                answers: Sequence[Answer | Exception] = self._commit([operation for operation, _ in batch])
            except Exception as error:  # noqa: BLE001 - whatever it is, the writers are told
                answers = [error] * len(batch)
            if self._loop is not None:
                self._loop.call_soon_threadsafe(_deliver, batch, answers)


def _deliver(batch: list[_Entry[Operation, Answer]], answers: Sequence[Answer | Exception]) -> None:
    for (_, future), answer in zip(batch, answers, strict=True):
        if future.cancelled():
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
