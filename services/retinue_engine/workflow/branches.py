"""Branches side by side: so many at a time, and what becomes of the others where one fails."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from retinue.errors import BudgetExceededError, ClaimLostError, RetinueError
from retinue_engine.workflow.definition import EachAction
from retinue_engine.workflow.result import StepResult

Branch = Callable[[int], Awaitable[StepResult | None]]
"""Takes one branch, by its number from 0, as far as it can go now; None where it waits."""


class Branches:
    """The branches of one try of an `each`."""

    def __init__(self, count: int, branch: Branch, action: EachAction) -> None:
        self._branch = branch
        self._action = action
        self._outputs: list[Any] = [None] * count
        self._left = list(range(count))[::-1]
        self._running: dict[asyncio.Task[StepResult | None], int] = {}
        self._succeeded = 0
        self._waiting = False
        self._failure: RetinueError | None = None
        self.cut_off = False
        """Whether branches were cancelled that had not come to their ends."""

    async def run(self) -> list[Any] | None:
        """Their outputs, in order, null for those without one; None where some wait for somebody outside.

        Raises the first failure, unless the step goes on without.
        """
        try:
            while self._running or (self._left and self._goes_on()):
                self._start()
                done, _ = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    self._take(task)
                if not self._goes_on():
                    break
        finally:
            await self._cancel()
        if self._failure and self._action.policy != "continue" and not self._is_met():
            raise self._failure
        if self._waiting and not self._is_met():
            return None
        return self._outputs

    def _start(self) -> None:
        while self._left and len(self._running) < self._action.concurrency:
            number = self._left.pop()
            self._running[asyncio.ensure_future(self._branch(number))] = number

    def _take(self, task: "asyncio.Task[StepResult | None]") -> None:
        number = self._running.pop(task)
        try:
            result = task.result()
        except (ClaimLostError, BudgetExceededError):
            raise
        except RetinueError as error:
            self._failure = self._failure or error
            return
        if result is None:
            self._waiting = True
        else:
            self._outputs[number] = result.value
            self._succeeded += 1

    def _is_met(self) -> bool:
        return self._action.quorum is not None and self._succeeded >= self._action.quorum

    def _goes_on(self) -> bool:
        return not self._is_met() and not (self._failure and self._action.policy == "fail_fast")

    async def _cancel(self) -> None:
        if not self._running:
            return
        self.cut_off = True
        for task in self._running:
            task.cancel()
        await asyncio.wait(self._running)
        for task in self._running:
            if not task.cancelled():
                task.exception()  # it is looked at: nobody waits for it any more
