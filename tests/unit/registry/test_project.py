"""Loading a project: what is read, what it gives, and every problem at its place."""

import json
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf.json_format import ParseDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retinue.registry.v1 import component_pb2
from retinue_registry.__main__ import main
from retinue_registry.component import Key
from retinue_registry.convert import values_of
from retinue_registry.files.anchors import Roots
from retinue_registry.files.discover import find_anchor
from retinue_registry.files.layers import Layers, load_layers
from retinue_registry.files.tree import MAX_FILE_BYTES
from retinue_registry.validation import check_name

LLM = "llms:\n  fast:\n    model: gpt-4o-mini\n"


def write(root: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write files, and return the anchor's path."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root / "retinue.yaml"


def load_project(anchor: Path, *, elsewhere: Collection[Key] = ()) -> Layers:
    return load_layers(Roots(anchor), elsewhere=elsewhere)


def load(root: Path, files: Mapping[str, str | bytes]) -> Layers:
    return load_project(write(root, files))


def shown(project: Layers) -> list[str]:
    return [str(problem) for problem in project.problems]


def specs(project: Layers) -> dict[Key, dict[str, Any]]:
    return {
        draft.key: draft.spec.model_dump(exclude_none=True) for file in project.files for draft in file.drafts
    }


def test_the_anchor_is_searched_upward(tmp_path: Path) -> None:
    write(tmp_path, {"retinue.yaml": LLM, "a/b/c.txt": ""})
    assert find_anchor(tmp_path / "a" / "b") == tmp_path / "retinue.yaml"
    assert find_anchor(Path(os.sep)) is None


def test_the_anchor_alone_is_read_where_it_includes_nothing(tmp_path: Path) -> None:
    project = load(tmp_path, {"retinue.yaml": LLM, "agents/a.yaml": "agents: {a: {llm: fast}}"})
    assert set(specs(project)) == {Key("default", "llm", "fast")}


def test_components_come_from_yaml_and_json_with_labels_and_namespace(tmp_path: Path) -> None:
    project = load(
        tmp_path,
        {
            "retinue.yaml": "include: ['parts/**/*.*']\nnamespace: team\n" + LLM,
            "parts/deep/a.json": json.dumps(
                {"namespace": "team", "agents": {"a": {"llm": "fast", "labels": {"x": "1"}}}}
            ),
            "parts/b.yml": "mcp_servers:\n  t: {stdio: {command: python}}\n",
        },
    )
    assert not project.problems
    assert set(specs(project)) == {
        Key("team", "llm", "fast"),
        Key("team", "agent", "a"),
        Key("default", "mcp_server", "t"),
    }
    (agent,) = [draft for file in project.files for draft in file.drafts if draft.key.kind == "agent"]
    assert agent.labels == {"x": "1"}


def test_empty_files_and_empty_kinds_are_nothing_wrong(tmp_path: Path) -> None:
    project = load(
        tmp_path,
        {
            "retinue.yaml": "include: [a.yaml, b.json]\nagents:\n",
            "a.yaml": "# nothing\n",
            "b.json": "{}",
        },
    )
    assert not project.problems
    assert not specs(project)


def test_all_problems_of_all_files_come_at_once_with_file_line_field_and_nearest(tmp_path: Path) -> None:
    project = load(
        tmp_path,
        {
            "retinue.yaml": """
include: [agents.yaml, none.yaml]
llm:
  fast: {}
llms:
  fast:
    modle: x
""".removeprefix("\n"),
            "agents.yaml": (
                "agents:\n"
                "  Bad Name: {llm: fast}\n"
                "  helper:\n"
                "    llm: fats\n"
                "    mcp_servers:\n"
                "      - time\n"
                "    max_iterations: none\n"
                "    labels: {a: 1}\n"
                "  other: 3\n"
                "include: [x.yaml]\n"
            ),
        },
    )
    assert shown(project) == [
        f"agents.yaml:2: agents.Bad Name: {check_name('Bad Name')}",
        "agents.yaml:4: agents.helper.llm: there is no llm 'fats'; did you mean fast?",
        "agents.yaml:6: agents.helper.mcp_servers[0]: there is no mcp_server 'time'",
        "agents.yaml:7: agents.helper.max_iterations: must be a whole number",
        "agents.yaml:8: agents.helper.labels.a: must be text, and 1 is not: put it in quotes",
        "agents.yaml:9: agents.other: must be a mapping with the fields of the agent",
        "agents.yaml:10: include: is only allowed in retinue.yaml",
        "retinue.yaml:1: include[1]: there is no such file",
        "retinue.yaml:2: llm: there is no such key; did you mean llms?",
        "retinue.yaml:5: llms.fast.model: is missing",
        "retinue.yaml:6: llms.fast.modle: there is no such key; did you mean model?",
    ]


def test_one_name_in_two_files_is_a_problem_of_the_second(tmp_path: Path) -> None:
    project = load(tmp_path, {"retinue.yaml": "include: [b.yaml]\n" + LLM, "b.yaml": "\n" + LLM})
    assert shown(project) == ["b.yaml:3: llms.fast: the llm 'fast' stands in retinue.yaml:3 already"]


def test_the_same_name_in_two_namespaces_is_two_components(tmp_path: Path) -> None:
    project = load(
        tmp_path, {"retinue.yaml": "include: [b.yaml]\n" + LLM, "b.yaml": "namespace: team\n" + LLM}
    )
    assert not project.problems
    assert len(specs(project)) == 2


def test_references_stay_in_their_namespace(tmp_path: Path) -> None:
    project = load(
        tmp_path,
        {
            "retinue.yaml": "include: [b.yaml]\n" + LLM,
            "b.yaml": "namespace: team\nagents: {a: {llm: fast}}\n",
        },
    )
    assert shown(project) == ["b.yaml:2: agents.a.llm: there is no llm 'fast'"]


def test_relative_paths_start_from_the_file_that_holds_them(tmp_path: Path) -> None:
    project = load(
        tmp_path,
        {
            "retinue.yaml": "include: [sub/s.yaml]\n",
            "sub/s.yaml": (
                "llms:\n"
                "  k: {model: m, api_key: '${file:key.txt}', headers: {A: 'x ${file:/abs} ${env:N}'}}\n"
                "mcp_servers:\n"
                "  a: {stdio: {command: ./bin/a, cwd: ../work}}\n"
                "  b: {stdio: {command: python, env: {T: '${file:t/x}'}}}\n"
                "  c: {stdio: {command: /usr/bin/c, cwd: /}}\n"
                "  d: {streamable_http: {url: 'http://x/', headers: {A: '${file:t}'}}}\n"
            ),
        },
    )
    found = {key.name: values for key, values in specs(project).items()}
    sub = tmp_path / "sub"
    assert found["k"]["api_key"] == f"${{file:{sub}/key.txt}}"
    assert found["k"]["headers"] == {"A": "x ${file:/abs} ${env:N}"}
    assert found["a"]["stdio"] == {"command": f"{sub}/bin/a", "cwd": f"{tmp_path}/work"}
    assert found["b"]["stdio"] == {"command": "python", "cwd": str(sub), "env": {"T": f"${{file:{sub}/t/x}}"}}
    assert found["c"]["stdio"] == {"command": "/usr/bin/c", "cwd": "/"}
    assert found["d"]["streamable_http"]["headers"] == {"A": f"${{file:{sub}/t}}"}


@pytest.mark.parametrize(
    ("include", "said"),
    [
        ("['../x.yaml']", "must stay inside"),
        ("[/etc/passwd]", "must stay inside"),
        ("[link.yaml]", "outside the project's folder"),
        ("[note.txt]", "does not end in"),
        ("['']", "must be a list of patterns"),
        ("a.yaml", "must be a list of patterns"),
        ("[3]", "must be a list of patterns"),
        ("['a**b/x']", "is not a pattern"),
        ("[gone.yaml]", "there is no such file"),
    ],
)
def test_an_include_that_cannot_be_followed_is_a_problem(tmp_path: Path, include: str, said: str) -> None:
    root = tmp_path / "project"
    write(root, {"retinue.yaml": f"include: {include}\n{LLM}", "note.txt": ""})
    write(tmp_path, {"x.yaml": LLM})
    (root / "link.yaml").symlink_to(tmp_path / "x.yaml")
    (problem,) = load_project(root / "retinue.yaml").problems
    assert said in problem.message
    assert problem.line == 1


def test_a_file_is_read_once_however_often_it_is_named_and_loops_of_links_end(tmp_path: Path) -> None:
    write(tmp_path, {"retinue.yaml": "include: ['*.yaml', 'a.yaml', '**/*.yaml']\n", "a.yaml": LLM})
    (tmp_path / "b.yaml").symlink_to(tmp_path / "a.yaml")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "self.yaml").symlink_to(tmp_path / "self.yaml")
    project = load_project(tmp_path / "retinue.yaml")
    assert [file.path for file in project.files] == ["retinue.yaml", "a.yaml", "self.yaml"]
    (problem,) = project.problems
    assert problem.path == "self.yaml"
    assert "cannot be read" in problem.message


@pytest.mark.parametrize(
    ("content", "line", "said"),
    [
        (b"\xff\xfea\x00", 1, "not UTF-8"),
        (b"a: 1\nb: \xe9\n", 2, "not UTF-8"),
        (b"#" * (MAX_FILE_BYTES + 1), 0, "larger than 4 MiB"),
        (b"- a\n", 1, "must be a mapping"),
        (b"namespace: No Good\n", 1, "is not a name"),
        (b"namespace: 3\n", 1, "put it in quotes"),
        (b"llms: [a]\n", 1, "must be a mapping from name to llm"),
        (b"llms: {a: {model: x}}\nllms: {}\n", 2, "a second time"),
        (b"llms: {a: {model: x, model: y}}\n", 1, "a second time"),
    ],
)
def test_a_file_that_cannot_be_taken_says_why(tmp_path: Path, content: bytes, line: int, said: str) -> None:
    project = load(tmp_path, {"retinue.yaml": content})
    (problem,) = project.problems
    assert problem.line == line
    assert said in problem.message


def test_a_byte_order_mark_is_no_problem(tmp_path: Path) -> None:
    assert not load(tmp_path, {"retinue.yaml": b"\xef\xbb\xbf" + LLM.encode()}).problems


def test_a_pipe_and_a_missing_file_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "retinue.yaml")
    (problem,) = load_project(tmp_path / "retinue.yaml").problems
    assert problem.message == "is not a regular file"
    (problem,) = load_project(tmp_path / "none" / "retinue.yaml").problems
    assert "No such file" in problem.message


def test_what_exists_elsewhere_may_be_referred_to(tmp_path: Path) -> None:
    anchor = write(tmp_path, {"retinue.yaml": "agents: {a: {llm: fast}}\n"})
    assert load_project(anchor).problems
    assert not load_project(anchor, elsewhere=[Key("default", "llm", "fast")]).problems


def test_very_many_dangling_references_are_reported(tmp_path: Path) -> None:
    agents = "".join(f"  agent-{n}: {{llm: missing-{n}}}\n" for n in range(5000))
    llms = "".join(f"  missing-{n}-x: {{model: m}}\n" for n in range(5000))
    project = load(tmp_path, {"retinue.yaml": f"llms:\n{llms}agents:\n{agents}"})
    assert len(project.problems) == 5000


def test_ten_thousand_components_load(tmp_path: Path) -> None:
    llms = "".join(
        f"  llm-{n}:\n    model: m\n    api_key: ${{env:KEY}}\n    timeout: 30s\n" for n in range(5000)
    )
    agents = "".join(f"  agent-{n}:\n    llm: llm-{n}\n    system_prompt: Be brief.\n" for n in range(5000))
    project = load(tmp_path, {"retinue.yaml": f"llms:\n{llms}agents:\n{agents}"})
    assert len(specs(project)) == 10_000
    assert not project.problems


SCALARS = st.sampled_from(
    ["x", "1", "true", "", "~", "${env:A}", "${file:", "[]", "{}", "30s", "*a", "&a b", "é"]
)
KEYS = st.sampled_from(
    [
        "llms",
        "agents",
        "mcp_servers",
        "namespace",
        "include",
        "projects",
        "model",
        "llm",
        "labels",
        "stdio",
        "timeout",
        "x",
        "1",
    ]
)
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: "[" + ", ".join(items) + "]")
        | st.lists(st.tuples(KEYS, inner), max_size=4).map(
            lambda pairs: "{" + ", ".join(f"{key}: {value}" for key, value in pairs) + "}"
        )
    ),
    max_leaves=25,
)


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=100) | TREES.map(str.encode), st.sampled_from(["yaml", "json"]))
def test_no_bytes_break_the_loader(tmp_path: Path, content: bytes, ending: str) -> None:
    project = load(tmp_path, {"retinue.yaml": f"include: [a.{ending}]\n", f"a.{ending}": content})
    for problem in project.problems:
        assert problem.message
        assert str(problem).encode()
    for file in project.files:
        for draft in file.drafts:
            json.dumps(draft.spec.model_dump())


def test_check_prints_problems_or_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, {"retinue.yaml": LLM})
    assert main(["--check", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "no problems: 1 component (1 llm) in 1 file\n"
    assert main(["--check", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    write(tmp_path, {"retinue.yaml": LLM + "    modle: x\n"})
    assert main(["--check", str(tmp_path)]) == 1
    said = "there is no such key; did you mean model?"
    assert capsys.readouterr().out == f"retinue.yaml:4: llms.fast.modle: {said}\n"
    assert main(["--check", str(tmp_path / "retinue.yaml"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == [
        {
            "path": "retinue.yaml",
            "line": 4,
            "field": "llms.fast.modle",
            "message": said,
            "layer": "project",
            "distribution": "",
        }
    ]
    assert main(["--check", str(tmp_path / "none")]) == 1
    assert "No such file" in capsys.readouterr().out


def test_a_circle_of_agents_is_a_problem_of_each_step_with_the_whole_way(tmp_path: Path) -> None:
    project = load(
        tmp_path,
        {
            "retinue.yaml": "include: [a.yaml, b.yaml]\n" + LLM + "agents:\n  c: {llm: fast, agents: [a]}\n",
            "a.yaml": "agents:\n  a:\n    llm: fast\n    agents: [free, b]\n  free: {llm: fast}\n",
            "b.yaml": "namespace: default\nagents:\n  b: {llm: fast, agents: [c]}\n"
            "  me: {llm: fast, agents: [me]}\n",
        },
    )
    assert shown(project) == [
        (
            "a.yaml:4: agents.a.agents[1]: leads back to the agent itself: "
            "a → b (b.yaml:3) → c (retinue.yaml:6) → a"
        ),
        (
            "b.yaml:3: agents.b.agents[0]: leads back to the agent itself: "
            "b → c (retinue.yaml:6) → a (a.yaml:2) → b"
        ),
        "b.yaml:4: agents.me.agents[0]: the agent 'me' cannot need itself",
        (
            "retinue.yaml:6: agents.c.agents[0]: leads back to the agent itself: "
            "c → a (a.yaml:2) → b (b.yaml:3) → c"
        ),
    ]


def test_agents_that_share_others_without_a_circle_are_nothing_wrong(tmp_path: Path) -> None:
    agents = "".join(
        f"  a{n}: {{llm: fast, agents: [{', '.join(f'a{m}' for m in range(n + 1, min(n + 5, 400)))}]}}\n"
        for n in range(400)
    )
    assert load(tmp_path, {"retinue.yaml": f"{LLM}agents:\n{agents}"}).problems == []


def test_a_circle_of_two_thousand_agents_is_named_in_few_words(tmp_path: Path) -> None:
    agents = "".join(f"  a{n}: {{llm: fast, agents: [a{(n + 1) % 2_000}]}}\n" for n in range(2_000))
    problems = load(tmp_path, {"retinue.yaml": f"{LLM}agents:\n{agents}"}).problems
    assert len(problems) == 2_000
    assert "→ 1983 more → a0" in problems[0].message
    assert max(len(problem.message) for problem in problems) < 700


def test_agents_of_two_namespaces_are_no_circle(tmp_path: Path) -> None:
    one = "namespace: {}\n" + LLM + "agents: {{a: {{llm: fast, agents: [b]}}, b: {{llm: fast{}}}}}\n"
    files = {"retinue.yaml": "include: [o.yaml]\n" + one.format("x", ""), "o.yaml": one.format("y", "")}
    assert load(tmp_path, files).problems == []


def test_an_agent_that_is_not_there_is_named_as_other_references_are(tmp_path: Path) -> None:
    project = load(
        tmp_path,
        {"retinue.yaml": LLM + "agents:\n  a: {llm: fast, agents: [hlper]}\n  helper: {llm: fast}\n"},
    )
    said = "there is no agent 'hlper'; did you mean helper?"
    assert shown(project) == [f"retinue.yaml:5: agents.a.agents[0]: {said}"]


SCHEMA = """
agents:
  a:
    llm: elsewhere
    output_schema:
      type: object
      properties:
        b: {type: %s}
        a: {enum: [1, 1.5, yes, null]}
"""


def test_what_is_wrong_inside_a_schema_is_named_with_its_line(tmp_path: Path) -> None:
    project = load(tmp_path, {"retinue.yaml": "include: [a.yaml]\n", "a.yaml": SCHEMA % "strng"})
    found = next(problem for problem in project.problems if "output_schema" in problem.field)
    assert (found.line, found.field) == (8, "agents.a.output_schema.properties.b.type")
    assert "did you mean string?" in found.message


def test_a_schema_is_dumped_as_the_text_that_the_api_takes_and_reads_back_as_it_was_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = load(tmp_path, {"retinue.yaml": SCHEMA % "string"})
    assert main(["--dump", str(tmp_path / "retinue.yaml")]) == 0
    (dumped,) = json.loads(capsys.readouterr().out)
    component = ParseDict(dumped, component_pb2.Component())
    written = {"agents": {"a": values_of(component.agent)}}
    assert written["agents"]["a"]["output_schema"] == {
        "type": "object",
        "properties": {"b": {"type": "string"}, "a": {"enum": [1, 1.5, True, None]}},
    }
    for name, text in (("b.yaml", yaml.safe_dump(written, sort_keys=False)), ("b.json", json.dumps(written))):
        again = load(tmp_path, {"retinue.yaml": f"include: [{name}]", name: text})
        assert json.dumps(list(specs(again).values())) == json.dumps(list(specs(project).values()))


def test_the_files_in_the_documentation_are_a_project_without_problems(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "project-files.md").read_text()
    files = dict(
        re.findall(r"^`([\w/]+\.yaml)`[^\n]*:\n\n```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    )
    assert set(files) == {"retinue.yaml", "agents/assistant.yaml", "agents/editor.yaml"}
    project = load(tmp_path, files)
    assert shown(project) == []
    assert len(specs(project)) == 5


def test_dump_prints_a_file_s_components_as_protojson(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, {"a.yaml": "agents: {a: {llm: elsewhere, timeout: 5m, labels: {x: y}}}\n"})
    assert main(["--dump", str(tmp_path / "a.yaml")]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["agent"] == {"llm": "elsewhere", "timeout": "300s"}
    assert (found["name"], found["labels"]) == ("a", {"x": "y"})
    write(tmp_path, {"a.yaml": "agents: {a: {}}\n"})
    assert main(["--dump", str(tmp_path / "a.yaml")]) == 1
    assert "agents.a.llm: is missing" in capsys.readouterr().err
