"""How connections fare over their lives: failures in a row, when they may be tried again, their breakers."""

import asyncio
import random
import time
from collections.abc import Iterable
from typing import Literal

from retinue.errors import (
    McpProtocolError,
    McpRequestRefusedError,
    McpServerUnavailableError,
    McpTimeoutError,
    RetinueError,
    reason_name,
)
from retinue_mcp_host.changes import Changes
from retinue_mcp_host.failures import SessionLostError
from retinue_mcp_host.model import SHARED, ConnectionKey, ServerInfo, ServerSpec

FIRST_BACKOFF_S = 0.5
"""From the second failure in a row on; after the first the next use tries again at once."""
LONGEST_BACKOFF_S = 30.0
BREAKS_AFTER = 5
"""Failures in a row that open the breaker."""
SETTLED_S = 60.0
"""How long a connection must have stood for the failures before it to be forgotten."""
MAX_HEALTHS = 10_000
"""Beyond it those of connections that ended are forgotten, the oldest first."""

State = Literal["connecting", "ready", "closed", "failed", "broken"]
_OVER = ("closed", "failed", "broken")

_COUNTED = (McpServerUnavailableError, McpTimeoutError, McpProtocolError, McpRequestRefusedError)
"""What waiting may mend. A missing secret or a component that is not allowed waits for somebody."""


class Health:
    """What is known of one connection, beyond its end. Its breaker is open in the state `broken`."""

    def __init__(self, key: ConnectionKey, changed: Changes) -> None:
        self.key = key
        self._changed = changed
        self.state: State = "closed"
        self.since_us = _now_us()
        self.retry_us = 0
        """When a failed one may be tried again, since 1970; 0 where nothing is waited for."""
        self.restarts = 0
        self.failures = 0
        """In a row."""
        self.last_failure: RetinueError | None = None
        self.on_trial = False
        """Whether the breaker is half open: one try is under way, and decides."""
        self._failed = False
        self._retry_at = 0.0
        self._ready_at = 0.0
        self._mended = asyncio.Event()

    def connecting(self) -> None:
        """A try begins."""
        self.on_trial = self.state == "broken"
        self._enter("connecting")

    def ready(self) -> None:
        """It can be called."""
        self._ready_at = time.monotonic()
        self.on_trial = False
        if self._failed:
            self.restarts += 1
            self._failed = False
        self._enter("ready")

    def closed(self) -> None:
        """It was idle, or was closed. Failures before it are not forgotten by that."""
        self._settle()
        self.on_trial = False
        self._enter("closed")

    def failed(self, failure: RetinueError) -> None:
        """It could not be connected, or was lost."""
        self._settle()
        self.on_trial = False
        self._failed = True
        self.last_failure = failure
        if isinstance(failure, SessionLostError) or not isinstance(failure, _COUNTED):
            self._enter("failed")
            return
        self.failures += 1
        wait_s = backoff_s(self.failures)
        self._retry_at = time.monotonic() + wait_s
        self._mended.clear()
        self._enter("broken" if self.failures >= BREAKS_AFTER else "failed", wait_s)

    def reset(self) -> None:
        """Somebody says that it is to be tried again."""
        self.failures = 0
        self._retry_at = 0.0
        self.on_trial = False
        self._mended.set()
        self._enter("closed")

    @property
    def wait_s(self) -> float:
        """Until the next try may be made; 0 where that is now."""
        return max(0.0, self._retry_at - time.monotonic()) if self.failures else 0.0

    async def until_retry(self) -> None:
        """Wait until the next try may be made."""
        try:
            async with asyncio.timeout(self.wait_s):
                await self._mended.wait()
        except TimeoutError:
            return

    def refusal(self, spec: ServerSpec) -> RetinueError | None:
        """Why a use fails at once; None where it may wait for the next try, or make it."""
        wait_s = self.wait_s
        if not self.on_trial and (
            wait_s <= 0 or (self.state != "broken" and wait_s <= spec.connect_timeout_s)
        ):
            return None
        last = self.last_failure
        when = f"is tried again in {wait_s:.1f} s" if wait_s else "is just being tried"
        return McpServerUnavailableError(
            f"MCP server {spec.name} has failed {self.failures} times in a row and {when}; the last time: "
            f"{last.message if last else ''}",
            server=spec.name,
            namespace=spec.namespace,
            failures=self.failures,
            last_failure=reason_name(last.reason) if last else None,
            retry_after_s=f"{wait_s or FIRST_BACKOFF_S:.3f}",
            stderr=last.facts.get("stderr") if last else None,
        )

    def _settle(self) -> None:
        if self.state == "ready" and time.monotonic() - self._ready_at >= SETTLED_S:
            self.failures = 0

    def _enter(self, state: State, wait_s: float = 0.0) -> None:
        self.state = state
        self.since_us = _now_us()
        self.retry_us = self.since_us + int(wait_s * 1e6) if wait_s else 0
        self._changed.tell(self.key.namespace, self.key.server)


class Supervision:
    """The health of every connection that is or was."""

    def __init__(self, changed: Changes) -> None:
        self._changed = changed
        self._healths: dict[ConnectionKey, Health] = {}
        self._infos: dict[tuple[str, str], ServerInfo] = {}

    def health(self, key: ConnectionKey) -> Health:
        """The health of a connection, new where nothing is known of it."""
        health = self._healths.get(key)
        if health is None:
            if len(self._healths) >= MAX_HEALTHS:
                self._forget_one()
            health = self._healths[key] = Health(key, self._changed)
        return health

    def of(self, namespace: str, server: str) -> list[Health]:
        """What is known of a server, the newest connection first."""
        found = [each for key, each in self._healths.items() if key[:2] == (namespace, server)]
        return sorted(found, key=lambda each: (each.key.version, each.since_us), reverse=True)

    def opened(self, key: ConnectionKey, info: ServerInfo | None) -> None:
        """Note that a connection can be called, and what its server says about itself."""
        if info is not None:
            self._infos.pop(key[:2], None)
            self._infos[key[:2]] = info
            if len(self._infos) > MAX_HEALTHS:
                del self._infos[next(iter(self._infos))]
        self.health(key).ready()

    def ended(self, key: ConnectionKey, failure: RetinueError | None, *, is_current: bool) -> None:
        """Note that a connection has ended; that of an older version or of a scope is asked for no more."""
        health = self._healths.get(key)
        if health is None:
            return
        if failure is not None:
            health.failed(failure)
        else:
            health.closed()
        if not is_current or (key.scope != SHARED and failure is None):
            self._forget([key])

    def info(self, namespace: str, server: str) -> ServerInfo | None:
        """What a server said about itself when it was connected last."""
        return self._infos.get((namespace, server))

    def reset(self, namespace: str, server: str) -> None:
        """Close the breakers of a server."""
        for health in self.of(namespace, server):
            health.reset()

    def supersede(self, namespace: str, server: str, version: int) -> None:
        """Forget the failures of versions before one; what is connected is forgotten as it ends."""
        self._forget([each.key for each in self._over(namespace, server) if each.key.version < version])

    def retire(self, namespace: str, server: str) -> None:
        """Forget a server that the registry has no more; what is connected is forgotten as it ends."""
        self._infos.pop((namespace, server), None)
        self._forget([each.key for each in self._over(namespace, server)])

    def forget_scope(self, namespace: str, scope: str) -> None:
        """Forget the connections of a session or run tree."""
        self._forget([key for key in self._healths if key.namespace == namespace and key.scope == scope])

    def _over(self, namespace: str, server: str) -> list[Health]:
        return [each for each in self.of(namespace, server) if each.state in _OVER]

    def _forget(self, keys: Iterable[ConnectionKey]) -> None:
        for key in keys:
            if self._healths.pop(key, None) is not None:
                self._changed.tell(key.namespace, key.server)

    def _forget_one(self) -> None:
        oldest = next((key for key, each in self._healths.items() if each.state in _OVER), None)
        if oldest is not None:
            del self._healths[oldest]


def backoff_s(failures: int) -> float:
    """How long to wait after so many failures in a row, with jitter: none after the first."""
    if failures <= 1:
        return 0.0
    longest = min(FIRST_BACKOFF_S * 2.0 ** min(failures - 2, 32), LONGEST_BACKOFF_S)
    return random.uniform(longest / 2, longest)  # noqa: S311 - spreads tries, guards nothing


def _now_us() -> int:
    return time.time_ns() // 1000
