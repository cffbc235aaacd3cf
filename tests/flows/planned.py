"""A custom workflow that does what its input says, and is killed where that says so."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import BaseModel

from flows import note
from retinue.errors import RetinueError
from retinue_workflow import Context


class Part(BaseModel):
    """One thing to do. What is named has its place as its key, else the engine counts."""

    do: str
    at: str
    named: bool = True
    name: str = ""
    """Of a value of the state."""
    branches: list[list["Part"]] = []


class Plan(BaseModel):
    """What to do; `dies_at` has for each process of it the call in which that is killed, from 1."""

    number: int
    parts: list[Part]
    dies_at: list[int]
    lag_s: float
    """From when that call is begun."""


class Follows:
    """Follows a plan; gives what each of its parts gave."""

    async def run(self, ctx: Context, input: Plan) -> list[Any]:
        self._ctx, self._number, self._lag_s = ctx, input.number, input.lag_s
        before = note(f"processes_{input.number}", os.getpid())
        self._left = input.dies_at[before] if before < len(input.dies_at) else 0
        return await self._all(input.parts)

    async def _all(self, parts: list[Part]) -> list[Any]:
        return [await self._part(part) for part in parts]

    async def _part(self, part: Part) -> Any:
        ctx, key = self._ctx, part.at if part.named else ""
        said = f"{self._number}/{part.at}"
        if part.do == "gather":
            return list(await asyncio.gather(*map(self._all, part.branches)))
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "tool": lambda: ctx.tool("tools", "count_again", {"n": said, "ms": 2}, key=key),
            "fail": lambda: ctx.tool("tools", "fail", key=key),
            "agent": lambda: ctx.agent("writer", said, key=key),
            "workflow": lambda: ctx.workflow("line", said, key=key),
            "write": lambda: ctx.write_state(part.name, part.at, key=key),
            "read": lambda: ctx.read_state(part.name, key=key),
            "emit": lambda: ctx.emit("told", part.at, key=key),
            "sleep": lambda: ctx.sleep(0.001, key=key),
        }
        try:
            return await self._call(calls[part.do]())
        except RetinueError as error:
            return type(error).__name__

    async def _call(self, call: Awaitable[Any]) -> Any:
        self._left -= 1
        asked = asyncio.ensure_future(call)
        if self._left == 0:
            await asyncio.sleep(self._lag_s)
            os.kill(os.getpid(), 9)
        return await asked
