"""`retinue test`: tests in a file, against services of their own."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from retinue.engine.v1.run_pb2 import StepState
from retinue_cli.testing import judging

from .in_process import run_here

RETINUE = Path(sys.executable).with_name("retinue")
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "workflows"

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EXAMPLE, tmp_path / "workflows"))


def run(project: Path, *arguments: str, status: int = 0) -> str:
    """What `retinue test` prints; it must end with the status."""
    done = subprocess.run(
        [RETINUE, "test", *arguments], cwd=project, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_examples_tests_pass_and_can_be_chosen(project: Path) -> None:
    told = run(project, "tests.yaml")
    assert "✓ two of three searchers are enough" in told
    assert "7 tests passed" in told
    assert "1 test passed" in run(project, "tests.yaml", "--only", "refuses")
    assert not (project / ".retinue").exists()


def test_what_is_not_as_expected_fails_and_all_of_it_is_told(project: Path) -> None:
    (project / "wrong.yaml").write_text(
        """
tests:
  - name: many things
    run: triage
    input: it crashes
    answers: [1]
    expect:
      output: something else
      output_contains: nothing of it
      output_matches: "^x"
      structured: {a: 1}
      steps: {answer: completed, fix: completed, none: completed}
      outputs: {sort: question, answer: x}
      routes: {sort: question}
      tools: [time/now]
      asked: [why]
      max_turns: 1
  - {name: another end, run: triage, input: x, expect: {state: failed, error: ROUTE_UNKNOWN}}
  - {name: nobody answers, run: approval, input: bees}
  - {name: no such thing, run: traige, input: x}
  - {name: good, run: approval, input: bees, answers: [true], expect: {asked: [May this]}}
"""
    )
    lines = [
        json.loads(line)
        for line in run(project, "wrong.yaml", "--json", status=1).splitlines()
        if line[0] == "{"
    ]
    found = {each["name"]: each["faults"] for each in lines}
    told = [fault.partition(":")[0] for fault in found["many things"]]
    assert told == [
        *("output", "output", "output", "structured", "steps.answer", "steps.none", "outputs.sort"),
        *("outputs.answer", "routes.sort", "tools", "asked", "turns", "answers"),
    ]
    assert "skipped: no edge" in found["many things"][4]
    assert found["another end"][0].startswith("state: failed is expected, and it succeeded")
    assert "`answers` has none left" in found["nobody answers"][0]
    assert "did you mean triage?" in found["no such thing"][0]
    assert found["good"] == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tests:\n  - {name: a, run: x}", "tests.yaml:2: tests.0: the key 'input' is missing"),
        ("tests: []", "tests.yaml:1: tests: "),
        ("tests:\n  - {name: a, run: x, input: y, expcet: {}}", "tests.yaml:2: tests.0.expcet: unknown key"),
        (
            "tests:\n  - {name: a, run: x, input: y}\n  - {name: a, run: x, input: y}",
            "two tests have the name 'a'",
        ),
        ("tests:\n  - {name: a, run: x, input: y, timeout: soon}", "tests.yaml:2: tests.0.timeout"),
        ("tests:\n  - {name: a, run: x, input: y, expect: {error: X}}", "an error goes with state: failed"),
        ("tests:\n  - {name: a, run: x, input: y}\nmodel: none.yaml", "there is no script"),
    ],
)
def test_a_file_that_is_wrong_is_told_where_before_anything_starts(
    project: Path, text: str, said: str
) -> None:
    (project / "tests.yaml").write_text(text)
    done = run_here(("test", "tests.yaml"), project, os.environ)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_a_test_that_takes_too_long_fails_and_its_run_ends(project: Path) -> None:
    (project / "model.yaml").write_text("default: {hang: true}")
    (project / "tests.yaml").write_text("tests:\n  - {name: slow, run: critique, input: x, timeout: 300ms}")
    assert "it did not end within 0.3 s" in run(project, "tests.yaml", status=1)


def test_the_page_on_workflows_shows_what_stands_in_the_example() -> None:
    page = (EXAMPLE.parents[1] / "docs" / "workflows.md").read_text()
    files = [(EXAMPLE / name).read_text() for name in ("retinue.yaml", "tests.yaml")]
    shown = [
        block
        for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
        if "notebook" in block or "tests:" in block
    ]
    parts = [part for block in shown for part in block.removeprefix("tests:\n").split("\n\n")]
    assert len(parts) == 3
    assert all(any(part.strip() in file for file in files) for part in parts), parts


def test_the_states_of_steps_are_those_of_the_proto() -> None:
    named = {number: name.removeprefix("STEP_STATE_").lower() for name, number in StepState.items()}
    assert {**named, 0: "absent"} == judging._STATES
