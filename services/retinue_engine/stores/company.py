"""How long a commit waits for others to go along with it."""

import time

LINGER_PER_WRITE_S = 0.0005
"""The wait for each write that the largest commits lately had beside another, and only where the processor is
busy: a commit and all that follows from it cost processor time, much of it the same for one write as for ten,
and where there is enough of that, waiting costs patience alone."""

LONGEST_LINGER_S = 0.008

HIGH_LOAD = 0.7
"""Of one core, from which on the processor is busy. The event loop cannot use more than one, and may share it
with the MCP host."""

LOOK_S = 0.05
"""Between two looks at the load."""

COMPANY_LEFT = 0.98
"""How much of a commit's size the next one remembers: half of it after 34. Small commits make small commits,
as what a run waits for comes to it alone then; so the largest of the last tenths of a second counts."""


class Company:
    """What one writer's commits had for company lately."""

    def __init__(self) -> None:
        self._size = 1.0
        self._looked_s = time.monotonic()
        self._used_s = time.process_time()
        self._busy = False

    def note(self, writes: int) -> None:
        """Take in that so many writes are committed together."""
        self._size = max(writes, COMPANY_LEFT * self._size)

    def linger_s(self) -> float:
        """How long the next commit waits. Who writes alone never waits."""
        if self._size <= 1 or not self._is_busy():
            return 0.0
        return min(LONGEST_LINGER_S, (self._size - 1) * LINGER_PER_WRITE_S)

    def _is_busy(self) -> bool:
        now_s = time.monotonic()
        if now_s - self._looked_s >= LOOK_S:
            used_s = time.process_time()
            self._busy = used_s - self._used_s >= HIGH_LOAD * (now_s - self._looked_s)
            self._looked_s, self._used_s = now_s, used_s
        return self._busy
