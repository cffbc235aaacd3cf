"""A small app that misbehaves on request, served by the kit."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.suite import START_S


class Service:
    """A service's process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.ready = ""

    async def output(self) -> tuple[str, str]:
        """What it said on stdout after ready, and on stderr, once it has ended."""
        async with asyncio.timeout(START_S):
            out, err = await self.process.communicate()
        return out.decode(), err.decode()


Start = Callable[..., "AsyncIterator[Service]"]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[object]:
    """Starts `python -m MODULE` with nothing in its environment but what is given."""
    async with AsyncExitStack() as stack:

        @asynccontextmanager
        async def running(module: str, env: Mapping[str, str]) -> AsyncIterator[Service]:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                module,
                env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **env},
                cwd=tmp_path,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            try:
                yield Service(process)
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.communicate()

        async def starting(module: str = "retinue_engine", *, ready: bool = True, **env: str) -> Service:
            own = {
                "RETINUE_ENGINE_ADDRESS": "127.0.0.1:0",
                "RETINUE_ENGINE_METRICS_ADDRESS": "",
                "RETINUE_REGISTRY_ADDRESS": "127.0.0.1:1",
                "RETINUE_MCP_HOST_ADDRESS": "127.0.0.1:1",
                "RETINUE_DATA_DIR": str(tmp_path / "data"),
                **env,
            }
            service = await stack.enter_async_context(running(module, own))
            if ready:
                assert service.process.stdout is not None
                async with asyncio.timeout(START_S):
                    service.ready = (await service.process.stdout.readline()).decode()
                assert service.ready, await service.output()
            return service

        yield starting
