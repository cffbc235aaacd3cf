"""Layers of files over the life of a registry: which one is in effect, what is shadowed, what is kept."""

import asyncio
import sys
from pathlib import Path

import pytest

from retinue.client import Components
from retinue.registry.v1 import component_pb2, service_pb2
from tests.rpc.registry.serving import AGENT, BOUND_S, LLM, agent, llm, serving
from tests.rpc.registry.test_registry_watching import until


def write(root: Path, **files: str) -> None:
    """Write `a__b="x"` to the anchor in the folder a/b; each text names the llms that it gives."""
    for place, text in files.items():
        folder = root.joinpath(*place.split("__"))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "retinue.yaml").write_text(text)


def llms(**models: str) -> str:
    return "llms:\n" + "".join(f"  {name}: {{model: {model}}}\n" for name, model in models.items())


def where(source: component_pb2.ComponentSource) -> str:
    if source.HasField("api"):
        return "api"
    layer = component_pb2.FileLayer.Name(source.file.layer).removeprefix("FILE_LAYER_").lower()
    return f"{layer} {source.file.path}"


async def there(components: Components) -> dict[str, str]:
    return {
        f"{each.name}@{each.version}": f"{each.llm.model or each.agent.llm}, {where(each.source)}"
        async for each in components.list()
    }


async def shadowed(components: Components) -> list[str]:
    return [
        f"{each.component.name}={each.component.llm.model} of {where(each.component.source)}"
        f" by {where(each.shadowed_by)}"
        async for each in components.shadowed()
    ]


async def problems(components: Components) -> list[str]:
    return [f"{where_of(each)}: {each.message}" async for each in components.problems()]


def where_of(problem: service_pb2.Problem) -> str:
    layer = component_pb2.FileLayer.Name(problem.layer).removeprefix("FILE_LAYER_").lower()
    return f"{layer} {problem.path}"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A workspace with the projects p and q, and a user's folder."""
    write(
        tmp_path,
        w="projects: [p, q]\n" + llms(all="workspace", w="workspace"),
        w__p=llms(all="project"),
        w__q=llms(all="other", q="other"),
        user=llms(all="user", u="user"),
    )
    return tmp_path / "w"


async def test_the_first_layer_is_in_effect_and_the_others_are_listed_as_shadowed(root: Path) -> None:
    async with serving(root / "p", user_dir=str(root.parent / "user")) as components:
        files = {
            "q@1": "other, workspace q/retinue.yaml",
            "u@1": "user, user retinue.yaml",
            "w@1": "workspace, workspace retinue.yaml",
        }
        assert await there(components) == {"all@1": "project, project retinue.yaml"} | files
        lower = ["workspace of workspace retinue.yaml", "other of workspace q/retinue.yaml"]
        lower.append("user of user retinue.yaml")
        expected = sorted(f"all={each} by project retinue.yaml" for each in lower)
        assert sorted(await shadowed(components)) == expected
        await components.apply([llm("all", "by api")])
        assert await there(components) == {"all@2": "by api, api"} | files
        lower.append("project of project retinue.yaml")
        assert sorted(await shadowed(components)) == sorted(f"all={each} by api" for each in lower)
        await components.delete(LLM, "all")
        assert (await components.get(LLM, "all")).llm.model == "project"
        assert sorted(await shadowed(components)) == expected


async def test_what_a_layer_gives_no_more_is_taken_from_the_next(root: Path) -> None:
    async with serving(root / "p", user_dir=str(root.parent / "user")) as components:
        await components.watch().__anext__()
    write(root, p=llms())
    async with serving(root / "p", user_dir=str(root.parent / "user")) as components:
        assert (await there(components))["all@2"] == "workspace, workspace retinue.yaml"
    write(root.parent, w="projects: [p, q]\n" + llms(w="workspace"))
    write(root, q="agents: {a: {llm: all}}\n")
    async with serving(root / "p", user_dir=str(root.parent / "user")) as components:
        found = await there(components)
        assert found["all@3"] == "user, user retinue.yaml"
        assert found["a@1"] == "all, workspace q/retinue.yaml"
        assert len(found) == 4


@pytest.mark.parametrize("broken", ["w", "w__p", "w__q", "user"])
async def test_a_bad_file_of_any_layer_keeps_what_it_gave_and_no_other_file_s_component(
    root: Path, broken: str
) -> None:
    async with serving(root / "p", user_dir=str(root.parent / "user")) as components:
        before = await there(components)
    write(root.parent, **{broken: "llms: [\n"})
    async with serving(root / "p", user_dir=str(root.parent / "user")) as components:
        assert await there(components) == before
        (said,) = await problems(components)
        layer = {"w": "workspace", "w__p": "project", "w__q": "workspace q/", "user": "user"}[broken]
        assert said.startswith(layer)


async def test_the_anchor_of_a_workspace_that_cannot_be_read_keeps_its_projects(root: Path) -> None:
    async with serving(root) as components:
        before = await there(components)
        assert set(before.values()) == {
            "workspace, workspace retinue.yaml",
            "other, workspace q/retinue.yaml",
        }
    for text in ("projects: [p\n", "projects: p\n", "\0"):
        write(root.parent, w=text)
        async with serving(root) as components:
            assert await there(components) == before
            assert len(await problems(components)) == 1
    write(root.parent, w="projects: [p]\n")
    async with serving(root) as components:
        assert await there(components) == {"all@2": "project, workspace p/retinue.yaml"}


async def test_what_is_shadowed_and_bad_is_still_given_when_what_shadows_it_goes(root: Path) -> None:
    user = root.parent / "user"
    async with serving(root / "p", user_dir=str(user)) as components:
        await components.apply([llm("u", "by api")])
        write(root.parent, user="llms: [\n")
        await until(lambda each: count(each.problems()), components, 1)
        answer = await components.delete(LLM, "u")
        assert answer.replacement.llm.model == "user"
        (user / "retinue.yaml").unlink()
        await until(lambda each: count(each.problems()), components, 0)
        assert "u@3" not in await there(components)


async def count(items: object) -> int:
    return len([each async for each in items])  # type: ignore[attr-defined]


async def test_references_lead_to_all_layers_and_a_bad_file_makes_no_problems_elsewhere(root: Path) -> None:
    write(root, p="agents: {mine: {llm: u}}\n")
    write(root.parent, user=llms(u="user") + "agents: {theirs: {llm: w, agents: [mine]}}\n")
    async with serving(root / "p", user_dir=str(root.parent / "user")) as components:
        assert await problems(components) == []
        needed = (await components.resolve(AGENT, "theirs")).dependencies
        assert {each.name for each in needed} == {"w", "mine", "u"}
    write(root.parent, user="agents: [\n")
    async with serving(root / "p", user_dir=str(root.parent / "user")) as components:
        assert [each.split(":")[0] for each in await problems(components)] == ["user retinue.yaml"]
        assert (await components.resolve(AGENT, "theirs")).component.version == 1


async def test_lists_are_filtered_by_kind_label_name_and_source(root: Path) -> None:
    source = service_pb2.SourceType
    async with serving(root / "p", user_dir=str(root.parent / "user")) as components:
        red = {"team": "red", "tier": "1"}
        await components.apply(
            [llm("red-1", labels=red), llm("red-2", labels={"team": "red"}), agent("red-a", "u")]
        )

        async def names(**filters: object) -> list[str]:
            return [each.name async for each in components.list(page_size=1, **filters)]  # type: ignore[arg-type]

        assert await names(labels={"team": "red"}) == ["red-1", "red-2"]
        assert await names(labels=red) == ["red-1"]
        assert await names(name_pattern="red-[!2]") == ["red-1", "red-a"]
        assert await names(name_pattern="RED*") == []
        assert await names(name_pattern="?") == ["q", "u", "w"]
        assert await names(kind=AGENT, name_pattern="red*") == ["red-a"]
        assert await names(source=source.SOURCE_TYPE_API, kind=LLM) == ["red-1", "red-2"]
        assert await names(source=source.SOURCE_TYPE_PROJECT) == ["all"]
        assert await names(source=source.SOURCE_TYPE_WORKSPACE) == ["q", "w"]
        assert await names(source=source.SOURCE_TYPE_USER) == ["u"]
        assert await names(source=source.SOURCE_TYPE_PACKAGE) == []
        with pytest.raises(Exception, match="at most 256 characters"):
            await names(name_pattern="*" * 300)
        with pytest.raises(Exception, match="source number 99"):
            await names(source=99)


async def test_pages_are_stable_while_others_write(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        stay = [f"s{number:03}" for number in range(60)]
        await components.apply([llm(name) for name in stay])
        for turn in range(4):
            seen = []
            number = 0
            async for each in components.list(name_pattern="[st]*", page_size=7):
                seen.append(each.name)
                if len(seen) % 7 == 0:  # a page is at its end: others come and go on both of its sides
                    number += 1
                    new = [llm(f"{letter}{number:03}-{turn}") for letter in "st"]
                    await components.apply(new)
                    if number > 1:
                        await components.delete(LLM, f"s{number - 1:03}-{turn}")
                        await components.delete(LLM, f"t{number - 1:03}-{turn}")
            assert sorted(seen) == seen
            assert len(set(seen)) == len(seen)
            assert set(stay) <= set(seen)


async def test_the_command_line_lists_what_is_shadowed_and_names_the_layers(root: Path) -> None:
    async def said(*arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "retinue_cli", f"--registry={address}", *arguments),
            stdout=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(BOUND_S):
            out, _ = await process.communicate()
        return out.decode()

    write(root.parent, user=llms(all="user", u="user") + "x: 1\n")
    async with serving(root / "q", user_dir=str(root.parent / "user")) as components:
        address = components._channel.address
        rows = [line.split("  ") for line in (await said("shadowed")).splitlines()]
        assert [[cell.strip() for cell in row if cell] for row in rows] == [
            ["COMPONENT", "FROM", "IN EFFECT IS"],
            ["llm/all", "workspace: p/retinue.yaml:2", "retinue.yaml:2"],
            ["llm/all", "workspace: retinue.yaml:3", "retinue.yaml:2"],
        ]
        assert (await said("problems")).startswith("user: retinue.yaml:4: x: there is no such key")


async def test_shadowed_components_and_problems_come_page_by_page(tmp_path: Path) -> None:
    many = {f"l{number:03}": "m" for number in range(250)}
    write(tmp_path, p=llms(**many), user=llms(**many) + "mcp_servers:\n  " + "x: {}\n")
    async with serving(tmp_path / "p", user_dir=str(tmp_path / "user")) as components:
        assert await count(components.shadowed()) == 0
        assert await problems(components) != []
    write(tmp_path, user=llms(**many))
    async with serving(tmp_path / "p", user_dir=str(tmp_path / "user")) as components:
        names = [each.component.name async for each in components.shadowed()]
        assert names == list(many)
