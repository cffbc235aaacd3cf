"""Tasks of one owner, by key, that are told as they end."""

import asyncio
from collections.abc import Coroutine, Hashable
from typing import Any, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


class SideBySide(Generic[Key, Result]):
    """Owns the tasks; to wait for one of a thousand costs what it costs for one of two."""

    def __init__(self) -> None:
        self._tasks: dict[Key, asyncio.Task[Result]] = {}
        self._ended: list[tuple[Key, asyncio.Task[Result]]] = []
        self._leaving: set[asyncio.Task[Result]] = set()
        """Those that were cancelled and have not ended."""
        self._news = asyncio.Event()

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, key: Key) -> bool:
        return key in self._tasks

    def at_work(self) -> list[Key]:
        """Of those that are at work, or whose end was not taken yet."""
        return list(self._tasks)

    def start(self, key: Key, work: Coroutine[Any, Any, Result]) -> None:
        """Begin a task."""
        task = asyncio.ensure_future(work)
        self._tasks[key] = task
        task.add_done_callback(lambda ended: self._note(key, ended))

    def _note(self, key: Key, task: "asyncio.Task[Result]") -> None:
        if self._tasks.get(key) is task:
            self._ended.append((key, task))
            self._news.set()

    def wake(self) -> None:
        """Let who waits look around."""
        self._news.set()

    async def news(self, longest_s: float | None) -> list[tuple[Key, "asyncio.Task[Result]"]]:
        """Those that have ended; waits for one, for a wake, or for `longest_s`."""
        try:
            async with asyncio.timeout(longest_s):
                await self._news.wait()
        except TimeoutError:
            pass
        self._news.clear()
        ended, self._ended = self._ended, []
        taken = [(key, task) for key, task in ended if self._tasks.get(key) is task]
        for key, _ in taken:
            del self._tasks[key]
        return taken

    def cancel(self, key: Key) -> None:
        """Cancel one; its end is not told."""
        if task := self._tasks.pop(key, None):
            task.cancel()
            self._leaving.add(task)

    def cancel_all(self) -> None:
        """Cancel all; their ends are told."""
        for task in self._tasks.values():
            task.cancel()

    async def aclose(self) -> None:
        """Cancel all and wait for their ends, which are not told."""
        tasks = [*self._tasks.values(), *self._leaving]
        self._tasks.clear()
        self._leaving.clear()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.exception()  # it is looked at: nobody waits for it any more
