"""Components by the command, on a real registry: applied, compared, exported, gone back to, deleted."""

import asyncio
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from retinue.client import open_client
from retinue.registry.v1 import component_pb2
from retinue_cli.__main__ import main
from retinue_registry.convert import fill
from tests.rpc.registry.serving import agent, llm
from tests.unit.registry.full_specs import CUSTOM_COMMAND, FULL, HTTP, MINIMAL, SSE

from .cli_project import BOUND_S

pytestmark = pytest.mark.xdist_group("cli_components")

Retinue = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry's process with a project of one llm."""
    root = tmp_path_factory.mktemp("registry")
    (root / "retinue.yaml").write_text("llms:\n  owned: {model: m}\n")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RETINUE_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "retinue_registry"],
        env=kept
        | {
            "RETINUE_PROJECT": str(root),
            "RETINUE_USER_DIR": "",
            "RETINUE_REGISTRY_ADDRESS": "127.0.0.1:0",
            "RETINUE_REGISTRY_METRICS_ADDRESS": "",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["address"]
    finally:
        process.terminate()
        process.wait(BOUND_S)
        process.stdout.close()


@pytest.fixture
def namespace(tmp_path: Path) -> str:
    """One for each test."""
    return tmp_path.name.replace("_", "-")[-40:].strip("-")


@pytest.fixture
def retinue(
    address: str,
    namespace: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> Retinue:
    """Runs a command in an empty folder, in the test's namespace: exit status, stdout, stderr."""
    for name in [name for name in os.environ if name.startswith("RETINUE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RETINUE_REGISTRY_ADDRESS", address)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, namespace: str = namespace) -> tuple[int, str, str]:
        capsysbinary.readouterr()
        status = main([*arguments, "--namespace", namespace])
        said = capsysbinary.readouterr()
        return status, said.out.decode(), said.err.decode()

    return run


@pytest.fixture
def stored(address: str, namespace: str) -> Callable[..., None]:
    """Stores components by API."""

    async def apply(components: Sequence[component_pb2.Component]) -> None:
        async with open_client(registry=address, namespace=namespace) as client:
            await client.components.apply(components)

    return lambda *components: asyncio.run(apply(components))


BASE = "llms:\n  fast: {model: m}\nagents:\n  a: {llm: fast}\n"


def test_a_plan_is_shown_then_applied_and_then_nothing_differs(retinue: Retinue) -> None:
    Path("base.yaml").write_text(BASE)
    assert retinue("apply", "-f", "base.yaml")[:2] == (0, "llm/fast created v1\nagent/a created v1\n")
    Path("base.yaml").write_text(
        "llms:\n  new: {model: m}\n  fast: {model: m}\n"
        'agents:\n  a: {llm: new, max_iterations: 3, system_prompt: "Be.\\nGood."}\n'
    )
    plan = (
        "+ llm/new\n"
        '    + model: "m"\n'
        "~ agent/a\n"
        '    - llm: "fast"\n'
        '    + llm: "new"\n'
        "      system_prompt:\n"
        "    +   Be.\n"
        "    +   Good.\n"
        "    + max_iterations: 3\n"
        "1 to create, 1 to update\n"
    )
    assert retinue("diff", "-f", "base.yaml") == (1, plan, "")
    status, out, _ = retinue("apply", "-f", "base.yaml", "--dry-run", "--json")
    told = json.loads(out)
    assert status == 0
    assert told["applied"][2]["changes"][0] == {"path": "llm", "before_json": '"fast"', "after_json": '"new"'}
    assert retinue("apply", "-f", "base.yaml")[1].endswith("agent/a updated v2\n")
    assert retinue("diff", "-f", "base.yaml") == (0, "Nothing would change.\n", "")


def test_what_is_wrong_has_its_file_and_line_and_diff_ends_with_two(retinue: Retinue) -> None:
    Path("base.yaml").write_text(BASE.replace("llm: fast", "llm: fats"))
    status, out, err = retinue("apply", "-f", "base.yaml")
    assert (status, out) == (1, "")
    assert err.startswith("error: base.yaml:4: agents.a.llm: there is no llm 'fats'; did you mean fast?\n")
    assert retinue("diff", "-f", "base.yaml")[::2] == (2, err)
    Path("twice.yaml").write_text(BASE.replace("a: {llm", "b: {lm"))
    status, _, err = retinue("apply", "-f", "base.yaml", "twice.yaml")
    assert err.startswith(
        "error: 4 problems in what was given:\nbase.yaml:4: agents.a.llm: there is no llm 'fats'; did"
    )
    assert "twice.yaml:2: llms.fast: the llm 'fast' stands in base.yaml:2 already\n" in err
    assert "twice.yaml:4: agents.b.lm: there is no such key; did you mean llm" in err
    Path("both.yaml").write_text(
        "agents:\n  x: {llm: fsat, max_iterations: 0}\n  y: {llm: fast, mcp_servers: [gone], agents: [x]}\n"
    )
    Path("llms.yaml").write_text("llms:\n  fast: {model: m}\n")
    assert retinue("apply", "-f", "llms.yaml")[0] == 0
    assert retinue("apply", "-f", "both.yaml")[2] == (
        "error: 3 problems in what was given:\n"
        "both.yaml:2: agents.x.max_iterations: must be greater than or equal to 1\n"
        "both.yaml:2: agents.x.llm: there is no llm 'fsat'; did you mean fast?\n"
        "both.yaml:3: agents.y.mcp_servers[0]: there is no mcp_server 'gone'\n"
    )
    for arguments, said in (
        (["apply", "-f", "bsae.yaml"], "there is no bsae.yaml; did you mean base.yaml?"),
        (["diff", "agent/a"], "compare versions with `diff KIND/NAME VERSION [VERSION]`"),
        (["apply", "-f", "base.yaml", "--force"], "--force goes with --prune"),
        (["get", "agnt/a"], "'agnt' is no kind of component: did you mean agent?"),
        (["history", "a"], "'a' does not name one component: write its kind before it, such as agent/a"),
    ):
        status, _, err = retinue(*arguments)
        assert (status, err.count("\n")) == (2, 1), arguments
        assert said in err


def test_a_folder_a_project_and_stdin_are_read_like_files(
    retinue: Retinue, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("all/deep").mkdir(parents=True)
    Path("all/a.yaml").write_text("llms:\n  one: {model: m}\n")
    Path("all/b.json").write_text('{"mcp_servers": {"two": {"stdio": {"command": "./run"}}}}')
    Path("all/deep/c.yaml").write_text("llms:\n  three: {model: m}\n")
    assert retinue("apply", "-f", "all")[1] == "llm/one created v1\nmcp_server/two created v1\n"
    server = json.loads(retinue("get", "mcp_server/two", "--json")[1])
    assert server["mcp_server"]["stdio"]["command"] == str(Path("all/run").absolute())
    Path("all/retinue.yaml").write_text("include: [deep/*.yaml]\n")
    assert retinue("apply", "-f", "all")[1] == "llm/three created v1\n"
    text = io.BytesIO(b"agents:\n  four: {llm: three, output_schema: {type: object}}\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(text))
    assert retinue("apply", "-f", "-")[1] == "agent/four created v1\n"
    assert json.loads(json.loads(retinue("get", "agent/four", "--json")[1])["agent"]["output_schema_json"])


def test_prune_deletes_what_is_not_in_the_files_but_not_unasked(
    retinue: Retinue, stored: Callable[..., None]
) -> None:
    labelled = agent("b")
    labelled.labels["team"] = "x"
    stored(llm("fast"), agent("a"), labelled, agent("c"))
    Path("base.yaml").write_text(BASE)
    assert retinue("diff", "-f", "base.yaml", "--prune")[1].startswith("- agent/b\n    - labels: ")
    status, _, err = retinue("apply", "-f", "base.yaml", "--prune")
    assert (status, err) == (
        2,
        "error: agent/b, agent/c would be deleted, and there is nobody to ask here: --yes does it\n",
    )
    pruned = retinue("apply", "-f", "base.yaml", "--prune", "--label", "team=x", "--yes")[1]
    assert pruned == "llm/fast unchanged v1\nagent/a unchanged v1\nagent/b deleted v1\n"
    Path("base.yaml").write_text("namespace: elsewhere\nllms:\n  other: {model: m}\n")
    status, _, err = retinue("apply", "-f", "base.yaml", "--prune", "--yes")
    assert (status, "--prune is for the namespace of the files, elsewhere" in err) == (2, True)


@pytest.mark.parametrize(("answer", "status", "left"), [(b"n\n", 1, True), (b"y\n", 0, False)])
def test_a_person_is_asked_before_prune_deletes(
    retinue: Retinue,
    stored: Callable[..., None],
    address: str,
    namespace: str,
    answer: bytes,
    status: int,
    left: bool,
) -> None:
    stored(llm("kept"), llm("gone"))
    Path("base.yaml").write_text(f"namespace: {namespace}\nllms:\n  kept: {{model: m}}\n")
    keyboard, terminal = os.openpty()
    try:
        os.write(keyboard, answer)
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "retinue_cli",
                "apply",
                "-f",
                "base.yaml",
                "--prune",
                "--registry",
                address,
            ],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            timeout=BOUND_S,
            check=False,
        )
        assert done.returncode == status
        assert b"Delete llm/gone?" in os.read(keyboard, 65_536)
    finally:
        os.close(keyboard)
        os.close(terminal)
    assert (retinue("get", "llm/gone")[0] == 0) is left


def test_versions_are_listed_compared_and_gone_back_to(retinue: Retinue, stored: Callable[..., None]) -> None:
    for model in ("m1", "m2"):
        stored(llm("fast", model, labels={"team": "x"}))
    assert retinue("diff", "llm/fast", "1", "2")[:2] == (1, '    - model: "m1"\n    + model: "m2"\n')
    assert retinue("diff", "llm/fast", "2")[:2] == (0, "They are the same.\n")
    assert retinue("rollback", "llm/fast", "1")[1].splitlines()[0] == "llm/fast updated v3"
    assert retinue("delete", "llm/fast")[1] == "llm/fast deleted v3\n"
    heading, *rows = retinue("history", "llm/fast")[1].splitlines()
    assert heading.split() == ["VERSION", "STORED", "FROM", "CHANGED"]
    assert [(row.split()[0], row.split()[-1]) for row in rows] == [
        ("4", "deleted"),
        ("3", "model"),
        ("2", "model"),
        ("1", "created"),
    ]
    assert len(json.loads(retinue("history", "llm/fast", "-n", "2", "--json")[1])["versions"]) == 2
    assert "was deleted: roll back to version 3" in retinue("get", "llm/fast")[2]
    assert "has no version 9: kept are 1 to 4" in retinue("rollback", "llm/fast", "9")[2]
    assert retinue("rollback", "llm/fast", "2")[0] == 0
    comment, *lines = retinue("get", "llm/fast", "--version", "1")[1].splitlines()
    assert comment.startswith("# llm/fast, version 1, from API, stored 20")
    assert lines[0].startswith("namespace: ")
    assert lines[1:] == ["llms:", "  fast:", "    labels:", "      team: x", "    model: m1"]


def test_what_others_need_or_a_file_owns_is_not_deleted(
    retinue: Retinue, stored: Callable[..., None]
) -> None:
    stored(llm("fast"), agent("a"))
    status, _, err = retinue("delete", "llm/fast")
    assert (status, "agents.a.llm: agent/a (API) needs llm/fast" in err) == (1, True)
    forced = retinue("delete", "llm/fast", "--force")[1]
    assert forced == "llm/fast deleted v1\n! agent/a needs llm/fast, which is gone (llm)\n"
    owned = retinue("delete", "llm/owned", namespace="default")
    assert owned[::2] == (1, "error: llm/owned stands in retinue.yaml:2: remove it there\n")
    assert retinue("problems", namespace="default") == (0, "No problems.\n", "")


OTHERS = ("researcher", "writer", "guesser", "searcher", "fast", "judge", "b")
"""The agents that the full specs name."""


def test_an_export_that_is_applied_again_changes_nothing(
    retinue: Retinue, stored: Callable[..., None]
) -> None:
    def component(kind: str, name: str, values: dict[str, Any]) -> component_pb2.Component:
        result = component_pb2.Component(name=name, labels={"team": "a", "é": "1e5"})
        fill(getattr(result, kind), values)
        return result

    stored(
        component("llm", "fast", FULL["llm"]),
        *(component("llm", name, MINIMAL["llm"]) for name in ("slow", "local")),
        component("mcp_server", "time", FULL["mcp_server"]),
        component("mcp_server", "mail", HTTP),
        component("mcp_server", "news", SSE),
        component("agent", "assistant", FULL["agent"]),
        *(component("agent", name, MINIMAL["agent"]) for name in OTHERS),
        component("linear_workflow", "reporting", FULL["linear_workflow"]),
        component("linear_workflow", "sending", MINIMAL["linear_workflow"]),
        component("graph_workflow", "research", FULL["graph_workflow"]),
        component("graph_workflow", "slow", MINIMAL["graph_workflow"]),
        component("custom_workflow", "nightly", FULL["custom_workflow"]),
        component("custom_workflow", "hourly", CUSTOM_COMMAND),
    )
    for name in ("all.yaml", "all.json"):
        assert retinue("export", "-o", name)[1] == f"✓ wrote 20 components to {name}\n"
    assert retinue("diff", "-f", "all.json", "--prune") == (0, "Nothing would change.\n", "")
    applied = retinue("apply", "-f", "all.yaml")[1].splitlines()
    assert [line.split(maxsplit=1)[1] for line in applied] == ["unchanged v1"] * 20
    assert Path("all.yaml").read_text() == retinue("export")[1]
    assert "api_key: ${env:OPENAI_API_KEY}\n" in Path("all.yaml").read_text()
    some = json.loads(retinue("export", "--kind", "llm", "--name", "*l*", "--label", "team=a", "--json")[1])
    assert list(some["llms"]) == ["local", "slow"]
    assert retinue("export", "--source", "project")[1] == "{}\n"
