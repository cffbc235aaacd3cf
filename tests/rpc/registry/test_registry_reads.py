"""Getting, listing and resolving components."""

from pathlib import Path

import pytest

from retinue.errors import ComponentNotFoundError, InvalidArgumentError, ReferenceNotFoundError
from retinue.registry.v1 import component_pb2
from tests.rpc.registry.serving import AGENT, ANY, LLM, MCP_SERVER, agent, llm, server, serving


async def test_a_component_of_a_file_is_served_with_its_source(tmp_path: Path) -> None:
    (tmp_path / "retinue.yaml").write_text(
        "include: ['agents/*']\n"
        "llms:\n"
        "  fast: {model: gpt-4o-mini, protocol: openai_chat, base_url: 'http://x/v1', timeout: 90s}\n"
    )
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "a.yaml").write_text("\nagents:\n  a: {llm: fast, labels: {team: x}}\n")
    async with serving(tmp_path) as components:
        fast = await components.get(LLM, "fast")
        assert (fast.version, fast.llm.model, fast.llm.timeout.seconds) == (1, "gpt-4o-mini", 90)
        assert fast.llm.protocol == 1
        found = await components.get(AGENT, "a")
        assert (found.source.file.path, found.source.file.line) == ("agents/a.yaml", 3)
        assert dict(found.labels) == {"team": "x"}
        assert found.kind == AGENT
        assert found.create_time == found.update_time
        assert found.create_time.seconds > 1_700_000_000


async def test_what_does_not_exist_names_the_nearest(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        await components.apply([llm("fast"), agent("assistant"), agent("analyst")])
        with pytest.raises(ComponentNotFoundError, match="did you mean assistant") as caught:
            await components.get(AGENT, "asistant")
        assert caught.value.facts["nearest"] == "assistant"
        assert caught.value.facts["name"] == "asistant"
        with pytest.raises(ComponentNotFoundError, match="did you mean analyst"):
            await components.resolve(ANY, "analist")
        with pytest.raises(ComponentNotFoundError, match="has no version 2") as caught:
            await components.get(AGENT, "analyst", version=2)
        assert caught.value.facts["version"] == "2"
        with pytest.raises(ComponentNotFoundError):
            await components.get(LLM, "assistant")


async def test_a_get_that_says_too_little_or_nonsense_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        with pytest.raises(InvalidArgumentError) as caught:
            await components.get(ANY, "", version=-1)
        fields = [violation.field for violation in caught.value.violations]
        assert fields == ["component.kind", "component.name", "component.version"]
        with pytest.raises(InvalidArgumentError, match="kind number 99"):
            await components.get(component_pb2.ComponentKind.ValueType(99), "x")
        with pytest.raises(InvalidArgumentError, match="1 to 63"):
            await components.get(LLM, "x" * 1_000_000)
        with pytest.raises(InvalidArgumentError, match="at most 63"):
            await components.resolve(ANY, "x", llm="x" * 1_000_000)
    async with serving(tmp_path, namespace="No Name") as components:
        with pytest.raises(InvalidArgumentError, match="is not a name"):
            await components.get(LLM, "x")


async def test_every_version_can_be_read(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        for number in range(1, 4):
            await components.apply([llm("fast", f"m{number}")])
        for number in range(1, 4):
            found = await components.get(LLM, "fast", version=number)
            assert (found.version, found.llm.model) == (number, f"m{number}")
        newest = await components.get(LLM, "fast")
        assert newest.version == 3
        assert newest.update_time.ToNanoseconds() > newest.create_time.ToNanoseconds()


async def test_a_list_is_in_the_order_of_kind_and_name_page_by_page(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        await components.apply(
            [llm("fast"), *(agent(f"a{number}") for number in range(7)), server("s"), llm("slow")]
        )
        wanted = [(LLM, "fast"), (LLM, "slow"), (MCP_SERVER, "s"), *((AGENT, f"a{n}") for n in range(7))]
        for size in (1, 2, 3, 10, 1000):
            found = [(each.kind, each.name) async for each in components.list(page_size=size)]
            assert found == wanted
        assert [each.name async for each in components.list(MCP_SERVER)] == ["s"]
        assert [each.name async for each in components.list(AGENT, page_size=2)] == [
            f"a{n}" for n in range(7)
        ]
        with pytest.raises(InvalidArgumentError, match="page_size"):
            [each async for each in components.list(page_size=1001)]


async def test_pages_stay_where_they_are_while_others_write(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        await components.apply([llm(f"b{number}") for number in range(6)])
        seen = []
        async for each in components.list(page_size=2):
            seen.append(each.name)
            await components.apply([llm(f"a{len(seen)}"), llm(f"b{len(seen)}", "new")])
        assert seen == [f"b{number}" for number in range(6)] + (["b6"] if "b6" in seen else [])


async def test_a_page_of_large_components_ends_early(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        await components.apply([llm("fast")])
        for number in range(6):
            await components.apply([agent(f"a{number}", system_prompt=f"{number}" * 900_000)])
        assert [each.name async for each in components.list(AGENT)] == [f"a{n}" for n in range(6)]


async def test_namespaces_do_not_see_each_other(tmp_path: Path) -> None:
    async with serving(tmp_path, namespace="team") as components:
        await components.apply([llm("fast")])
        await components.apply([llm("fast", "other", namespace="default")])
        assert [each.namespace async for each in components.list()] == ["team"]
        with pytest.raises(ReferenceNotFoundError):
            await components.apply([agent("a", "none")])


async def test_resolve_brings_all_that_is_needed_each_once(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        names = [f"s{number}" for number in range(20)]
        await components.apply(
            [llm("fast"), llm("slow"), *map(server, names), agent("a", mcp_servers=names), server("unused")]
        )
        response = await components.resolve(ANY, "a")
        assert response.component.name == "a"
        needed = {(each.kind, each.name) for each in response.dependencies}
        assert needed == {(LLM, "fast"), *((MCP_SERVER, name) for name in names)}
        assert len(response.dependencies) == 21
        assert response.revision == response.component.revision + 1
        replaced = await components.resolve(AGENT, "a", llm="slow")
        assert [each.name for each in replaced.dependencies if each.kind == LLM] == ["slow"]
        assert replaced.component.agent.llm == "fast"
        alone = await components.resolve(LLM, "fast")
        assert not alone.dependencies


async def test_resolve_brings_the_agents_that_it_may_call_with_all_that_they_need(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        await components.apply(
            [
                *(llm(name) for name in ("fast", "slow", "spare", "other")),
                *(server(name) for name in ("time", "mail", "unused")),
                agent("top", agents=["left", "right"], mcp_servers=["time"]),
                agent("left", "slow", agents=["leaf"], mcp_servers=["time"]),
                agent("right", "fast", agents=["leaf"], fallback_llms=["slow"]),
                agent("leaf", "fast", mcp_servers=["mail"], fallback_llms=["spare"]),
                agent("beside", agents=["top"]),
            ]
        )
        response = await components.resolve(ANY, "top")
        assert sorted((each.kind, each.name) for each in response.dependencies) == [
            *((LLM, name) for name in ("fast", "slow", "spare")),
            *((MCP_SERVER, name) for name in ("mail", "time")),
            *((AGENT, name) for name in ("leaf", "left", "right")),
        ]
        replaced = await components.resolve(ANY, "left", llm="other")
        assert sorted(each.name for each in replaced.dependencies if each.kind == LLM) == [
            "fast",
            "other",
            "spare",
        ]


async def test_resolve_refuses_an_llm_that_is_not_there_or_has_no_place(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        await components.apply([llm("fast"), agent("a")])
        with pytest.raises(ComponentNotFoundError, match="did you mean fast") as caught:
            await components.resolve(ANY, "a", llm="fats")
        assert caught.value.facts["kind"] == "llm"
        with pytest.raises(InvalidArgumentError, match="no llm that could be replaced"):
            await components.resolve(LLM, "fast", llm="fast")


async def test_resolve_follows_the_newest_version(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        await components.apply([llm("fast"), llm("slow"), agent("a")])
        assert (await components.resolve(ANY, "a")).dependencies[0].name == "fast"
        await components.apply([agent("a", "slow")])
        await components.apply([llm("slow", "m2")])
        response = await components.resolve(ANY, "a")
        assert [(each.name, each.version) for each in response.dependencies] == [("slow", 2)]
