"""The registry's process: how it ends, and what it says where it cannot start."""

import asyncio
import os
import signal
import sys
from pathlib import Path

from retinue.client import open_client
from tests.rpc.registry.serving import BOUND_S, LLM, llm, process, serving


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
