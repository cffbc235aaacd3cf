"""What `retinue up` says: lines for people, or JSON lines for programs."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from retinue_cli.output import Output
from retinue_cli.suite.process import ServiceProcess
from retinue_cli.wording import one_line, seconds

_FOLLOW_EVERY_S = 0.1
_NAME_WIDTH = 9


class UpAnnouncer:
    """Says what becomes of the services."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def starting(self, project: Path, names: Sequence[str]) -> None:
        """The services are being started."""
        if self._output.as_json:
            self._output.object({"event": "starting", "project": str(project), "services": list(names)})
        self._output.line(f"Starting {', '.join(names)} for {project}", style="dim")

    def ready(
        self,
        addresses: Mapping[str, str],
        pids: Mapping[str, int],
        took_s: float,
        *,
        script: Path | None,
        logs: Path,
    ) -> None:
        """All answer."""
        if self._output.as_json:
            facts = {"seconds": round(took_s, 3), "addresses": dict(addresses), "pids": dict(pids)}
            self._output.object({"event": "ready", **facts})
        for name, address in addresses.items():
            told = ("", "")
            if name == "model":
                told = (f"  scripted: answers stand in {script}, no real model is asked", "yellow")
            self._output.parts(("✓ ", "green"), (f"{name:<{_NAME_WIDTH}}", "bold"), (address, "cyan"), told)
        self._output.line(f"Ready in {seconds(took_s)}. Logs are in {logs}. Ctrl-C stops all.", style="dim")

    def problems(self, lines: Sequence[str]) -> None:
        """What is wrong in the project's files."""
        if self._output.as_json:
            self._output.object({"event": "problems", "problems": list(lines)})
        for line in lines:
            self._output.parts(("! ", "yellow"), (line, ""))

    def next_step(self, command: str) -> None:
        """What to type now."""
        if not self._output.as_json:
            self._output.line()
            self._output.line("Next, in another terminal:")
            self._output.line(f"  {command}", style="bold")

    def died(self, name: str, how: str, again_in_s: float) -> None:
        """A service has ended by itself."""
        self._event("died", name, how=how, again_in_s=again_in_s)
        self._output.parts(
            ("! ", "yellow"),
            (f"the {name} has died ({how}); it is started again in {seconds(again_in_s)}", ""),
        )

    def restarted(self, name: str, address: str) -> None:
        """It is back."""
        self._event("restarted", name, address=address)
        self._output.parts(("✓ ", "green"), (f"the {name} is back at {address}", ""))

    def failed_again(self, name: str, why: str) -> None:
        """It is not."""
        self._event("failed", name, why=why)
        self._output.parts(("✗ ", "red"), (why, ""))

    def stopping(self) -> None:
        """All are being stopped."""
        if self._output.as_json:
            self._output.object({"event": "stopping"})
        self._output.line("\nStopping; Ctrl-C again forces it", style="dim")

    def stopped(self, name: str, *, by_force: bool) -> None:
        """One has ended because it was asked to."""
        self._event("stopped", name, by_force=by_force)
        self._output.parts(
            ("■ ", "dim"), (f"{name} stopped", "dim"), (" by force" if by_force else "", "yellow")
        )

    def log_line(self, name: str, line: str) -> None:
        """A line of a service's log."""
        self._event("log", name, line=line)
        self._output.parts((f"{name:<{_NAME_WIDTH}}│ ", "dim"), (one_line(line, 4096), ""))

    def _event(self, event: str, service: str, **facts: object) -> None:
        if self._output.as_json:
            self._output.object({"event": event, "service": service, **facts})


class SilentAnnouncer:
    """Says nothing; what goes wrong is an error of the command."""

    def died(self, name: str, how: str, again_in_s: float) -> None:
        """See Announcer."""

    def restarted(self, name: str, address: str) -> None:
        """See Announcer."""

    def failed_again(self, name: str, why: str) -> None:
        """See Announcer."""

    def stopping(self) -> None:
        """See Announcer."""

    def stopped(self, name: str, *, by_force: bool) -> None:
        """See Announcer."""


async def follow_logs(services: Sequence[ServiceProcess], announcer: UpAnnouncer) -> None:
    """Say what the services write to their logs, until cancelled."""
    offsets = {service.name: 0 for service in services}
    while True:
        for service in services:
            with contextlib.suppress(OSError), service.launch.log_path.open("rb") as log:
                log.seek(offsets[service.name])
                data = log.read()
                whole = data[: data.rfind(b"\n") + 1]
                offsets[service.name] += len(whole)
                for line in whole.decode(errors="replace").splitlines():
                    announcer.log_line(service.name, line)
        await asyncio.sleep(_FOLLOW_EVERY_S)
