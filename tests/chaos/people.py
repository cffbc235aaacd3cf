"""Those whom runs ask, and those who pause, resume and cancel them."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from random import Random

from retinue.client import Client
from retinue.engine.v1 import input_pb2
from retinue.errors import InputClosedError, RunStateInvalidError
from tests.chaos.callers import Callers
from tests.chaos.facts import Accepted
from tests.suite import FINAL

SHORT_S = 1.5
"""How long some requests wait for their answer, which some of these do not get."""

LOOK_S = 0.05


class People:
    """They answer all that they are asked, and tell some runs to stop for a while or for good."""

    def __init__(self, callers: Callers, accepted: Mapping[str, Accepted]) -> None:
        self._callers = callers
        self._accepted = accepted
        self._known: set[str] = set()
        self.answered: dict[str, list[input_pb2.InputAnswer]] = {}
        """The answers of each request that an engine accepted: one, if all is well."""
        self.cancelled: dict[str, str] = {}
        """Why each run was cancelled."""
        self.done: Counter[str] = Counter()

    @asynccontextmanager
    async def answering(self) -> AsyncIterator[None]:
        """Answer what is asked while the block lasts."""
        task = asyncio.create_task(self._answer_all())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _answer_all(self) -> None:
        chance = self._callers.chance("looking")
        async with asyncio.TaskGroup() as group:
            while True:
                for request in await self._callers.ask(chance, _pending):
                    if request.root_run_id in self._accepted:
                        group.create_task(self.attend(request))
                await asyncio.sleep(LOOK_S)

    async def attend(self, request: input_pb2.InputRequest) -> None:
        """Answer a request of an accepted run, whoever told of it, once."""
        if request.input_id in self._known:
            return
        self._known.add(request.input_id)
        tag = self._accepted[request.root_run_id].tag
        what = request.WhichOneof("kind"), request.approval.tool, request.approval.interrupted
        chance = self._callers.chance(tag, request.path, *what, request.question.text)
        time_s = request.expire_time.ToSeconds() - request.create_time.ToSeconds()
        if time_s < 2 * SHORT_S and chance.random() < 0.5:
            self.done["left unanswered"] += 1
            return
        answers = [_answer(request, chance)]
        if chance.random() < 0.3:
            answers.append(_answer(request, chance))
        await asyncio.sleep(chance.random() * 0.8)
        await asyncio.gather(*(self._give(request, answer, chance) for answer in answers))

    async def _give(
        self, request: input_pb2.InputRequest, answer: input_pb2.InputAnswer, chance: Random
    ) -> None:
        try:
            await self._callers.ask(chance, lambda client: client.inputs.answer(request, answer))
        except InputClosedError:
            self.done["answers too late"] += 1
            return
        self.done["answers"] += 1
        self.answered.setdefault(request.input_id, []).append(answer)

    async def steer(self, run_id: str) -> None:
        """Tell a run what its number says, at its time."""
        chance = self._callers.chance("steering", self._accepted[run_id].tag)
        if chance.random() < 0.1:
            await self._cancel(run_id, chance)
        elif chance.random() < 0.3:
            await self._hold_up(run_id, chance)

    async def _cancel(self, run_id: str, chance: Random) -> None:
        await asyncio.sleep(chance.random() * 3)
        self.cancelled[run_id] = reason = f"enough of {run_id}"
        await self._callers.ask(chance, lambda client: client.runs.cancel(run_id, reason=reason))
        self.done["cancels"] += 1

    async def _hold_up(self, run_id: str, chance: Random) -> None:
        """Pause, resume, once or more."""
        with suppress(RunStateInvalidError):
            for _ in range(chance.choice((1, 1, 2, 3))):
                await asyncio.sleep(chance.random() * 1.5)
                await self._callers.ask(chance, lambda client: client.runs.pause(run_id, reason="a while"))
                self.done["pauses"] += 1
                await asyncio.sleep(chance.random() * 1.5)
                await self._callers.ask(chance, lambda client: client.runs.resume(run_id))
            while True:
                # A pause that was given up by its caller may be carried out after all.
                run = await self._callers.ask(chance, lambda client: client.runs.get(run_id))
                if run.state in FINAL:
                    return
                if run.pause_requested:
                    await self._callers.ask(chance, lambda client: client.runs.resume(run_id))
                await asyncio.sleep(0.3)


async def _pending(client: Client) -> list[input_pb2.InputRequest]:
    return [each async for each in client.inputs.list()]


def _answer(request: input_pb2.InputRequest, chance: Random) -> input_pb2.InputAnswer:
    if request.HasField("question"):
        number = str(chance.randrange(1000))
        if chance.random() < 0.2:
            return input_pb2.InputAnswer(refuse=input_pb2.Refusal())
        return input_pb2.InputAnswer(value_json=number if request.question.schema_json else f'"say {number}"')
    drawn = chance.random()
    if drawn < 0.25:
        return input_pb2.InputAnswer(deny=input_pb2.Denial(reason=f"no {chance.randrange(1000)}"))
    changed = f'{{"ms": 50, "by": {chance.randrange(1000)}}}' if drawn < 0.5 else ""
    return input_pb2.InputAnswer(approve=input_pb2.Approval(arguments_json=changed))
