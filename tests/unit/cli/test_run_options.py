"""What a run is started with: each option of the command line reaches the engine."""

import json
from pathlib import Path

import pytest

from retinue.engine.v1 import service_pb2
from retinue_cli.__main__ import main

from . import stories
from .engine import StoryTeller


def test_history_can_be_asked_for_over_an_agent_that_leaves_it_out(teller: StoryTeller) -> None:
    teller.story = stories.numbered(stories.succeeded())
    assert main(["run", "assistant", "hello", "--history"]) == 0
    assert teller.requests[0].options.include_history


def test_every_option_of_a_run_is_sent(teller: StoryTeller) -> None:
    teller.story = stories.numbered(stories.succeeded())
    given = "--llm gpt --temperature 0 --top-p 0.5 --max-output-tokens 9 --seed 0 --stop END --stop FIN"
    given += " --max-iterations 3 --tool-concurrency 2 --no-history --timeout 1.5 --session s-1"
    given += " --max-tokens 1000 --max-cost 0.25 --max-tool-calls 0 --max-turns 4 --max-duration 2m"
    given += " --session-max-tokens 9000 --session-max-cost 1 --max-context-tokens 700 --max-repairs 0"
    given += " --input-timeout 1h --var tone=short --var empty= --busy interrupt --priority -3"
    given += " --queue-timeout 30s --label team=search --label empty= --request-id once"
    given += " --namespace lab --token secret"
    assert main(["run", "assistant", "hello", *given.split()]) == 0
    request = teller.requests[0]
    options = request.options
    assert (options.llm, options.max_iterations, options.tool_concurrency) == ("gpt", 3, 2)
    assert options.HasField("include_history")
    assert not options.include_history
    assert options.timeout.ToMilliseconds() == 1500
    budget = options.budget
    assert (budget.max_tokens, budget.max_cost_nano_usd) == (1000, 250_000_000)
    assert budget.HasField("max_tool_calls")
    assert budget.max_tool_calls == 0
    assert (budget.max_turns, budget.max_duration.seconds) == (4, 120)
    session_budget = options.session_budget
    assert (session_budget.max_tokens, session_budget.max_cost_nano_usd) == (9000, 1_000_000_000)
    assert (options.max_context_tokens, options.input_timeout.seconds) == (700, 3600)
    assert options.HasField("max_repairs")
    assert options.max_repairs == 0
    assert dict(options.variables) == {"tone": "short", "empty": ""}
    assert request.session_busy == service_pb2.SESSION_BUSY_POLICY_INTERRUPT
    assert (request.priority, request.queue_timeout.seconds) == (-3, 30)
    generation = options.generation
    assert generation.HasField("temperature")
    assert generation.HasField("seed")
    assert (generation.temperature, generation.top_p, generation.max_output_tokens) == (0, 0.5, 9)
    assert list(generation.stop) == ["END", "FIN"]
    assert (request.session_id, request.request_id, request.namespace) == ("s-1", "once", "lab")
    assert dict(request.labels) == {"team": "search", "empty": ""}
    assert teller.tokens == ["Bearer secret"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("schema.json", '{"type": "object", "properties": {"days": {"type": "integer"}}}'),
        ("schema.yaml", "type: object\nproperties:\n  days: {type: integer}\n"),
    ],
)
def test_an_output_schema_is_a_file_of_json_or_yaml(
    teller: StoryTeller, tmp_path: Path, name: str, text: str
) -> None:
    teller.story = stories.numbered(stories.succeeded())
    (tmp_path / name).write_text(text)
    assert main(["run", "assistant", "hello", "--output-schema", name]) == 0
    sent = json.loads(teller.requests[0].options.output_schema_json)
    assert sent == {"type": "object", "properties": {"days": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("bad.json", b'{"type": ', "cannot be read: Expecting value: line 1 column 10"),
        ("bad.yaml", b"[", "cannot be read: while parsing"),
        ("nan.yaml", b"const: .nan", "cannot be read: Out of range"),
        ("bytes.json", b"\xff", "cannot be read: 'utf-8' codec"),
        ("list.yaml", b"[1]", "is no JSON Schema: it has to be a mapping"),
    ],
)
def test_a_schema_that_cannot_be_one_is_said_before_anything_is_sent(
    teller: StoryTeller, capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, data: bytes, why: str
) -> None:
    (tmp_path / name).write_bytes(data)
    assert main(["run", "assistant", "hello", "--output-schema", name]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: --output-schema {name} {why}")
    assert said.count("\n") == 1
    assert teller.requests == []


def test_files_go_along_with_the_type_that_name_or_bytes_suggest(teller: StoryTeller, tmp_path: Path) -> None:
    teller.story = stories.numbered(stories.succeeded())
    files = {"a.png": b"\x89PNG", "b.pdf": b"%PDF", "notes": b"words", "blob": b"\xff\xfe"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    given = [word for name in files for word in ("--file", name)]
    assert main(["run", "assistant", "", *given]) == 0
    sent = teller.requests[0].files
    assert {each.name: each.data for each in sent} == files
    types = ["image/png", "application/pdf", "text/plain", "application/octet-stream"]
    assert [each.mime_type for each in sent] == types


def test_a_file_that_no_run_takes_is_not_sent(
    teller: StoryTeller, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with (tmp_path / "film").open("wb") as film:
        film.truncate(4_000_000)
    assert main(["run", "assistant", "look", "--file", "film"]) == 2
    assert "--file film has 4,000,000 bytes: a run takes 3,145,728 in all" in capsys.readouterr().err
    assert main(["run", "assistant", "look", "--file", "no-film"]) == 1
    assert capsys.readouterr().err == "error: no-film cannot be used: No such file or directory\n"
    assert teller.requests == []


def test_quietly_an_answer_by_schema_is_the_one_that_fits_alone(
    teller: StoryTeller, capsys: pytest.CaptureFixture[str]
) -> None:
    teller.settings.output_schema_json = "{}"
    end = stories.succeeded('```json\n{"days": 3}\n```')
    end.run_finished.result.structured_json = '{"days":3}'
    teller.story = stories.numbered(stories.started(), stories.text("three"), stories.message("three"), end)
    assert main(["run", "assistant", "how long?", "--quiet"]) == 0
    assert capsys.readouterr().out == '{"days":3}\n'
    assert main(["run", "assistant", "how long?"]) == 0
    assert '\n= {"days":3}\n✓ succeeded' in capsys.readouterr().out
