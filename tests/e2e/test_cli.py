"""The `retinue` command with the real services behind it."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .cli_project import Project, Started, Up, until

pytestmark = pytest.mark.xdist_group("cli")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module", autouse=True)
def up(project: Project) -> Iterator[Up]:
    with project.up() as up:
        yield up


def test_run_shows_text_tool_calls_and_the_bill(project: Project) -> None:
    done = project.retinue("run", "assistant", "what time is it?", alone=True)
    assert (done.returncode, done.stderr) == (0, "")
    heading, *lines = done.stdout.splitlines()
    assert re.fullmatch(r"run-[0-9a-f]{24} · assistant · session agent-[0-9a-f]{8}", heading)
    assert lines[:2] == ["I ask. ", '→ time.get_current_time {"timezone": "Asia/Tokyo"}']
    assert re.fullmatch(r"← time.get_current_time \S+ m?s", lines[2])
    assert lines[3].startswith('  {"timezone": "Asia/Tokyo"')
    assert lines[4].startswith("The server says {")
    assert re.fullmatch(
        r"✓ succeeded · 2 turns · 1 tool call · tokens \d+ in, \d+ out · \$0\.\d+ · \S+ m?s", lines[-1]
    )


def test_run_under_json_prints_the_numbered_events(project: Project) -> None:
    done = project.retinue("run", "assistant", "what time is it?", "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [int(event["sequence"]) for event in events] == list(range(1, len(events) + 1))
    assert "run_started" in events[0]
    assert events[-1]["run_finished"]["result"]["state"] == "RUN_STATE_SUCCEEDED"


def test_run_quietly_prints_the_answer_alone(project: Project) -> None:
    done = project.retinue("run", "assistant", "hello", "--quiet")
    assert (done.returncode, done.stdout) == (0, "You said: hello\n")


def test_a_failed_run_says_why_and_ends_with_status_1(project: Project) -> None:
    done = project.retinue("run", "assistant", "refuse me")
    assert done.returncode == 1
    assert "✗ failed: " in done.stdout
    assert "the key is wrong" in done.stdout


def test_an_unknown_agent_is_one_line(project: Project) -> None:
    done = project.retinue("run", "asistant", "hello", alone=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "assistant" in done.stderr


def test_a_missing_key_says_what_to_export(project: Project) -> None:
    done = project.retinue("run", "lost", "hello", "--namespace", "broken")
    assert done.returncode == 1
    assert "RETINUE_TEST_NO_SUCH_KEY" in done.stdout + done.stderr


def test_chat_keeps_its_session(project: Project) -> None:
    done = project.retinue("chat", "assistant", "--session", "talk-1", stdin="first\n\nsecond\n", alone=True)
    assert done.returncode == 0, done.stderr
    assert "You said: first\n" in done.stdout
    assert "You said: second\n" in done.stdout
    said = project.json("sessions", "talk-1")
    texts = [each["message"]["content"] for each in said["messages"]]
    assert texts == ["first", "You said: first", "second", "You said: second"]


def test_ctrl_c_in_a_chat_cancels_the_run_and_the_chat_goes_on(project: Project) -> None:
    keyboard, terminal = os.openpty()
    try:
        with project.in_terminal(terminal, "chat", "assistant", "--session", "talk-2") as (chat, screen):
            until(lambda: ">" in screen(keyboard), "the chat asks")
            os.write(keyboard, b"forever please\n")
            until(lambda: "I begin" in screen(keyboard), "the answer begins")
            chat.interrupt()
            until(lambda: "cancelled: Ctrl-C in chat" in screen(keyboard), "the run is cancelled")
            os.write(keyboard, b"hello\n")
            until(lambda: "You said: hello" in screen(keyboard), "the next answer comes")
            os.write(keyboard, b"\x04")
            assert chat.wait() == 0
            assert "retinue chat assistant --session talk-2" in screen(keyboard)
    finally:
        os.close(keyboard)
        os.close(terminal)
    states = [run["state"] for run in project.json("runs", "--session", "talk-2")["runs"]]
    assert states == ["RUN_STATE_SUCCEEDED", "RUN_STATE_CANCELLED"]


def test_ctrl_c_detaches_and_watch_and_cancel_take_over(project: Project) -> None:
    with project.started("run", "assistant", "talk forever") as run:
        until(lambda: "I begin" in run.text, "the answer begins")
        run.interrupt()
        assert run.wait() == 130
    found = re.search(r"retinue watch (\S+) --after (\d+)", "".join(run.err))
    assert found, run.err
    run_id, after = found.groups()
    assert project.json("runs", "--state", "running")["runs"][0]["run_id"] == run_id
    with project.started("watch", run_id, "--after", after, "--json") as watch:
        done = project.retinue("cancel", run_id, "--reason", "seen enough")
        assert "ends soon" in done.stdout
        assert watch.wait() == 3
        assert int(watch.objects[0]["sequence"]) == int(after) + 1
        assert watch.objects[-1]["run_finished"]["result"]["cancel_reason"] == "seen enough"
    assert "has ended: cancelled" in project.retinue("cancel", run_id).stdout
    assert project.json("cancel", run_id)["state"] == "RUN_STATE_CANCELLED"


def test_watch_tells_a_finished_run_from_any_number(project: Project) -> None:
    run_id = project.json("run", "assistant", "hello", "--detach")["run_id"]
    whole = project.retinue("watch", run_id, "--json")
    events = [json.loads(line) for line in whole.stdout.splitlines()]
    rest = project.retinue("watch", run_id, "--after", "2", "--json")
    assert [json.loads(line) for line in rest.stdout.splitlines()] == events[2:]
    end = project.retinue("watch", run_id, "--after", str(len(events)))
    assert (end.returncode, end.stdout.split(" · ")[0]) == (0, f"{run_id} has ended: succeeded")
    beyond = project.retinue("watch", run_id, "--after", "999", alone=True)
    assert beyond.returncode == 1
    assert beyond.stderr.startswith("error: ")


def test_runs_and_sessions_are_listed(project: Project) -> None:
    project.retinue("run", "assistant", "hello", "--session", "listed-1")
    assert project.json("runs", "--session", "listed-1")["runs"][0]["message"] == "hello"
    assert "succeeded" in project.retinue("runs").stdout
    assert "listed-1" in [each["session_id"] for each in project.json("sessions")["sessions"]]
    assert "listed-1" in project.retinue("sessions").stdout
    assert "user: hello" in project.retinue("sessions", "listed-1").stdout
    missing = project.retinue("sessions", "listed-2", alone=True)
    assert (missing.returncode, missing.stderr.count("\n")) == (1, 1)


def test_get_shows_components(project: Project) -> None:
    assert "agent/assistant" in project.retinue("get").stdout
    assert [each["name"] for each in project.json("get", "llms")["components"]] == ["scripted"]
    assert project.json("get", "agent/assistant")["agent"]["llm"] == "scripted"
    assert "    mcp_servers:\n    - time\n" in project.retinue("get", "agent/assistant").stdout
    missing = project.retinue("get", "agent/asistant", alone=True)
    assert missing.returncode == 1
    assert "did you mean assistant?" in missing.stderr


def test_apply_stores_what_a_file_holds(project: Project, tmp_path: Path) -> None:
    file = tmp_path / "more.yaml"
    file.write_text("agents:\n  second: {llm: scripted, description: Applied.}\n")
    assert project.retinue("apply", "-f", str(file)).stdout == "agent/second created v1\n"
    again = project.json("apply", "-f", str(file))
    assert again["applied"][0]["outcome"] == "APPLY_OUTCOME_UNCHANGED"
    assert project.retinue("run", "second", "hello", "-q").stdout == "You said: hello\n"


def test_apply_refuses_a_wrong_file_with_its_line(project: Project, tmp_path: Path) -> None:
    file = tmp_path / "more.yaml"
    file.write_text("agents:\n  third:\n    llm: scripted\n    max_iteration: 3\n")
    done = project.retinue("apply", "-f", str(file), alone=True)
    assert done.returncode == 1
    assert f"{file}:4: " in done.stderr
    assert "max_iterations" in done.stderr
    assert project.retinue("get", "agent/third").returncode == 1


def test_validate_names_file_line_and_way_out(project: Project, tmp_path: Path) -> None:
    assert project.retinue("validate").returncode == 0
    assert project.json("validate")["valid"] is True
    (tmp_path / "retinue.yaml").write_text("agents:\n  a:\n    lm: gpt\n")
    done = project.retinue("validate", str(tmp_path))
    assert done.returncode == 1
    assert "retinue.yaml:3" in done.stdout + done.stderr
    problems = project.json("validate", str(tmp_path), status=1)["problems"]
    assert 3 in [problem["line"] for problem in problems]


def test_tools_lists_tools_and_servers_that_fail(project: Project) -> None:
    assert "  get_current_time(timezone)\n" in project.retinue("tools", "time").stdout
    assert {tool["name"] for tool in project.json("tools")["tools"]} >= {"get_current_time", "convert_time"}
    broken = project.retinue("tools", "--namespace", "broken", alone=True)
    assert broken.returncode == 1
    assert "no zone data here" in broken.stdout
    failures = project.json("tools", "dead", "--namespace", "broken", status=1)["failures"]
    assert failures[0]["failure"]["reason"] == "ERROR_REASON_MCP_SERVER_UNAVAILABLE"


def test_doctor_finds_nothing_wrong_where_all_is_well(project: Project) -> None:
    done = project.retinue("doctor")
    assert done.returncode == 0, done.stdout
    assert "No problems" in done.stdout
    report = project.json("doctor")
    assert report["healthy"] is True
    areas = {finding["area"] for finding in report["findings"]}
    assert areas == {"project", "service", "store", "llm", "mcp_server"}


def test_doctor_says_what_to_do_about_keys_and_servers(project: Project) -> None:
    report = project.json("doctor", "--namespace", "broken", status=1)
    by_subject = {(each["area"], each["subject"]): each for each in report["findings"]}
    keyless = by_subject["llm", "keyless"]
    assert keyless["level"] == "problem"
    assert "RETINUE_TEST_NO_SUCH_KEY" in keyless["found"]
    assert "which is not there where the engine runs" in keyless["found"]
    assert "where `retinue up` or the engine is started" in keyless["todo"]
    assert by_subject["llm", "spare"]["level"] == "warning"
    assert "retinue dev model --port 1" in by_subject["llm", "silent"]["todo"]
    dead = by_subject["mcp_server", "dead"]
    assert dead["level"] == "problem"
    assert "no zone data here" in dead["found"]
    assert "retinue tools dead" in dead["todo"]
    shown = project.retinue("doctor", "--namespace", "broken")
    assert shown.returncode == 1
    assert "3 problems, 1 warning." in shown.stdout


def test_doctor_without_services_says_how_to_start_them(project: Project) -> None:
    nowhere = [f"--{name}=127.0.0.1:1" for name in ("registry", "mcp-host", "engine")]
    done = project.retinue("doctor", *nowhere, alone=True)
    assert done.returncode == 1
    assert done.stdout.count("is not running at 127.0.0.1:1") == 3
    assert "start it with `retinue up`" in done.stdout


def test_colours_are_for_terminals_alone(project: Project) -> None:
    assert "\x1b" not in project.retinue("runs").stdout
    keyboard, terminal = os.openpty()
    try:
        for no_color in ("", "1"):
            with project.in_terminal(terminal, "get", NO_COLOR=no_color) as (get, screen):
                assert get.wait() == 0
                shown = screen(keyboard)
            assert "agent/assistant" in shown
            assert ("\x1b[1m" in shown) is True  # bold is no colour
            assert ("\x1b[32m" in shown) is False
    finally:
        os.close(keyboard)
        os.close(terminal)


def test_a_killed_engine_comes_back_and_a_watch_goes_on(project: Project, up: Up) -> None:
    with project.started("run", "assistant", "count slowly", "--json") as run:
        until(lambda: "two" in run.text, "the answer begins")
        os.kill(up.pids["engine"], 9)
        assert run.wait() == 0
    _one_story(run)
    until(lambda: up.last("restarted"), "the engine is back")
    assert up.last("died") == {
        "event": "died",
        "service": "engine",
        "how": "killed by SIGKILL",
        "again_in_s": 0.2,
    }


def _one_story(run: Started) -> None:
    """Each event once, in order; one answer counts."""
    events = run.objects
    assert [int(event["sequence"]) for event in events] == list(range(1, len(events) + 1))
    assert sum("run_claimed" in event for event in events) == 1
    discarded = [event["message_discarded"] for event in events if "message_discarded" in event]
    assert len(discarded) == 1
    assert events[-1]["run_finished"]["result"]["output"].endswith(" nine ten")
