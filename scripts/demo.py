"""`make demo`: starts the suite for the clock example, runs its agent with a real MCP server, and stops all.

Works in a copy of the example and on free ports, so that it neither needs nor disturbs anything.
"""

import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RETINUE = str(Path(sys.executable).with_name("retinue"))
READY_S = 60.0
STOP_S = 30.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def show(command: list[str]) -> None:
    words = [f'"{word}"' if " " in word else word for word in command]
    print(f"\n$ retinue {' '.join(words)}", flush=True)


def wait_until_ready(project: Path, suite: subprocess.Popen[bytes]) -> None:
    """Wait for the file that `retinue up` writes once everything answers."""
    deadline = time.monotonic() + READY_S
    state = project / ".retinue" / "services.json"
    while not (state.exists() and json.loads(state.read_text() or "{}")):
        if suite.poll() is not None:
            raise SystemExit("the suite did not start; what it said stands above")
        if time.monotonic() > deadline:
            raise SystemExit(f"the suite is not ready after {READY_S:g} s")
        time.sleep(0.05)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="retinue-demo-") as folder:
        project = Path(folder) / "clock"
        shutil.copytree(ROOT / "examples" / "clock", project)
        model = f"127.0.0.1:{free_port()}"
        anchor = project / "retinue.yaml"
        anchor.write_text(anchor.read_text().replace("127.0.0.1:7410", model))
        show(["up"])
        up = [RETINUE, "up", "--free-ports", "--model-address", model]
        suite = subprocess.Popen(up, cwd=project)
        try:
            wait_until_ready(project, suite)
            run = ["run", "clock", "What time is it in Tokyo?"]
            show(run)
            status = subprocess.run([RETINUE, *run], cwd=project, check=False).returncode
            show(["runs"])
            subprocess.run([RETINUE, "runs"], cwd=project, check=True)
        finally:
            if suite.poll() is None:
                suite.send_signal(signal.SIGINT)
            suite.wait(STOP_S)
    print(
        "\nThat was a scripted model and a real MCP server, behind three gRPC services. Yours:\n"
        "  . .venv/bin/activate && retinue init my-project && cd my-project && retinue up"
        if status == 0
        else "\nthe demo failed"
    )
    return status


if __name__ == "__main__":
    sys.exit(main())
