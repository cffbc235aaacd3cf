"""`make conformance`: drives the client scenarios of MCP's conformance runner through a running MCP host.

Writes what came of it to docs/mcp-conformance.md. Arguments: the folder that the npm package
@modelcontextprotocol/conformance is installed in, and its version.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "mcp-conformance.md"
CLIENT = ROOT / "scripts" / "mcp_conformance_client.py"
TIMEOUT_MS = 30_000
"""For one scenario."""
GOOD = frozenset({"SUCCESS", "INFO", "SKIPPED"})

ABOUT_OAUTH = (
    "Those of `auth/` are about OAuth. Where a server wants a login, the client is the person too: it opens",
    "the address that the host gives it, is sent on at once, and finishes the login by rpc, three times at",
    "most. Where a scenario has a client registered beforehand, it stands in the config, with its issuer.",
)
OAUTH = "auth/"


class Scenario(NamedTuple):
    """One of the runner's scenarios, and what came of it."""

    name: str
    revisions: str
    passed: int
    checks: int
    complaint: str


@contextmanager
def service(name: str, folder: str, **env: str) -> Iterator[str]:
    """Run a service in a folder, on a free port; its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", name],
        cwd=folder,
        env=os.environ | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None  # noqa: S101 - a pipe was asked for
        ready = process.stdout.readline()
        if not ready:
            raise SystemExit(f"{name} did not start")
        yield json.loads(ready)["address"]
    finally:
        process.terminate()
        process.wait()


def scenarios(runner: list[str]) -> Iterator[tuple[str, str]]:
    """The client scenarios that the runner has, and the revisions of MCP that each is about."""
    listed = subprocess.run([*runner, "list"], check=True, capture_output=True, text=True).stdout
    clients = listed.partition("Client scenarios")[2].partition("\n\n")[0]
    for name, revisions in re.findall(r"- (\S+) \[(.+?)\]", clients):
        yield name, revisions.replace(",", ", ")


def run(runner: list[str], name: str, revisions: str, folder: Path) -> Scenario:
    """Run one scenario."""
    command = f"{sys.executable} {CLIENT}"
    limits = ("--timeout", str(TIMEOUT_MS), "--output-dir", str(folder))
    ended = subprocess.run(
        [*runner, *("client", "--command", command, "--scenario", name), *limits],
        check=False,
        capture_output=True,
        text=True,
        timeout=3 * TIMEOUT_MS / 1000,
    )
    found = list(folder.rglob("checks.json"))
    checks = json.loads(found[0].read_text()) if found else []
    judged = [check for check in checks if check["status"] != "INFO"]
    bad = [check for check in judged if check["status"] not in GOOD]
    complaint = "; ".join(
        dict.fromkeys(
            check.get("errorMessage") or f"{check['id']}: {check['status'].lower()}" for check in bad
        )
    )
    if ended.returncode and not complaint:
        complaint = ended.stderr.strip().splitlines()[-1] if ended.stderr.strip() else "the runner failed"
    print(f"{'pass' if not complaint else 'FAIL'}  {name}  {complaint}", flush=True)
    return Scenario(name, revisions, len(judged) - len(bad), len(judged), complaint)


def passed(found: list[Scenario]) -> str:
    """How many have passed."""
    return f"{sum(not each.complaint for each in found)} of {len(found)} pass"


def page(found: list[Scenario], version: str) -> str:
    """The page."""
    oauth = [each for each in found if each.name.startswith(OAUTH)]
    others = [each for each in found if not each.name.startswith(OAUTH)]
    lines = [
        "# MCP conformance",
        "",
        "<!-- Written by `make conformance`; do not edit. -->",
        "",
        f"The client scenarios of `@modelcontextprotocol/conformance` {version}, driven through a running",
        "MCP host: the client that the runner starts stores the runner's server in a registry and calls its",
        f"tools over gRPC (`scripts/mcp_conformance_client.py`). {passed(others)}; of those about OAuth,",
        f"{passed(oauth)}.",
        "",
        *ABOUT_OAUTH,
        "",
        "| scenario | revisions | result | checks | why |",
        "|---|---|---|---|---|",
    ]
    for each in found:
        result = "fail" if each.complaint else "pass"
        lines.append(
            f"| `{each.name}` | {each.revisions} | {result} | {each.passed} of {each.checks} | "
            f"{each.complaint.replace('|', '/')} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run all scenarios, one after the other, and write the page."""
    package, version = Path(sys.argv[1]), sys.argv[2]
    entry = package / "node_modules" / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
    runner = [str(Path(sys.executable).with_name("node")), str(entry)]
    with tempfile.TemporaryDirectory() as data:
        common = {"RETINUE_DATA_DIR": data, "RETINUE_USER_DIR": ""}
        with (
            service(
                "retinue_registry",
                data,
                RETINUE_REGISTRY_ADDRESS="127.0.0.1:0",
                RETINUE_REGISTRY_METRICS_ADDRESS="",
                **common,
            ) as registry,
            service(
                "retinue_mcp_host",
                data,
                RETINUE_MCP_HOST_ADDRESS="127.0.0.1:0",
                RETINUE_MCP_HOST_METRICS_ADDRESS="",
                RETINUE_REGISTRY_ADDRESS=registry,
                RETINUE_API_HOSTS="localhost,127.0.0.1",
                RETINUE_API_FILES=data,
            ) as host,
        ):
            os.environ |= {
                "RETINUE_REGISTRY_ADDRESS": registry,
                "RETINUE_MCP_HOST_ADDRESS": host,
                "MCP_CONFORMANCE_SECRETS": data,
            }
            found = [
                run(runner, name, revisions, Path(data, f"results-{number}"))
                for number, (name, revisions) in enumerate(scenarios(runner))
            ]
    PAGE.write_text(page(found, version))


if __name__ == "__main__":
    main()
