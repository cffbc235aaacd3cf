# ruff: noqa: ASYNC240 - small files, before or between the lives of a server
"""The project's files over the life of a registry: imports, problems, what a bad file keeps, who wins."""

from pathlib import Path

import pytest

from retinue.client import Components
from retinue.errors import (
    ComponentInvalidError,
    ComponentNotFoundError,
    ReferenceNotFoundError,
    StoreUnavailableError,
)
from retinue.registry.v1 import component_pb2, service_pb2, workflow_pb2
from tests.rpc.registry.serving import AGENT, LLM, agent, llm, serving


async def there(components: Components) -> list[str]:
    return [f"{each.name}@{each.version}" async for each in components.list()]


async def problems(components: Components) -> list[str]:
    return [f"{each.path}:{each.line}: {each.field}: {each.message}" async for each in components.problems()]


@pytest.fixture
def anchor(tmp_path: Path) -> Path:
    """An anchor with an llm, that includes a.yaml with an agent."""
    (tmp_path / "a.yaml").write_text("agents:\n  a: {llm: fast}\n")
    path = tmp_path / "retinue.yaml"
    path.write_text("include: ['[a-z].yaml']\nllms:\n  fast: {model: m}\n")
    return path


async def test_a_restart_keeps_versions_and_revisions(anchor: Path) -> None:
    async with serving(anchor.parent) as components:
        await components.apply([llm("api"), agent("b", "api")])
        before = [each async for each in components.list()]
    for _ in range(2):
        async with serving(anchor.parent) as components:
            assert [each async for each in components.list()] == before
            assert (await components.resolve(AGENT, "b")).revision == 4
            assert await problems(components) == []


async def test_a_changed_file_makes_versions_of_what_changed_and_of_nothing_else(anchor: Path) -> None:
    async with serving(anchor.parent):
        pass
    anchor.write_text("# moved down\n" + anchor.read_text().replace("model: m", "model: n"))
    async with serving(anchor.parent) as components:
        assert await there(components) == ["fast@2", "a@1"]
        assert (await components.get(LLM, "fast")).source.file.line == 4


async def test_a_name_that_an_answer_s_schema_lacks_is_told_with_its_line_and_by_api(anchor: Path) -> None:
    schema = "{type: object, properties: {score: {type: number}}}"
    (anchor.parent / "a.yaml").write_text(f"agents:\n  a: {{llm: fast, output_schema: {schema}}}\n")
    (anchor.parent / "f.yaml").write_text(
        "linear_workflows:\n  flow:\n    steps:\n    - {name: one, agent: a}\n"
        "    - {name: two, agent: a, condition: steps.one.output.scor > 1}\n"
    )
    said = "names steps.one.output.scor, and the agent a's output_schema declares score; did you mean score?"
    async with serving(anchor.parent) as components:
        assert await there(components) == ["fast@1", "a@1"]
        assert await problems(components) == [f"f.yaml:5: linear_workflows.flow.steps[1].condition: {said}"]
        one = workflow_pb2.WorkflowStep(name="one", agent="a")
        two = workflow_pb2.WorkflowStep(name="two", agent="a", input="{{ steps.one.output.scor }}")
        flow = workflow_pb2.LinearWorkflowSpec(steps=[one, two])
        with pytest.raises(ComponentInvalidError) as caught:
            await components.apply([component_pb2.Component(name="flow", linear_workflow=flow)])
        (violation,) = caught.value.violations
        assert violation.field == "components[0].linear_workflow.steps[1].input"
        assert violation.description == said


async def test_a_component_that_moves_to_another_file_keeps_its_version(anchor: Path) -> None:
    async with serving(anchor.parent):
        pass
    (anchor.parent / "a.yaml").rename(anchor.parent / "b.yaml")
    async with serving(anchor.parent) as components:
        found = await components.get(AGENT, "a")
        assert (found.version, found.source.file.path) == (1, "b.yaml")
    (anchor.parent / "b.yaml").write_text("agents: {a: {llm: fast, oops: 1}}\n")
    async with serving(anchor.parent) as components:
        assert await there(components) == ["fast@1", "a@1"]


async def test_what_leaves_the_files_is_gone_and_counts_on_when_it_comes_back(anchor: Path) -> None:
    text = (anchor.parent / "a.yaml").read_text()
    async with serving(anchor.parent) as components:
        first = await components.get(AGENT, "a")
    (anchor.parent / "a.yaml").unlink()
    async with serving(anchor.parent) as components:
        assert await there(components) == ["fast@1"]
        with pytest.raises(ComponentNotFoundError):
            await components.get(AGENT, "a")
        assert await components.get(AGENT, "a", version=1) == first
    (anchor.parent / "a.yaml").write_text(text)
    async with serving(anchor.parent) as components:
        assert await there(components) == ["fast@1", "a@3"]


async def test_a_bad_file_keeps_what_it_gave_and_heals_when_it_is_mended(anchor: Path) -> None:
    async with serving(anchor.parent):
        pass
    (anchor.parent / "a.yaml").write_text("agents:\n  a: {llm: fast, max_iterations: 0}\n  b: {llm: fast}\n")
    anchor.write_text(anchor.read_text().replace("model: m", "model: n"))
    async with serving(anchor.parent) as components:
        assert await there(components) == ["fast@2", "a@1"]
        said = "must be greater than or equal to 1"
        assert await problems(components) == [f"a.yaml:2: agents.a.max_iterations: {said}"]
    (anchor.parent / "a.yaml").write_text("agents:\n  a: {llm: fast}\n  b: {llm: fast}\n")
    async with serving(anchor.parent) as components:
        assert await there(components) == ["fast@2", "a@1", "b@1"]
        assert await problems(components) == []


async def test_a_bad_file_gives_nothing_at_the_first_start(anchor: Path) -> None:
    (anchor.parent / "a.yaml").write_text("agents:\n  a: {llm: fast}\n  b: {lm: fast}\n")
    async with serving(anchor.parent) as components:
        assert await there(components) == ["fast@1"]


async def test_an_anchor_that_cannot_be_read_keeps_every_file(anchor: Path) -> None:
    async with serving(anchor.parent):
        pass
    anchor.write_text("include: [\n")
    async with serving(anchor.parent) as components:
        assert await there(components) == ["fast@1", "a@1"]
        (problem,) = await problems(components)
        assert problem.startswith("retinue.yaml:2: : is not YAML")


async def test_what_needs_a_component_of_a_bad_file_waits_for_it(anchor: Path) -> None:
    (anchor.parent / "b.yaml").write_text("llms:\n  new: {model: m, zzz: 1}\n")
    (anchor.parent / "c.yaml").write_text("agents:\n  c: {llm: new}\n")
    async with serving(anchor.parent) as components:
        assert await there(components) == ["fast@1", "a@1"]
        assert (await problems(components))[1] == (
            "c.yaml:2: agents.c.llm: the llm 'new' stands in b.yaml, which has problems itself"
        )


async def test_the_api_wins_over_a_file_and_its_own_stays_when_the_file_changes(anchor: Path) -> None:
    async with serving(anchor.parent) as components:
        response = await components.apply([llm("fast", "by api")])
        assert response.applied[0].component.version == 2
        assert response.applied[0].component.source.HasField("api")
    anchor.write_text(anchor.read_text().replace("model: m", "model: edited"))
    async with serving(anchor.parent) as components:
        found = await components.get(LLM, "fast")
        assert (found.version, found.llm.model) == (2, "by api")
    anchor.write_text("include: ['[a-z].yaml']\n")
    async with serving(anchor.parent) as components:
        assert await there(components) == ["fast@2", "a@1"]
        assert await problems(components) == []


async def test_applying_what_a_file_gives_changes_nothing_and_leaves_it_the_file_s(anchor: Path) -> None:
    async with serving(anchor.parent) as components:
        exported = [each async for each in components.list()]
        response = await components.apply(exported)
        assert {each.outcome for each in response.applied} == {service_pb2.APPLY_OUTCOME_UNCHANGED}
        assert [each async for each in components.list()] == exported


async def test_a_file_may_refer_to_what_came_by_api(anchor: Path) -> None:
    async with serving(anchor.parent) as components:
        await components.apply([llm("api")])
    (anchor.parent / "b.yaml").write_text("agents: {b: {llm: api}}\n")
    async with serving(anchor.parent) as components:
        assert "b@1" in await there(components)


async def test_a_reference_that_the_files_broke_is_named_when_it_is_resolved(anchor: Path) -> None:
    async with serving(anchor.parent) as components:
        await components.apply([agent("mine", "fast")])
    anchor.write_text("llms:\n  fats: {model: m}\n")
    async with serving(anchor.parent) as components:
        with pytest.raises(ReferenceNotFoundError, match="did you mean fats") as caught:
            await components.resolve(AGENT, "mine")
        assert caught.value.facts == {"kind": "agent", "name": "mine", "missing": "llm/fast"}
        assert (await components.resolve(AGENT, "mine", llm="fats")).dependencies[0].name == "fats"


async def test_a_circle_through_what_came_by_api_keeps_the_file_as_it_was(anchor: Path) -> None:
    async with serving(anchor.parent) as components:
        await components.apply([agent("api", agents=["a"])])
    (anchor.parent / "a.yaml").write_text("agents:\n  a: {llm: fast, agents: [api]}\n")
    async with serving(anchor.parent) as components:
        assert await there(components) == ["fast@1", "a@1", "api@1"]
        said = "leads back to the agent itself: a → api (API) → a"
        assert await problems(components) == [f"a.yaml:2: agents.a.agents[0]: {said}"]


async def test_a_circle_through_what_a_bad_file_keeps_is_not_loaded(anchor: Path) -> None:
    (anchor.parent / "b.yaml").write_text("agents: {b: {llm: fast, agents: [a]}}\n")
    async with serving(anchor.parent):
        pass
    (anchor.parent / "b.yaml").write_text("agents: {b: {llm: fast, oops: 1}}\n")
    (anchor.parent / "a.yaml").write_text("agents: {a: {llm: fast, agents: [b]}}\n")
    async with serving(anchor.parent) as components:
        assert await there(components) == ["fast@1", "a@1", "b@1"]
        assert (await problems(components))[0] == (
            "a.yaml:1: agents.a.agents[0]: leads back to the agent itself: a → b (b.yaml:1) → a"
        )
    (anchor.parent / "b.yaml").write_text("agents: {b: {llm: fast}}\n")
    async with serving(anchor.parent) as components:
        assert await there(components) == ["fast@1", "a@2", "b@2"]
        assert await problems(components) == []


async def test_a_circle_of_files_that_the_api_has_broken_is_no_problem(anchor: Path) -> None:
    async with serving(anchor.parent) as components:
        await components.apply([agent("b")])
    (anchor.parent / "a.yaml").write_text(
        "agents: {a: {llm: fast, agents: [b]}, b: {llm: fast, agents: [a]}}\n"
    )
    async with serving(anchor.parent) as components:
        assert await problems(components) == []
        assert await there(components) == ["fast@1", "a@2", "b@1"]


async def test_problems_come_page_by_page_and_by_namespace(tmp_path: Path) -> None:
    entries = "".join(f"  l{number}: {{}}\n" for number in range(250))
    (tmp_path / "retinue.yaml").write_text(f"include: [b.yaml, c.yaml]\nllms:\n{entries}")
    (tmp_path / "b.yaml").write_text("namespace: team\nllms: {x: {}}\n")
    (tmp_path / "c.yaml").write_text("[")
    async with serving(tmp_path) as components:
        found = await problems(components)
        assert found[0].startswith("c.yaml:")
        assert found[1:] == [f"retinue.yaml:{n + 3}: llms.l{n}.model: is missing" for n in range(250)]
    async with serving(tmp_path, namespace="team") as components:
        assert [each.split(":")[0] for each in await problems(components)] == ["b.yaml", "c.yaml"]


async def test_without_a_project_the_files_components_are_gone(
    anchor: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path_factory.mktemp("data")
    async with serving(anchor.parent, data_dir=data) as components:
        await components.apply([llm("api")])
    monkeypatch.chdir(data)
    async with serving(anchor.parent, data_dir=data, project=None) as components:
        assert await there(components) == ["api@1"]
    monkeypatch.chdir(anchor.parent)
    async with serving(anchor.parent, data_dir=data, project=None) as components:
        assert await there(components) == ["api@1", "fast@3", "a@3"]


async def test_a_project_that_is_not_one_and_a_store_in_use_are_said_clearly(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no retinue\.yaml"):
        async with serving(tmp_path, project=tmp_path / "none"):
            pytest.fail("it was opened")
    async with serving(tmp_path):
        with pytest.raises(StoreUnavailableError, match="in use by another registry"):
            async with serving(tmp_path):
                pytest.fail("it was opened")
