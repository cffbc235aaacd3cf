"""Custom workflows that tests run in workers; what they do beside their calls they write into files."""

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from retinue.errors import RetinueError
from retinue_workflow import Context, ThreadContext


def note(name: str, what: object) -> int:
    """Append a line to a file of the folder that the config names; how many were in it before."""
    data = json.dumps(what) + "\n"
    path = Path(os.environ["NOTES"]) / name
    before = len(path.read_text().splitlines()) if path.exists() else 0
    out = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(out, data.encode())
    os.close(out)
    return before


class Topic(BaseModel):
    topic: str
    words: int = 10


class Report(BaseModel):
    text: str
    score: float


class Writes:
    """An agent, another one side by side with a tool, and a typed report of both."""

    async def run(self, ctx: Context, input: Topic) -> Report:
        found = await ctx.agent("finder", f"Look for {input.topic}.")
        wrote, looked = await asyncio.gather(
            ctx.agent("writer", found, key="draft"), ctx.tool("tools", "look", {"n": input.words})
        )
        return Report(text=f"{wrote} / {looked}", score=0.5)


class Echo:
    async def run(self, ctx: Context, input: str) -> str:
        return f"{ctx.name}: {input}"


class Plain:
    """Not async: runs in a thread, and blocks it."""

    def run(self, ctx: ThreadContext, input: str) -> dict[str, Any]:
        ctx.write_state("step", 1)
        found = ctx.agent("finder", input)
        time.sleep(0.01)
        ctx.emit("found", {"what": found})
        return {"found": found, "step": ctx.read_state("step"), "none": ctx.read_state("other", "nothing")}


class Counts:
    """Calls one after the other; notes each time its code runs."""

    async def run(self, ctx: Context, input: str) -> list[Any]:
        note("ran", {"pid": os.getpid()})
        given = []
        for number in range(3):
            given.append(await ctx.tool("tools", "count_again", {"n": number, "ms": 20}))
            note("between", number)
        given.append(await ctx.agent("writer", input))
        return given


class Asks:
    async def run(self, ctx: Context, input: str) -> str:
        note("ran", {"pid": os.getpid()})
        before = await ctx.agent("finder", input)
        answer = await ctx.ask("How many?", answer=int)
        return f"{before}: {answer + 1}"


class AsksTwice:
    async def run(self, ctx: Context, input: str) -> list[Any]:
        note("ran", {"pid": os.getpid()})
        return list(await asyncio.gather(*(ctx.ask(f"{each}?", answer=int) for each in ("one", "two"))))


class Sleeps:
    async def run(self, ctx: Context, input: str) -> str:
        note("ran", {"pid": os.getpid()})
        await ctx.sleep(float(input))
        return "awake"


class Chance:
    """Asks something else each time it runs."""

    async def run(self, ctx: Context, input: str) -> str:
        await ctx.agent("writer", f"{os.getpid()}")
        await ctx.ask("Go on?", answer=bool)
        return "done"


class SameKey:
    async def run(self, ctx: Context, input: str) -> list[str]:
        first = await ctx.agent("finder", "one", key="it")
        again = await ctx.agent("finder", "one", key="it")
        if input == "other":
            await ctx.agent("finder", "two", key="it")
        return [first, again]


class Misbehaves:
    """Does what the message says."""

    async def run(self, ctx: Context, input: str) -> Any:
        note("ran", {"pid": os.getpid()})
        sys.stderr.write("about to\n")
        match input:
            case "raise":
                raise KeyError("gold")
            case "exit":
                os._exit(7)
            case "kill":
                os.kill(os.getpid(), 9)
            case "loop":
                while True:
                    pass
            case "memory":
                return len(bytearray(400 * 1024 * 1024))
            case "child":
                child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
                note("child", {"pid": child.pid})
                await ctx.ask("Go on?")
            case "output":
                return "x" * 500_000
            case "no json":
                return {1, object()}
            case "shout":
                for _ in range(40):
                    print("y" * 10_000)  # noqa: T201 - that is the point
            case "unknown":
                await ctx.agent("nobody", "hi")
            case "catches":
                try:
                    await ctx.tool("tools", "fail")
                except RetinueError as error:
                    return str(error)
            case "too long":
                await ctx.tool("tools", "hang", timeout_s=0.2)
            case "gives up":
                try:
                    async with asyncio.timeout(0.2):
                        await ctx.tool("tools", "hang", key="hung")
                except TimeoutError:
                    return "gave up"
            case "too many":
                await asyncio.gather(*(ctx.sleep(600) for _ in range(1100)))
            case "endless":
                while True:
                    await ctx.read_state("x")
        return "said"


class Environment:
    async def run(self, ctx: Context, input: str) -> dict[str, str]:
        print("to stdout")  # noqa: T201 - what it writes is kept
        return dict(os.environ)


class Wraps:
    """Runs what it is told."""

    async def run(self, ctx: Context, input: str) -> Any:
        return await ctx.workflow(input, "inner")


class Many:
    async def run(self, ctx: Context, input: str) -> int:
        outputs = await asyncio.gather(*(ctx.agent("writer", str(n), key=f"n{n}") for n in range(int(input))))
        return len(set(outputs))


class Impatient:
    """An agent that asks a person, and not for long."""

    async def run(self, ctx: Context, input: str) -> str:
        try:
            return str(await ctx.agent("asker", input, timeout_s=2))
        except RetinueError as error:
            return type(error).__name__


class Holds:
    async def run(self, ctx: Context, input: str) -> str:
        held = await ctx.tool("tools", "hold")
        return f"{held}, {await ctx.agent('writer', input)}"


class FailsUntil:
    """Fails one call later each time, until it is mended."""

    async def run(self, ctx: Context, input: str) -> str:
        note("tries", 1)
        tries = len((Path(os.environ["NOTES"]) / "tries").read_text().splitlines())
        given = ""
        for number in range(min(tries, 2)):
            given = await ctx.tool("tools", "count_again", {"n": number})
        if not (Path(os.environ["NOTES"]) / "mended").exists():
            raise RuntimeError("not mended")
        return f"{given} {min(tries, 2)}"


class Keeps:
    async def run(self, ctx: Context, input: str) -> str:
        before = await ctx.read_state("mine", "nothing")
        await ctx.write_state("mine", input)
        await ctx.agent("writer", input)
        return f"{await ctx.read_state('mine')}, {before}"


class Outer:
    """Side by side: an agent with a tool, a tool, and a workflow with another one's code in it."""

    async def run(self, ctx: Context, input: str) -> dict[str, Any]:
        note("ran", {"pid": os.getpid()})
        found, counted, inner = await asyncio.gather(
            ctx.agent("finder", input),
            ctx.tool("tools", "count_again", {"n": 9, "ms": 20}),
            ctx.workflow("line", input),
        )
        await ctx.write_state("found", found)
        return {"found": found, "counted": counted, "inner": inner}


class CountsAndAsks:
    async def run(self, ctx: Context, input: str) -> str:
        for number in range(2):
            await ctx.tool("tools", "count_again", {"n": number, "ms": 20})
            note("between", number)
        return str(await ctx.ask("How many?", answer=int))


class CountsOnce:
    async def run(self, ctx: Context, input: str) -> str:
        note("ran", {"pid": os.getpid()})
        return str(await ctx.tool("tools", "count_again", {"n": 0, "ms": 20}))
