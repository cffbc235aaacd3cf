"""Runs one test: starts what it names, answers what that asks, and judges how it ended."""

import asyncio
import json
import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from retinue_cli.durations import parse_duration
from retinue_cli.kinds import KINDS
from retinue_cli.testing.cases import TIMEOUT_S, Case
from retinue_cli.testing.judging import Judged

if TYPE_CHECKING:
    from retinue.client import Client
    from retinue.engine.v1 import event_pb2, input_pb2


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a test went."""

    name: str
    faults: list[str]
    """What was not as expected; empty where it passed."""
    run_id: str
    seconds: float


async def run_case(client: "Client", case: Case) -> Outcome:
    """Run a test, to its end or to its timeout."""
    from retinue.errors import RetinueError

    began = time.monotonic()
    playing = _Playing(client, case)
    limit_s = parse_duration(case.timeout).total_seconds() if case.timeout else TIMEOUT_S
    try:
        async with asyncio.timeout(limit_s):
            faults = await playing.play()
    except TimeoutError:
        faults = [f"it did not end within {limit_s:g} s"]
        if playing.run_id:
            await client.runs.cancel(playing.run_id, reason="its test has had its time")
    except RetinueError as error:
        faults = [str(error)]
    return Outcome(case.name, faults, playing.run_id, time.monotonic() - began)


class _Playing:
    """One test that is being run."""

    def __init__(self, client: "Client", case: Case) -> None:
        self._client = client
        self._case = case
        self._answers = list(case.answers)
        self._asked: list[str] = []
        self.run_id = ""

    async def play(self) -> list[str]:
        """What is not as expected."""
        case, events = self._case, list[Any]()
        message = case.input if isinstance(case.input, str) else json.dumps(case.input, ensure_ascii=False)
        kind: Any = KINDS[case.kind] if case.kind else 0
        async with aclosing(self._client.runs.stream(case.run, message, kind=kind)) as story:  # type: ignore[type-var]
            async for event in story:
                self.run_id = self.run_id or event.run_id
                events.append(event)
                if event.HasField("input_requested") and not await self._answer(event):
                    asked = self._asked[-1]
                    await self._client.runs.cancel(self.run_id, reason="its test has no answer")
                    return [f"it asks {asked!r}, and `answers` has none left"]
        return list(Judged(events, self._asked).faults(case.expect)) + self._left()

    async def _answer(self, event: "event_pb2.RunEvent") -> bool:
        """Answer what a run asks with the next answer of the test; whether there is one."""
        request: input_pb2.InputRequest = event.input_requested.request
        is_approval = request.HasField("approval")
        self._asked.append(request.approval.tool if is_approval else request.question.text)
        if not self._answers:
            return False
        answer = self._answers.pop(0)
        inputs = self._client.inputs
        if not is_approval:
            await inputs.provide(request, answer)
        elif answer is True:
            await inputs.approve(request)
        else:
            await inputs.deny(request, answer if isinstance(answer, str) else "")
        return True

    def _left(self) -> list[str]:
        count = len(self._answers)
        return [f"answers: it asked less than expected, {count} of them are left"] if count else []
