"""Keeps the services running: starts them together, starts again what dies, stops them in reverse order."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from retinue_cli.failures import CommandError
from retinue_cli.suite.process import ServiceProcess, StartError, exit_words

MOST_DEATHS = 5
DEATHS_WITHIN_S = 60.0
"""A service that dies more often than MOST_DEATHS times in this span is given up, and the suite with it."""

FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 5.0


class Announcer(Protocol):
    """Hears what happens to the services."""

    def died(self, name: str, how: str, again_in_s: float) -> None: ...

    def restarted(self, name: str, address: str) -> None: ...

    def failed_again(self, name: str, why: str) -> None: ...

    def stopping(self) -> None: ...

    def stopped(self, name: str, *, by_force: bool) -> None: ...


class Supervisor:
    """Owns the services' processes from start to end."""

    def __init__(self, services: Sequence[ServiceProcess], announcer: Announcer) -> None:
        self._services = services
        self._announcer = announcer
        self._stop = asyncio.Event()
        self.forced = False
        """Whether it was asked to stop a second time."""

    def stop(self) -> None:
        """Stop all; asked for a second time, by force."""
        if self._stop.is_set():
            self.forced = True
            for service in self._services:
                service.force()
        self._stop.set()

    async def run(self, on_ready: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start all, call `on_ready`, keep all running until `stop`, and leave nothing behind.

        Raises CommandError where a service does not start or dies again and again.
        """
        try:
            if await self._until_stop(self._start_all()) and await self._until_stop(on_ready()):
                await self._until_stop(self._keep_all())
        finally:
            await self._stop_all()

    async def _until_stop(self, work: Coroutine[Any, Any, None]) -> bool:
        """Do the work; end it at once when asked to stop. Whether it came to its end."""
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            finished = task.done()
        finally:
            stop.cancel()
            task.cancel()
            await asyncio.wait({task, stop})
        if finished:
            task.result()
        return finished

    async def _start_all(self) -> None:
        try:
            async with asyncio.TaskGroup() as starts:
                for service in self._services:
                    starts.create_task(service.start())
        except* StartError as errors:
            raise CommandError("\n".join(str(error) for error in errors.exceptions)) from None

    async def _keep_all(self) -> None:
        try:
            async with asyncio.TaskGroup() as keepers:
                for service in self._services:
                    keepers.create_task(self._keep(service))
        except* CommandError as errors:
            raise errors.exceptions[0] from None

    async def _keep(self, service: ServiceProcess) -> None:
        deaths: deque[float] = deque()
        while True:
            how = exit_words(await service.wait())
            now = time.monotonic()
            deaths.append(now)
            while now - deaths[0] > DEATHS_WITHIN_S:
                deaths.popleft()
            if len(deaths) > MOST_DEATHS:
                raise CommandError(
                    f"the {service.name} died {len(deaths)} times within {DEATHS_WITHIN_S:.0f} s "
                    f"({how}); its log is {service.launch.log_path}"
                )
            wait_s = min(FIRST_WAIT_S * 2 ** (len(deaths) - 1), LONGEST_WAIT_S)
            self._announcer.died(service.name, how, wait_s)
            await asyncio.sleep(wait_s)
            try:
                await service.start()
            except StartError as error:
                self._announcer.failed_again(service.name, str(error))
            else:
                self._announcer.restarted(service.name, service.address)

    async def _stop_all(self) -> None:
        alive = [service for service in self._services if service.alive]
        if alive:
            self._announcer.stopping()
        for service in reversed(self._services):
            gently = await service.stop()
            if service in alive:
                self._announcer.stopped(service.name, by_force=self.forced or not gently)
