"""`show`: a run as it is stored, against a made-up engine on a real server."""

import json

import pytest

from retinue.engine.v1 import run_pb2
from retinue_cli import results
from retinue_cli.__main__ import main

from . import stories
from .engine import StoryTeller


def test_a_run_is_shown_with_all_that_is_known_of_it(
    teller: StoryTeller, capsys: pytest.CaptureFixture[str]
) -> None:
    teller.stored.MergeFrom(
        run_pb2.Run(
            root_run_id="run-top",
            parent_run_id="run-parent",
            path="turn:1/call:2",
            origin=run_pb2.RunOrigin(run_id="run-before", sequence=7),
            pause_requested=True,
            priority=-3,
            labels={"team": "search"},
        )
    )
    teller.stored.target.version = 4
    settings = teller.settings
    settings.max_iterations, settings.tool_concurrency, settings.stall_after = 20, 8, 5
    settings.include_history = True
    settings.timeout.seconds = 90
    settings.budget.max_tokens, settings.budget.max_cost_nano_usd = 1000, 250_000_000
    settings.session_budget.max_duration.seconds = 60
    settings.max_context_tokens = 4000
    settings.input_timeout.seconds = 86_400
    settings.output_schema_json, settings.max_repairs = '{"type": "object"}', 2
    settings.system_prompt = "Be brief.\nBe kind."
    llm = settings.llms.add(name="gpt", model="gpt-4o-mini", transport="direct", max_retries=2)
    llm.timeout.seconds = 30
    llm.generation.temperature = 0.5
    llm.generation.stop.extend(["END", "FIN"])
    settings.llms.add(name="spare", model="other", transport="litellm")
    assert main(["show", stories.RUN_ID]) == 0
    out = capsys.readouterr().out
    assert [line.rstrip() for line in out.splitlines() if "accepted" not in line] == [
        f"{stories.RUN_ID} · assistant · running (asked to pause)",
        "  agent         assistant v4",
        "  asked         what is it?",
        f"  session       {stories.SESSION_ID}",
        "  inside        run-parent at turn:1/call:2",
        "  tree of       run-top",
        "  goes on from  run-before #7",
        "  labels        team=search",
        "  priority      -3",
        "",
        "RUNS WITH",
        (
            "  llm             gpt · gpt-4o-mini · direct · temperature 0.5 · stop END, FIN · timeout 30.0 s"
            " · 2 retries"
        ),
        "  else            spare · other · litellm · 0 retries",
        (
            "  limits          20 model calls · 8 tool calls side by side · stalls after 5 same calls"
            " · timeout 1 min 30 s"
        ),
        "  budget          1,000 tokens · $0.25",
        "  session budget  1 min 0 s",
        "  history         yes",
        "  context         at most 4,000 tokens",
        "  inputs wait     24 h 0 min",
        '  answer fits     {"type": "object"}',
        "  repairs         at most 2",
        "  prompt          Be brief. Be kind.",
    ]
    assert main(["show", stories.RUN_ID, "--full"]) == 0
    assert "Be brief.\n                  Be kind.\n" in capsys.readouterr().out
    assert main(["show", stories.RUN_ID, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["max_iterations"] == 20


def test_the_end_of_a_run_is_shown_with_its_reason(
    teller: StoryTeller, capsys: pytest.CaptureFixture[str]
) -> None:
    end = stories.failed("the run has used up its budget")
    end.run_finished.result.stop_reason = run_pb2.STOP_REASON_BUDGET
    teller.story = stories.numbered(stories.started(), end)
    teller.stored.state = run_pb2.RUN_STATE_UNSPECIFIED
    assert main(["show", stories.RUN_ID]) == 0
    out = capsys.readouterr().out
    assert f"{stories.RUN_ID} · assistant · failed\n" in out
    assert "stop reason  budget\n" in out
    assert "error        the run has used up its budget\n" in out
    assert "used         2 turns · 1 tool call" in out
    assert main(["watch", stories.RUN_ID]) == 1
    assert "✗ failed (budget): the run has used up its budget" in capsys.readouterr().out


def test_a_run_that_there_is_not_is_one_line(teller: StoryTeller, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "run-of-nobody"]) == 1
    assert capsys.readouterr().err == "error: there is no run run-of-nobody\n"


def test_every_reason_to_stop_has_its_words() -> None:
    for name, number in run_pb2.StopReason.items():
        words = name.removeprefix("STOP_REASON_").lower().replace("_", " ")
        assert results.stop_words(number) == (words if number else "")
    assert results.STOP_ERROR == run_pb2.STOP_REASON_ERROR
