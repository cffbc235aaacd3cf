"""Branches side by side: so many at a time, and what becomes of the others where one fails."""

from collections.abc import Callable, Coroutine
from typing import Any

from retinue.errors import BudgetExceededError, ClaimLostError, JoinNotMetError, RetinueError
from retinue_engine.workflow.definition import EachAction
from retinue_engine.workflow.result import StepResult
from retinue_engine.workflow.side_by_side import SideBySide

Branch = Callable[[int], Coroutine[Any, Any, StepResult | None]]
"""Takes one branch, by its number from 0, as far as it can go now; None where it waits."""
Abandon = Callable[[int, str], None]
"""Says that a branch is given up, and why."""


class Branches:
    """The branches of one try of an `each`."""

    def __init__(self, count: int, branch: Branch, abandon: Abandon, action: EachAction) -> None:
        self._branch = branch
        self._abandon = abandon
        self._action = action
        self._outputs: list[Any] = [None] * count
        self._left = list(range(count))[::-1]
        self._running: SideBySide[int, StepResult | None] = SideBySide()
        self._waiting: list[int] = []
        self._succeeded = 0
        self._failure: RetinueError | None = None

    async def run(self) -> list[Any] | None:
        """Their outputs, in order, null for those without one; None where some wait for somebody outside.

        Raises the first failure, unless the step goes on without; JoinNotMetError without a quorum.
        """
        try:
            while self._goes_on() and (self._left or len(self._running)):
                self._start()
                for number, task in await self._running.news(None):
                    if not task.cancelled():
                        self._take(number, task.result)
        finally:
            unfinished = [*self._running.at_work(), *self._waiting]
            await self._running.aclose()
        if self._is_met():
            self._give_up(unfinished, "so many as its quorum says have succeeded")
            return self._outputs
        if self._failure and self._action.policy == "fail_fast":
            self._give_up(unfinished, f"another branch failed: {self._failure.message[:500]}")
            raise self._failure
        if self._waiting:
            return None
        if self._failure and self._action.policy == "wait_all":
            raise self._failure
        if self._action.quorum is not None:
            raise self._too_few(self._action.quorum)
        return self._outputs

    def _too_few(self, quorum: int) -> JoinNotMetError:
        why = f": {self._failure.message[:500]}" if self._failure else ""
        return JoinNotMetError(
            f"{self._succeeded} of {len(self._outputs)} branches have succeeded, and the quorum is {quorum}"
            f"{why}",
            taken=self._succeeded,
            needed=quorum,
        )

    def _start(self) -> None:
        while self._left and len(self._running) < self._action.concurrency:
            number = self._left.pop()
            self._running.start(number, self._branch(number))

    def _take(self, number: int, result_of: Callable[[], StepResult | None]) -> None:
        try:
            result = result_of()
        except (ClaimLostError, BudgetExceededError):
            raise
        except RetinueError as error:
            self._failure = self._failure or error
            return
        if result is None:
            self._waiting.append(number)
        else:
            self._outputs[number] = result.value
            self._succeeded += 1

    def _give_up(self, numbers: list[int], why: str) -> None:
        for number in numbers:
            self._abandon(number, why)

    def _is_met(self) -> bool:
        return self._action.quorum is not None and self._succeeded >= self._action.quorum

    def _goes_on(self) -> bool:
        return not self._is_met() and not (self._failure and self._action.policy == "fail_fast")
