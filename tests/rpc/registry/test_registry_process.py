"""The registry's process: killed at any moment, it has all that it answered, and nothing half done."""

import asyncio
import os
import signal
import sys
from pathlib import Path

from retinue.client import Components, open_client
from retinue.errors import ServiceUnavailableError
from tests.rpc.registry.serving import BOUND_S, LLM, llm, process, serving


async def test_a_killed_registry_has_all_that_it_answered_and_nothing_half_done(tmp_path: Path) -> None:
    answered: dict[str, int] = {}

    async def write(components: Components, writer: int) -> None:
        for turn in range(1000):
            pair = [llm(f"x-{writer}", f"m{turn}"), llm(f"y-{writer}", f"m{turn}")]
            try:
                response = await components.apply(pair)
            except ServiceUnavailableError:
                return
            answered[f"{writer}"] = response.applied[0].component.version

    for after in (40, 150):
        answered.clear()
        async with (
            process(tmp_path) as running,
            open_client(registry=running.address) as client,
            asyncio.timeout(BOUND_S),
            asyncio.TaskGroup() as group,
        ):
            for writer in range(8):
                group.create_task(write(client.components, writer))
            watch = client.components.watch()
            seen = 0
            async for response in watch:
                seen += len(response.changes)
                if seen >= after:
                    break
            await running.kill()
        async with serving(tmp_path) as components:
            revisions = []
            for writer in range(8):
                pair = [await components.get(LLM, f"{name}-{writer}") for name in "xy"]
                assert pair[0].version == pair[1].version >= answered.get(f"{writer}", 0)
                assert pair[0].llm == pair[1].llm
                for version in range(1, pair[0].version + 1):
                    revisions += [
                        (await components.get(LLM, f"{name}-{writer}", version=version)).revision
                        for name in "xy"
                    ]
            assert sorted(revisions) == list(range(1, len(revisions) + 1))


async def test_the_process_ends_in_order_when_it_is_told_to(tmp_path: Path) -> None:
    async with process(tmp_path) as running, open_client(registry=running.address) as client:
        await client.components.apply([llm("fast")])
        running.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(BOUND_S):
            assert await running.process.wait() == 0
    async with serving(tmp_path) as components:
        assert (await components.get(LLM, "fast")).version == 1


async def test_a_process_that_cannot_start_says_why_in_one_line(tmp_path: Path) -> None:
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "retinue_registry",
        env={**os.environ, "RETINUE_PROJECT": str(tmp_path)},
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(BOUND_S):
        _, said = await started.communicate()
    assert started.returncode == 1
    assert (
        said.decode()
        == f"registry: RETINUE_PROJECT is {tmp_path}, and there is no retinue.yaml in that folder\n"
    )
