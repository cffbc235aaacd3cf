"""How long a run may take, from its acceptance on."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from retinue.errors import RunTimeoutError


@asynccontextmanager
async def time_limit(limit_s: float | None, since_us: int) -> AsyncIterator[None]:
    """End what is inside when a run that began at `since_us` has had its time. Raises RunTimeoutError."""
    if limit_s is None:
        yield
        return
    left_s = limit_s - (time.time_ns() // 1000 - since_us) / 1_000_000
    try:
        async with asyncio.timeout(max(left_s, 0.0)):
            yield
    except TimeoutError:
        raise RunTimeoutError(
            f"the run took longer than its timeout of {limit_s:g} s: raise its `timeout`, or that of the run",
            timeout_s=f"{limit_s:g}",
        ) from None
