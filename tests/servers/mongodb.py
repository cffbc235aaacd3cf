"""A server that speaks MongoDB's protocol, as a process of its own: it can be killed and started again."""

import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_S = 60.0
"""Ten times and more what a start takes."""


class MongoDB:
    """The server of a test session."""

    def __init__(self, folder: Path, *, sync: bool) -> None:
        self._folder = folder
        self._sync = ["--sync-on-commit"] if sync else []
        self._log = folder / "log"
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def uri(self, options: str = "") -> str:
        """The address of a database that nobody has used."""
        return f"mongodb://127.0.0.1:{self._port}/test_{secrets.token_hex(6)}?{options}"

    def start(self) -> None:
        """Start it, on the port that it had before if there was one, and wait until it listens."""
        self._log.write_bytes(b"")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "secantus", *self._sync, "--log-level", "INFO"),
                    *("--storage-path", str(self._folder / "data"), "--port", str(self._port)),
                ],
                stdout=log,
                stderr=log,
                cwd=self._folder,
            )
        end = time.monotonic() + START_S
        while not (found := re.search(r"listening on \S+:(\d+)", self._log.read_text())):
            stopped = self._process.poll() is not None
            if stopped or time.monotonic() > end:
                how = "ended at once" if stopped else f"did not listen within {START_S} s"
                self.kill()
                raise RuntimeError(f"the MongoDB server (secantusdb) {how}:\n{self._log.read_text()}")
            time.sleep(0.01)
        self._port = int(found[1])

    def kill(self) -> None:
        """End it as a loss of power would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextmanager
def run_mongodb(folder: Path, *, sync: bool = True) -> Iterator[MongoDB]:
    """Run the server on a free port, with its data in a folder.

    Without `sync` it is quicker and loses writes when it is killed: for tests that let it live.
    """
    server = MongoDB(folder, sync=sync)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def given_uri() -> str | None:
    """The address of a database that nobody has used, on the server that the environment names."""
    given = os.environ.get("RETINUE_TEST_MONGODB_URI")
    if not given:
        return None
    server, _, options = given.partition("?")
    scheme, _, rest = server.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}/test_{secrets.token_hex(6)}?{options}"
