"""`retinue dev test`: services for tests alone, and nothing of them afterwards."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from .cli_project import Project, descendants, runs, until

SHOW = """\
import asyncio, json, os
from retinue.client import open_client

async def main():
    async with open_client() as client:
        events = [event async for event in client.runs.stream("assistant", "hello")]
        sessions = [each async for each in client.sessions.list()]
    names = sorted(name for name in os.environ if name.startswith("RETINUE_"))
    output = events[-1].run_finished.result.output
    print(json.dumps({"output": output, "sessions": len(sessions), "names": names}))

asyncio.run(main())
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path / "shop")
    # Nobody may ask the provider: the address leads nowhere.
    anchor = project.folder / "retinue.yaml"
    text = anchor.read_text().replace(f"http://127.0.0.1:{project.model_port}/v1", "http://127.0.0.1:1/v1")
    anchor.write_text(text.replace("    protocol:", "    api_key: ${env:RETINUE_TEST_NO_KEY}\n    protocol:"))
    (project.folder / "show.py").write_text(SHOW)
    return project


def test_every_llm_is_the_script_and_nothing_is_stored_or_inherited(project: Project) -> None:
    (project.folder / "other.yaml").write_text("default: {text: from the script}\n")
    production = {"RETINUE_ENGINE_ADDRESS": "127.0.0.1:1", "RETINUE_STORE": "mongodb://127.0.0.1:1/x"}
    command = ["dev", "test", "--script", "other.yaml", sys.executable, "show.py"]
    for _ in range(2):
        with project.started(*command, **production) as tests:
            assert tests.wait() == 0, tests.err
        assert json.loads(tests.text) == {
            "output": "from the script",
            "sessions": 1,
            "names": [
                "RETINUE_ENGINE_ADDRESS",
                "RETINUE_MCP_HOST_ADDRESS",
                "RETINUE_MODEL_URL",
                "RETINUE_PROJECT",
                "RETINUE_REGISTRY_ADDRESS",
            ],
        }
        assert "no real model: other.yaml" in "".join(tests.err)
    assert not (project.folder / ".retinue").exists()


def test_the_exit_status_is_that_of_the_tests(project: Project) -> None:
    assert project.retinue("dev", "test", "--keep", "kept", "--", "sh", "-c", "exit 7").returncode == 7
    assert (project.folder / "kept" / "engine.log").is_file()
    again = project.retinue("dev", "test", "--keep", "kept", "true")
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)
    assert "kept is not empty" in again.stderr
    missing = project.retinue("dev", "test", "no-such-program")
    assert missing.returncode == 2
    assert missing.stderr == "error: there is no program no-such-program: name what runs the tests\n"


def test_a_problem_in_the_files_ends_it_before_the_tests(project: Project) -> None:
    (project.folder / "broken.yaml").write_text("agents:\n  x: {llm: nobody}\n")
    done = project.retinue("dev", "test", "touch", "ran")
    assert done.returncode == 1
    assert "broken.yaml:2" in done.stderr
    assert not (project.folder / "ran").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_in_the_middle_it_leaves_no_process(project: Project, number: signal.Signals) -> None:
    with project.started("dev", "test", "sh", "-c", "touch begun; sleep 600") as tests:
        begun = project.folder / "begun"
        until(lambda: begun.exists() or tests.process.poll() is not None, "the tests have begun")
        tree = descendants(tests.process.pid)
        assert len(tree) >= 5
        os.kill(tests.process.pid, number)
        assert tests.wait() != 0
    until(lambda: not any(runs(pid) for pid in tree - {0}), "every process has ended")
