"""Reads what a server writes no faster than its share of the loop: a flood must not reach the neighbours."""

import asyncio
import time
from collections import deque
from collections.abc import Callable

import structlog

log = structlog.get_logger()

SHARE = 0.25
"""Of the loop's time, for taking in what one server writes; a busy server needs a tenth of that."""
BURST_S = 0.25
"""Beyond its share, after it was quiet."""
MAX_LINES = 200
"""Taken in at once: between them the loop does other things."""


class PacedReader:
    """Hands on what a pipe's transport reads, and pauses that where it is too much."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        self._transport: asyncio.ReadTransport | None = None
        self._slices: deque[bytes] = deque()
        self._budget_s = BURST_S
        self._last = time.perf_counter()
        self._later: asyncio.Handle | None = None
        self._told = False

    def open(self, transport: asyncio.ReadTransport) -> None:
        """Read from a transport."""
        self._transport = transport

    def feed(self, data: bytes) -> None:
        """Take what was read."""
        lines = data.count(b"\n")
        if self._later is None and lines <= MAX_LINES:
            self._measured(data)
            return
        size = max(len(data) * MAX_LINES // max(lines, 1), 1)
        self._slices.extend(data[first : first + size] for first in range(0, len(data), size))
        if self._later is None:
            self._go_on()

    def _measured(self, data: bytes) -> None:
        begin = time.perf_counter()
        self._take(data)
        now = time.perf_counter()
        self._budget_s = min(BURST_S, self._budget_s + (now - self._last) * SHARE) - (now - begin)
        self._last = now
        if self._budget_s < 0:
            if not self._told:
                self._told = True
                log.warning("a server writes faster than its share: it is read slowly from now on")
            self._pause(-self._budget_s / SHARE)

    def _go_on(self) -> None:
        self._later = None
        if self._slices:
            self._measured(self._slices.popleft())
        if self._later is None and self._slices:
            self._pause(0.0)
        elif self._later is None and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _pause(self, wait_s: float) -> None:
        loop = asyncio.get_running_loop()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
        self._later = loop.call_later(wait_s, self._go_on) if wait_s else loop.call_soon(self._go_on)

    def close(self) -> None:
        """Hand nothing on any more."""
        self._slices.clear()
        self._transport = None
        if self._later is not None:
            self._later.cancel()
