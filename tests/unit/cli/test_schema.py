"""The JSON Schema of project files: it takes what the registry takes, and marks what is wrong."""

import json
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from retinue_cli.__main__ import main
from retinue_cli.commands.schema import _of_kind
from retinue_engine import definition
from retinue_engine.workflow import definition as workflow
from retinue_mcp_host import convert
from retinue_registry.files import source_file
from retinue_registry.kinds import KINDS
from retinue_registry.models.file import FileKeys
from retinue_registry.validation import check_spec
from tests.unit.registry.full_specs import FULL

ROOT = Path(__file__).parents[3]


WHOLE: dict[str, Any] = json.loads((files("retinue_cli") / "schema" / "retinue.schema.json").read_text())
OF_KIND = {kind: _of_kind(WHOLE, kind) for kind in KINDS}
FILE = Draft202012Validator(WHOLE)


def projects() -> Iterator[tuple[str, str]]:
    """The project files in this repository, and those in its pages."""
    for path in (
        *ROOT.glob("examples/*/retinue.yaml"),
        ROOT / "clients/python/retinue_cli/templates/retinue.yaml",
    ):
        yield str(path.relative_to(ROOT)), path.read_text()
    for page in ("project-files.md", "llms.md", "mcp-host.md", "registry.md"):
        text = (ROOT / "docs" / page).read_text()
        for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)):
            if re.search(r"^(llms|mcp_servers|agents):", block, re.MULTILINE):
                yield f"{page} {number}", block


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_the_command_prints_it(kind: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", kind] if kind else ["schema"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == (OF_KIND[kind] if kind else WHOLE)
    Draft202012Validator.check_schema(printed)


def test_every_project_here_fits() -> None:
    found = dict(projects())
    assert len(found) > 6
    for name, text in found.items():
        # In the pages a component may stand for its one new field.
        wrong = [each for each in FILE.iter_errors(yaml.safe_load(text)) if each.validator != "required"]
        assert [each.message for each in wrong] == [], name


@pytest.mark.parametrize("kind", FULL)
def test_a_spec_with_every_field_fits_and_no_field_is_without_words(kind: str) -> None:
    schema = OF_KIND[kind]
    Draft202012Validator(schema).validate(FULL[kind] | {"labels": {"team": "a"}})
    assert set(schema["properties"]) >= set(KINDS[kind].model.model_fields)
    for part in (schema, *schema["$defs"].values()):
        for name, field in part["properties"].items():
            assert field["description"].endswith("."), name
            assert field["examples"], name


NEEDED: dict[str, dict[str, Any]] = {
    "llm": {"model": "m"},
    "mcp_server": {},
    "agent": {"llm": "a"},
    "linear_workflow": {"steps": [{"name": "a", "agent": "b"}]},
    "graph_workflow": {"nodes": [{"name": "a", "agent": "b"}]},
    "custom_workflow": {},
}
"""What each kind cannot be without."""


@pytest.mark.parametrize("kind", FULL)
def test_every_example_is_one_that_the_registry_takes(kind: str) -> None:
    for name, field in OF_KIND[kind]["properties"].items():
        if name == "labels":
            continue
        given = dict(NEEDED[kind])
        given |= {name: field["examples"][0]}
        if kind == "mcp_server" and name not in ("stdio", "streamable_http", "sse"):
            given["stdio"] = {"command": "x"}
        # Rules that bind fields together are another matter: those examples stand alone.
        fitting = KINDS[kind].model.model_validate(given)
        assert getattr(fitting, name) is not None
        Draft202012Validator({**field, "$defs": WHOLE["$defs"]}).validate(field["examples"][0])


@pytest.mark.parametrize(
    ("kind", "given", "place"),
    [
        ("llm", {"model": "m", "timout": "3s"}, []),
        ("llm", {}, []),
        ("llm", {"model": "m", "timeout": "3 seconds"}, ["timeout"]),
        ("llm", {"model": "m", "timeout": 0}, ["timeout"]),
        ("llm", {"model": "m", "transport": "drect"}, ["transport"]),
        ("llm", {"model": "m", "api_key": "sk-plain"}, ["api_key"]),
        ("llm", {"model": "m", "base_url": "example.com"}, ["base_url"]),
        ("llm", {"model": "m", "headers": {"a b": "x"}}, ["headers"]),
        ("llm", {"model": "m", "generation": {"temperature": 3}}, ["generation", "temperature"]),
        ("mcp_server", {}, []),
        ("mcp_server", {"stdio": {"command": "x"}, "sse": {"url": "http://x"}}, []),
        ("mcp_server", {"stdio": {"command": "x", "env": {"PORT": 80}}}, ["stdio", "env", "PORT"]),
        ("agent", {"llm": "Fast"}, ["llm"]),
        ("agent", {"llm": "a", "max_iterations": 0}, ["max_iterations"]),
        ("agent", {"llm": "a", "variables": {"1": "x"}}, ["variables"]),
        ("agent", {"llm": "a", "tool_policies": [{"aproval": "always"}]}, ["tool_policies", 0]),
    ],
)
def test_what_the_registry_refuses_is_marked_at_its_place(
    kind: str, given: dict[str, Any], place: list[str | int]
) -> None:
    assert check_spec(kind, given)[1]
    errors = list(Draft202012Validator(OF_KIND[kind]).iter_errors(given))
    assert [list(each.absolute_path) for each in errors] == [place]


@pytest.mark.parametrize(
    "given",
    [{"agent": {}}, {"namespace": "A B"}, {"include": "x.yaml"}, {"llms": {"No Name": {"model": "m"}}}],
)
def test_the_keys_of_a_file_are_checked_too(given: dict[str, Any]) -> None:
    assert not FILE.is_valid(given)


def test_the_keys_beside_components_are_those_that_files_are_read_for() -> None:
    keys = {source_file.NAMESPACE, source_file.INCLUDE, source_file.PROJECTS}
    assert set(FileKeys.model_fields) == keys


def test_a_kind_that_there_is_not_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "llms"]) == 2
    assert "there is no kind 'llms': there are llm, mcp_server, agent" in capsys.readouterr().err


def test_the_defaults_that_are_shown_are_those_of_the_services() -> None:
    shown = {
        f"{kind}.{name}": field["default"]
        for kind in FULL
        for name, field in OF_KIND[kind]["properties"].items()
        if "default" in field
    }
    seconds = {name: _seconds(shown.pop(name)) for name in list(shown) if name.endswith("timeout")}
    assert seconds == {
        "llm.timeout": definition.LLM_TIMEOUT_S,
        "mcp_server.connect_timeout": convert.CONNECT_TIMEOUT_S,
        "mcp_server.call_timeout": convert.CALL_TIMEOUT_S,
        "mcp_server.idle_timeout": convert.IDLE_TIMEOUT_S,
        "agent.input_timeout": definition.INPUT_TIMEOUT_S,
    }
    assert shown == {
        "llm.transport": "auto",
        "llm.max_retries": definition.MAX_RETRIES,
        "llm.structured_output": "auto",
        "mcp_server.allow_sampling": False,
        "mcp_server.scope": "shared",
        "mcp_server.prewarm": False,
        "mcp_server.max_concurrent_calls": convert.MAX_CONCURRENT_CALLS,
        "mcp_server.max_queued_calls": convert.MAX_QUEUED_CALLS,
        "graph_workflow.concurrency": workflow.CONCURRENCY,
        "graph_workflow.on_failure": "fail_fast",
        "graph_workflow.on_conflict": "error",
        "agent.max_iterations": definition.MAX_ITERATIONS,
        "agent.tool_concurrency": definition.TOOL_CONCURRENCY,
        "agent.include_history": True,
        "agent.ask_user": False,
        "agent.max_repairs": definition.MAX_REPAIRS,
        "agent.stall_after": definition.STALL_AFTER,
    }


def _seconds(text: str) -> float:
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    return float(text[:-1]) * units[text[-1]]
