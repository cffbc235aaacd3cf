"""A script is read strictly, and gives the answer that fits."""

import re
from pathlib import Path
from typing import Any

import pytest

from retinue_cli.scripted_model.conversation import read_conversation
from retinue_cli.scripted_model.script import Script, ScriptError, load_script, parse_script

DOCUMENT = Path(__file__).parents[3] / "docs" / "scripted-model.md"
EXAMPLES = re.findall(r"```yaml script\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)

TWO_TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "first"},
    {"role": "assistant", "content": None},
    {"role": "tool", "content": "old result"},
    {"role": "user", "content": [{"type": "text", "text": "sec"}, {"type": "text", "text": "ond"}]},
    {"role": "assistant", "content": None},
    {"role": "tool", "content": "12 °C"},
    {"role": "tool", "content": "rain"},
]


def answer(script: Script, messages: list[dict[str, Any]], model: str = "m") -> str | None:
    found = script.answer_to(read_conversation(model, messages), {})
    return found and found.text


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_of_the_documentation_is_a_script(example: str) -> None:
    assert parse_script(example)


def test_the_documentation_has_examples_and_names_every_key() -> None:
    assert len(EXAMPLES) >= 4
    text = DOCUMENT.read_text("utf-8")
    schema = Script.model_json_schema()
    keys = {key for part in [schema, *schema["$defs"].values()] for key in part["properties"]}
    assert {key for key in keys if f"`{key}`" not in text and f"{key}:" not in text} == set()


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("defualt: {text: a}", "x.yaml:1: defualt: unknown key; did you mean 'default'?"),
        (
            "rules:\n  - when:\n      user_contain: a\n    text: b",
            "x.yaml:3: rules.0.when.user_contain: unknown key; did you mean 'user_contains'?",
        ),
        (
            "turns:\n  - tool_calls:\n      - nmae: a",
            "x.yaml:3: turns.0.tool_calls.0.nmae: unknown key; did you mean 'name'?",
        ),
        (
            "turns:\n  - tool_calls:\n      - id: a",
            "x.yaml:3: turns.0.tool_calls.0: the key 'name' is missing",
        ),
        (
            "default:\n  text: a\n  xyzzy: 1",
            "x.yaml:3: default.xyzzy: unknown key; valid are reasoning, text, chunks",
        ),
        ("default:\n  text: a\n  text: b", "x.yaml:3: default.text: the key stands twice"),
        ("default:\n  text: {last_user}", "x.yaml:2: default.text: Input should be a valid string"),
        ("default:\n  text: no", "x.yaml:2: default.text: Input should be a valid string"),
        (
            "default:\n  text: a\n  cut: -1",
            "x.yaml:3: default.cut: Input should be greater than or equal to 0",
        ),
        ("default:\n  text: a\n  cut: yes", "x.yaml:3: default.cut: Input should be a valid integer"),
        ("default: {error: {status: 200}}", "x.yaml:1: default.error.status: Input should be greater"),
        ("default:\n  text: a\n  hang: true", "x.yaml:1: default: an answer is one of"),
        ("default: {delay_ms: 5}", "x.yaml:1: default: an answer is one of"),
        ("default: {text: a, chunks: [a]}", "text, chunks and structured exclude one another"),
        ("default: {text: a, structured: {a: 1}}", "text, chunks and structured exclude one another"),
        ("default: {hang: true, cut: 1}", "cut and reasoning go with"),
        ("default: {hang: true, reasoning: a}", "cut and reasoning go with"),
        ("default: {structured: 7}", "x.yaml:1: default.structured: Input should be a valid"),
        ("default: {tool_calls: [{name: a, arguments: [1]}]}", "arguments are a mapping, or a string"),
        ("rules: [{when: {user_matches: '('}, text: a}]", "not a regular expression"),
        ("name: a", "x.yaml:1: the script: the script answers nothing"),
        ("rules:\n  - [", "x.yaml:2: not YAML"),
        ("", "x.yaml:1: the file is empty"),
        ("- a", "x.yaml:1: the script: Input should be a valid dictionary"),
        ("1: a", "x.yaml:1: the script: the key 1 is not text; quote it"),
        ("default: {text: !!python/name:os.system x}", "x.yaml:1: default.text: not plain YAML"),
    ],
)
def test_a_fault_is_told_with_file_line_and_path(source: str, fault: str) -> None:
    with pytest.raises(ScriptError) as caught:
        parse_script(source, "x.yaml")
    assert fault in str(caught.value)


def test_all_faults_are_told_at_once_in_the_order_of_the_file() -> None:
    with pytest.raises(ScriptError) as caught:
        parse_script("default:\n  text: a\n  cutt: 1\nname: ''\n", "x.yaml")
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == ["x.yaml:3", "x.yaml:4"]


def test_a_file_gives_the_script_its_name(tmp_path: Path) -> None:
    path = tmp_path / "my demo.yaml"
    path.write_text("default: {text: a}", "utf-8")
    assert load_script(path).name == "my-demo"


def test_a_file_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ScriptError, match=r"none\.yaml"):
        load_script(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("when", "holds"),
    [
        ("{}", True),
        ("{model: m}", True),
        ("{model: other}", False),
        ("{turn: 3}", True),
        ("{turn: 2}", False),
        ("{last_role: tool}", True),
        ("{last_role: user}", False),
        ("{user_contains: econ}", True),
        ("{user_contains: first}", False),
        ("{user_matches: '^sec.nd$'}", True),
        ("{user_matches: '^ond'}", False),
        ("{tool_contains: °C}", True),
        ("{tool_contains: old}", False),
        ("{tool_matches: '^ra'}", True),
        ("{tool_matches: 'x'}", False),
        ("{system_contains: brief}", True),
        ("{system_contains: Brief}", False),
        ("{turn: 3, last_role: user}", False),
    ],
)
def test_a_condition_looks_at_the_conversation(when: str, *, holds: bool) -> None:
    script = parse_script(f"rules: [{{when: {when}, text: yes it does}}]\ndefault: {{text: 'otherwise'}}")
    assert answer(script, TWO_TURNS) == ("yes it does" if holds else "otherwise")


def test_rules_come_before_turns_and_turns_before_the_default() -> None:
    script = parse_script(
        "rules: [{when: {user_contains: rule}, text: rule}, {when: {user_contains: rule}, text: late}]\n"
        "turns: [{text: first}, {text: second}]\n"
        "default: {text: default}"
    )
    said = [{"role": "user", "content": "hi"}]
    answered = {"role": "assistant", "content": "a"}
    assert answer(script, [{"role": "user", "content": "a rule"}]) == "rule"
    assert answer(script, said) == "first"
    assert answer(script, [*said, answered]) == "second"
    assert answer(script, [*said, answered, answered]) == "default"


def test_what_is_filled_in_is_never_filled_again() -> None:
    said = read_conversation("{turn}", [{"role": "user", "content": "{last_tool} {model}"}])
    assert (
        said.fill("{last_user}|{model}|{turn}|{last_tool}|{other}|{")
        == "{last_tool} {model}|{turn}|1||{other}|{"
    )


PIXEL = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}}
LINKED = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
REPORT = {"type": "file", "file": {"filename": "r.pdf", "file_data": "data:application/pdf;base64,aGVsbG8h"}}


@pytest.mark.parametrize(
    ("parts", "when", "said"),
    [
        ([PIXEL], "has_image: true", "image/png, 5 bytes"),
        ([LINKED, PIXEL], "has_image: true", "https://example.com/a.png; image/png, 5 bytes"),
        (
            [REPORT, PIXEL],
            "has_image: true, has_file: true",
            "image/png, 5 bytes; r.pdf, application/pdf, 6 bytes",
        ),
        ([REPORT], "has_image: false, has_file: true", "r.pdf, application/pdf, 6 bytes"),
        ([{"type": "file", "file": None}, {"type": "image_url"}, 7], "has_image: true, has_file: true", "; "),
        ([], "has_image: false, has_file: false", ""),
    ],
)
def test_images_and_files_of_the_last_user_message_are_seen(parts: list[Any], when: str, said: str) -> None:
    script = parse_script(f"rules: [{{when: {{{when}}}, text: seen}}]\ndefault: {{text: other}}")
    messages = [{"role": "user", "content": [{"type": "text", "text": "look"}, *parts]}]
    assert answer(script, messages) == "seen"
    assert read_conversation("m", messages).fill("{attachments}") == said
    # They are of a turn that is over as soon as the user speaks again, and never without their message.
    assert (
        read_conversation("m", [*messages, {"role": "user", "content": "and?"}]).fill("{attachments}") == ""
    )
    assert (
        read_conversation("m", [*messages, {"role": "assistant", "content": "a"}]).fill("{attachments}")
        == said
    )
