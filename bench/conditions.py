"""Waiting for what is to come: a condition with a bound; the fake model's held requests."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import aiohttp

from bench.processes import BenchError

_POLL_S = 0.02


async def until(condition: Callable[[], Awaitable[bool]], what: str, within_s: float) -> None:
    """Wait until a condition holds. Raises BenchError where it takes too long."""
    end = time.perf_counter() + within_s
    while not await condition():
        if time.perf_counter() > end:
            raise BenchError(f"not within {within_s:.0f} s: {what}")
        await asyncio.sleep(_POLL_S)


class Held:
    """The requests that the fake model holds."""

    def __init__(self, model_url: str, http: aiohttp.ClientSession) -> None:
        self._model_url = model_url
        self._http = http

    async def until(self, count: int, within_s: float) -> None:
        """Wait until the model holds so many. Raises BenchError."""

        async def holds() -> bool:
            async with self._http.get(f"{self._model_url}/held") as response:
                return int(await response.text()) >= count

        await until(holds, f"the model holds {count} requests", within_s)

    async def release(self) -> None:
        """Let them go."""
        async with self._http.post(f"{self._model_url}/release") as response:
            await response.read()
