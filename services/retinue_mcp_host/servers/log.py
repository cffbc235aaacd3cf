"""What servers log, bounded: lines of stderr and MCP log messages, for those who look and who follow."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from retinue_kit.secrets import hide_values
from retinue_mcp_host.connections.notices import LOG_LEVELS

DEFAULT_LEVEL = "info"

MAX_ENTRIES = 1000
MAX_CHARS = 512 * 1024
"""Of one server; what is older is dropped, and counted."""
MAX_MESSAGE_CHARS = 8 * 1024
"""Of a longer message the beginning is kept."""
MAX_SERVERS = 1000
"""Whose logs are kept; beyond it those that were asked for longest ago are forgotten."""

_ENTRY_CHARS = 100
"""What an entry costs beside its message."""

OnLevel = Callable[[str], None]
"""Told the least grave level that somebody wants now; must not block."""


class LogEntry(NamedTuple):
    """One thing that a server logged."""

    time_us: int
    """Since 1970."""
    level: str
    """One of LOG_LEVELS; empty for a line of stderr."""
    logger: str
    message: str
    scope: str
    """The session or root run whose connection it is; empty for the one that all share."""


class LogRing:
    """The last that one server has logged, over all its connections."""

    def __init__(self) -> None:
        self._entries: deque[LogEntry] = deque()
        self._chars = 0
        self._first = 0
        """The number of the oldest entry that is kept; all that ever came are counted."""
        self._readers: set[LogReader] = set()
        self._level = DEFAULT_LEVEL
        self._listeners: set[OnLevel] = set()

    @property
    def end(self) -> int:
        """The number that the next entry gets."""
        return self._first + len(self._entries)

    @property
    def level(self) -> str:
        """The least grave level that somebody wants."""
        return self._level

    @property
    def is_read(self) -> bool:
        """Whether somebody reads it, or a connection writes to it."""
        return bool(self._readers or self._listeners)

    def append(self, entry: LogEntry) -> None:
        """Keep an entry in place of the oldest."""
        self._entries.append(entry)
        self._chars += len(entry.message) + _ENTRY_CHARS
        while len(self._entries) > MAX_ENTRIES or self._chars > MAX_CHARS:
            self._chars -= len(self._entries.popleft().message) + _ENTRY_CHARS
            self._first += 1
        for reader in self._readers:
            reader.wake.set()

    def drop(self, count: int) -> None:
        """Count entries that were not even kept; those before them are gone too, so that numbers hold."""
        if count:
            self._first = self.end + count
            self._entries.clear()
            self._chars = 0

    def after(self, place: int) -> tuple[Sequence[LogEntry], int]:
        """The entries from a number on, and how many of these are gone."""
        skip = max(0, place - self._first)
        return list(self._entries)[skip:], max(0, self._first - place)

    def stderr(self, scope: str, max_lines: int) -> list[str]:
        """The last lines of stderr of one scope's connection, the oldest first."""
        lines: list[str] = []
        for entry in reversed(self._entries):
            if not entry.level and entry.scope == scope:
                lines.append(entry.message)
                if len(lines) == max_lines:
                    break
        return lines[::-1]

    def listen(self, listener: OnLevel) -> None:
        """Tell a listener when another level is wanted."""
        self._listeners.add(listener)

    def unlisten(self, listener: OnLevel) -> None:
        """Tell it no more."""
        self._listeners.discard(listener)

    def add_reader(self, reader: "LogReader") -> None:
        """Wake a reader at what comes."""
        self._readers.add(reader)
        self._choose_level()

    def remove_reader(self, reader: "LogReader") -> None:
        """Wake it no more."""
        self._readers.discard(reader)
        self._choose_level()

    def _choose_level(self) -> None:
        wanted = min((LOG_LEVELS.index(each.level) for each in self._readers), default=len(LOG_LEVELS))
        level = LOG_LEVELS[min(wanted, LOG_LEVELS.index(DEFAULT_LEVEL))]
        if level != self._level:
            self._level = level
            for listener in tuple(self._listeners):
                listener(level)


class LogReader:
    """Somebody's place in a server's log."""

    def __init__(self, ring: LogRing, level: str) -> None:
        self._ring = ring
        self.level = level
        """The least grave to read; lines of stderr have none and are always read."""
        self.wake = asyncio.Event()
        self._place = 0

    def open(self) -> None:
        """Begin with what is kept, and be woken by what comes."""
        self._ring.add_reader(self)

    def close(self) -> None:
        """Be woken no more."""
        self._ring.remove_reader(self)

    def read(self) -> tuple[list[LogEntry], int]:
        """What has come since the last time, the oldest first, and how many before it were dropped."""
        found, dropped = self._ring.after(self._place)
        self._place = self._ring.end
        least = LOG_LEVELS.index(self.level)
        return [each for each in found if not each.level or LOG_LEVELS.index(each.level) >= least], dropped

    async def wait(self, timeout_s: float) -> None:
        """Wait until something has come, or until the time is over."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.wake.wait()
        except TimeoutError:
            return
        self.wake.clear()


class ServerLog:
    """Where one connection's server logs to. Secrets that it is told of are shown as `***`."""

    def __init__(self, ring: LogRing, scope: str) -> None:
        self._ring = ring
        self._scope = scope
        self._secrets: list[Sequence[str]] = []

    def hide(self, secrets: Sequence[str]) -> None:
        """Never show these, nor what is added to them later."""
        self._secrets.append(secrets)

    def add(self, level: str, logger: str, message: str) -> None:
        """Take an MCP log message; `level` is MCP's word, `message` its data as text, else as JSON."""
        self._append(level if level in LOG_LEVELS else DEFAULT_LEVEL, logger[:200], message)

    def add_lines(self, lines: Sequence[str], dropped: int = 0) -> None:
        """Take lines of stderr, and how many came before them and are lost."""
        self._ring.drop(dropped)
        for line in lines:
            self._append("", "", line)

    def _append(self, level: str, logger: str, message: str) -> None:
        for secrets in self._secrets:
            message = hide_values(message, secrets)
        if len(message) > MAX_MESSAGE_CHARS:
            message = message[:MAX_MESSAGE_CHARS] + "…"
        self._ring.append(LogEntry(time.time_ns() // 1000, level, logger, message, self._scope))

    @property
    def level(self) -> str:
        """The least grave level that somebody wants: what to ask the server for."""
        return self._ring.level

    def listen(self, on_level: OnLevel) -> None:
        """Be told when another level is wanted; until `unlisten`."""
        self._ring.listen(on_level)

    def unlisten(self, on_level: OnLevel) -> None:
        """Be told no more."""
        self._ring.unlisten(on_level)


class ServerLogs:
    """The logs of all servers, by namespace and name."""

    def __init__(self) -> None:
        self._rings: dict[tuple[str, str], LogRing] = {}

    def ring(self, namespace: str, server: str) -> LogRing:
        """The log of a server, which begins empty."""
        key = (namespace, server)
        ring = self._rings.pop(key, None) or LogRing()
        self._rings[key] = ring
        if len(self._rings) > MAX_SERVERS:
            oldest = next((known for known, each in self._rings.items() if not each.is_read), None)
            if oldest is not None and oldest != key:
                del self._rings[oldest]
        return ring
