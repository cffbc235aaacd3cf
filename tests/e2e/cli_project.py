"""A project in a folder of its own, its services on free ports, and `retinue` as a person would type it."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .in_process import run_here

BOUND_S = 60.0
"""Ten times and more what anything here takes."""

SERVING = frozenset({"dev", "serve", "store", "up"})
"""The commands that start services or become one: always a process of their own."""

PROJECT = """\
include: [broken.yaml]
llms:
  scripted:
    model: scripted
    protocol: openai_chat
    base_url: http://127.0.0.1:{model_port}/v1
    price: {{input_nano_usd_per_million: 1000000000, output_nano_usd_per_million: 2000000000}}
mcp_servers:
  time:
    stdio: {{command: mcp-server-time, args: [--local-timezone, UTC]}}
agents:
  assistant:
    description: Tells the time.
    llm: scripted
    mcp_servers: [time]
"""

BROKEN = """\
namespace: broken
llms:
  keyless:
    model: gpt-4o-mini
    protocol: openai_chat
    base_url: https://api.openai.com/v1
    api_key: ${env:RETINUE_TEST_NO_SUCH_KEY}
  spare:
    model: gpt-4o-mini
    api_key: ${env:RETINUE_TEST_NO_SUCH_KEY}
  silent:
    model: local
    protocol: openai_chat
    base_url: http://127.0.0.1:1/v1
mcp_servers:
  dead:
    stdio: {command: python, args: [-c, "raise SystemExit('no zone data here')"]}
agents:
  lost: {llm: keyless}
  mute: {llm: silent}
"""

MODEL = """\
name: e2e
rules:
  - when: {user_contains: slowly}
    chunks: [one, " two", " three", " four", " five", " six", " seven", " eight", " nine", " ten"]
    chunk_delay_ms: 300
  - when: {user_contains: forever}
    text: "I begin and go on {endless}"
    chunk_size: 8
    chunk_delay_ms: 500
  - when: {user_contains: refuse}
    error: {status: 401, message: the key is wrong}
  - when: {last_role: tool}
    text: "The server says {last_tool}"
  - when: {user_contains: time}
    text: "I ask. "
    tool_calls: [{name: time__get_current_time, arguments: {timezone: Asia/Tokyo}}]
default:
  text: "You said: {last_user}"
  usage: {input_tokens: 100, output_tokens: 10}
"""


class Project:
    """A project's folder and the commands in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model_port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "retinue.yaml").write_text(PROJECT.format(model_port=self.model_port))
        (folder / "broken.yaml").write_text(BROKEN)
        (folder / "model.yaml").write_text(MODEL.replace("{endless}", "and on " * 200))

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "retinue_cli", *arguments]

    def environment(self, **more: str) -> dict[str, str]:
        """The environment without settings of the machine's."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RETINUE_")}
        return kept | {"XDG_CONFIG_HOME": str(self.folder.parent / "config")} | more

    def retinue(
        self, *arguments: str, stdin: str = "", alone: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; in this process, unless it is to be `alone` in one or serves."""
        if not alone and arguments[0] not in SERVING:
            return run_here(arguments, self.folder, self.environment(), stdin)
        return self.process("retinue_cli", *arguments, stdin=stdin)

    def process(
        self, module: str, *arguments: str, stdin: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a module as a process to its end."""
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=self.folder,
            env=self.environment(**environment),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=BOUND_S,
            check=False,
        )

    def json(self, *arguments: str, status: int = 0) -> Any:
        """Run a command with --json and return its one object."""
        done = self.retinue(*arguments, "--json")
        assert done.returncode == status, done.stderr
        return json.loads(done.stdout)

    @contextmanager
    def started(self, *arguments: str, **environment: str) -> "Iterator[Started]":
        """A command that goes on; ended by force where it has not ended by itself."""
        process = subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment(**environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started = Started(process)
        try:
            yield started
        finally:
            started.end()

    @contextmanager
    def in_terminal(
        self, terminal: int, *arguments: str, **environment: str
    ) -> "Iterator[tuple[Started, Callable[[int], str]]]":
        """A command in a terminal; `screen(keyboard)` is all that it has shown so far."""
        process = subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment(TERM="xterm", **environment),
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            text=True,
        )
        seen = bytearray()

        def screen(keyboard: int) -> str:
            while select.select([keyboard], [], [], 0)[0]:
                seen.extend(os.read(keyboard, 65_536))
            return seen.decode(errors="replace")

        started = Started(process)
        try:
            yield started, screen
        finally:
            started.end()

    @property
    def services_file(self) -> Path:
        return self.folder / ".retinue" / "services.json"

    @contextmanager
    def up(self, *arguments: str) -> "Iterator[Up]":
        """The services, ready."""
        model = f"127.0.0.1:{self.model_port}"
        with self.started("up", "--free-ports", "--model-address", model, "--json", *arguments) as started:
            up = Up(started)
            try:
                yield up
            finally:
                up.started.process.terminate()
                until(lambda: started.process.poll() is not None, "`retinue up` ends")


class Started:
    """A command under way; what it prints is read as it comes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.out: list[str] = []
        self.err: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, args=(stream, lines))
            for stream, lines in ((process.stdout, self.out), (process.stderr, self.err))
            if stream is not None
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(stream: Any, lines: list[str]) -> None:
        while piece := os.read(stream.fileno(), 65_536):
            lines.append(piece.decode())

    @property
    def text(self) -> str:
        return "".join(self.out)

    @property
    def objects(self) -> list[Any]:
        """The JSON lines that are whole so far."""
        return [json.loads(line) for line in self.text.splitlines(keepends=True) if line.endswith("\n")]

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def wait(self) -> int:
        """Wait for its end; the exit status."""
        status = self.process.wait(BOUND_S)
        for reader in self._readers:
            reader.join(BOUND_S)
        return status

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if stream:
                stream.close()


class Up:
    """`retinue up`, ready."""

    def __init__(self, started: Started) -> None:
        self.started = started
        until(lambda: self.last("ready") or started.process.poll() is not None, "the services are ready")
        ready = self.last("ready")
        assert ready, f"`retinue up` ended: {''.join(started.err)}"
        self.addresses: dict[str, str] = ready["addresses"]
        self.pids: dict[str, int] = ready["pids"]
        self.seconds: float = ready["seconds"]

    def last(self, event: str) -> Any:
        """The last thing of a kind that it said."""
        return next((each for each in reversed(self.started.objects) if each["event"] == event), None)

    def tree(self) -> set[int]:
        """All processes below it, itself included."""
        return {self.started.process.pid, *descendants(self.started.process.pid)}


def until(condition: Callable[[], object], what: str) -> None:
    """Wait on a condition of the operating system or of another process, with a bound."""
    end = time.monotonic() + BOUND_S
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < end, f"waited {BOUND_S:.0f} s in vain until {what}"
        pause.wait(0.02)


def descendants(pid: int) -> set[int]:
    """The processes below one."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
