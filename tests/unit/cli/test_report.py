"""`report` and `trace` against a made-up engine on a real server."""

import json

import pytest

from retinue.engine.v1 import report_pb2, run_pb2
from retinue_cli.__main__ import main

from . import stories
from .engine import StoryTeller


def a_report() -> report_pb2.RunReport:
    report = report_pb2.RunReport(run_id=stories.RUN_ID, state=run_pb2.RUN_STATE_SUCCEEDED)
    totals = report.totals
    totals.turns, totals.tool_calls, totals.failed_tool_calls = 3, 2, 1
    totals.child_runs, totals.retries = 1, 1
    totals.usage.input_tokens, totals.usage.output_tokens = 1200, 34
    totals.cost.nano_usd, totals.cost.unknown = 55_000, True
    totals.average_llm_latency.FromMilliseconds(1500)
    totals.duration.FromMilliseconds(62_000)
    totals.suspended.FromMilliseconds(50_000)
    agent = report.agents.add(agent="boss", runs=1, turns=3, tool_calls=2)
    agent.usage.input_tokens, agent.cost.nano_usd = 1234, 55_000
    model = report.models.add(llm="gpt", model="gpt-x", calls=3, failures=1)
    model.average_latency.FromMilliseconds(1500)
    model.cost.unknown = True
    tool = report.tools.add(server="time", tool="now", calls=2, failures=1)
    tool.average_latency.FromMilliseconds(41)
    report.tools.add(tool="helper", calls=1)
    step = report.steps.add(path="turn:1/call:1/turn:1", agent="boss", tool_calls=2)
    step.duration.FromMilliseconds(900)
    report.findings.add(
        kind=report_pb2.REPORT_FINDING_KIND_RETRY, path="turn:1", sequence=4, message="gpt failed: busy"
    )
    report.findings.add(message="3 more are left out")
    return report


def test_a_report_has_sums_tables_and_findings(
    teller: StoryTeller, capsys: pytest.CaptureFixture[str]
) -> None:
    teller.report = a_report()
    assert main(["report", stories.RUN_ID]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        f"{stories.RUN_ID} · succeeded · 1 min 2 s, 50.0 s of it suspended",
        (
            "3 turns · 2 tool calls (1 failed) · 1 run inside · 1 failed model call · "
            "tokens 1,200 in, 34 out · at least $0.000055"
        ),
        "on average a model call 1.5 s",
        "",
        "AGENT RUNS TURNS TOOL CALLS TOKENS COST",
        "boss 1 3 2 1,234 $0.000055",
        "",
        "LLM MODEL CALLS FAILED LATENCY TOKENS COST",
        "gpt gpt-x 3 1 1.5 s 0 unknown",
        "",
        "TOOL CALLS FAILED LATENCY",
        "time.now 2 1 41 ms",
        "helper 1 0 0 ms",
        "",
        "STEP AGENT TOOL CALLS TOOK TOKENS COST",
        "turn:1/call:1/turn:1 boss 2 900 ms 0 $0",
        "",
        "FINDINGS",
        "retry turn:1 #4: gpt failed: busy",
        "3 more are left out",
    ]


def test_every_kind_of_finding_has_a_name(teller: StoryTeller, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = [number for number in report_pb2.ReportFindingKind.values() if number]
    for kind in kinds:
        teller.report.findings.add(kind=kind, sequence=1, message="x")
    assert main(["report", stories.RUN_ID]) == 0
    named = [line for line in capsys.readouterr().out.splitlines() if line.endswith(" #1: x")]
    assert len({line.strip() for line in named}) == len(kinds)
    assert not any(line.strip().startswith("#") for line in named)


def test_a_report_under_json_is_the_message(teller: StoryTeller, capsys: pytest.CaptureFixture[str]) -> None:
    teller.report = a_report()
    assert main(["report", stories.RUN_ID, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["totals"]["tool_calls"] == 2
    assert made["findings"][0]["kind"] == "REPORT_FINDING_KIND_RETRY"


def test_a_trace_is_the_run_and_then_each_event(
    teller: StoryTeller, capsys: pytest.CaptureFixture[str]
) -> None:
    teller.story = stories.time_story()
    assert main(["trace", stories.RUN_ID]) == 0
    run, *events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (run["run_id"], run["state"]) == (stories.RUN_ID, "RUN_STATE_SUCCEEDED")
    assert [int(event["sequence"]) for event in events] == list(range(1, 13))
    assert events[5]["message_completed"]["finish_reason"] == "tool_calls"


def test_a_trace_of_a_run_that_goes_on_ends_where_it_is_now(
    teller: StoryTeller, capsys: pytest.CaptureFixture[str]
) -> None:
    teller.story = stories.time_story()
    teller.pause_after = 5
    assert main(["trace", stories.RUN_ID]) == 0
    assert not teller.go_on.is_set()
    _, *events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [int(event["sequence"]) for event in events] == [1, 2, 3, 4, 5]


def test_a_trace_that_follows_goes_on_to_the_end(
    teller: StoryTeller, capsys: pytest.CaptureFixture[str]
) -> None:
    teller.story = stories.time_story()
    teller.pause_after = 5
    teller.go_on.set()
    assert main(["trace", stories.RUN_ID, "--follow"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 13


@pytest.mark.parametrize("command", ["trace", "report"])
def test_no_such_run_is_a_clear_error(
    teller: StoryTeller, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert main([command, "run-x"]) == 1
    assert capsys.readouterr() == ("", "error: there is no run run-x\n")
