"""Deleting what came by API: what needs it, what a file gives in its place, and the same request again."""

from pathlib import Path

import pytest

from retinue.errors import (
    ComponentInUseError,
    ComponentInvalidError,
    ComponentNotFoundError,
    ComponentOwnedByFileError,
    EtagMismatchError,
    InvalidArgumentError,
    RequestIdReusedError,
)
from retinue.registry.v1 import component_pb2, service_pb2
from tests.rpc.registry.serving import AGENT, LLM, MCP_SERVER, agent, llm, server, serving


def lacks(broken: object) -> list[tuple[str, str, str]]:
    """References that are broken: who, where, what."""
    return [(each.component.name, each.field, each.missing.name) for each in broken]  # type: ignore[attr-defined]


async def test_a_deleted_component_is_gone_and_its_versions_count_on(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        stored = (await components.apply([llm("fast")])).applied[0].component
        deleted = await components.delete(LLM, "fast", etag=stored.etag)
        assert deleted.component == stored
        assert not deleted.HasField("replacement")
        assert (deleted.revision, len(deleted.broken)) == (2, 0)
        with pytest.raises(ComponentNotFoundError, match="was deleted: roll back to version 1"):
            await components.get(LLM, "fast")
        with pytest.raises(ComponentNotFoundError, match="was deleted"):
            await components.delete(LLM, "fast")
        assert (await components.apply([llm("fast")])).applied[0].component.version == 3


async def test_what_others_need_is_not_deleted_and_all_of_them_are_named(tmp_path: Path) -> None:
    (tmp_path / "retinue.yaml").write_text("agents:\n  file: {llm: slow, fallback_llms: [fast]}\n")
    async with serving(tmp_path) as components:
        await components.apply([llm("fast"), llm("slow"), server("time"), agent("b"), agent("a")])
        await components.apply([agent("c", mcp_servers=["time"])])
    async with serving(tmp_path) as components:  # the file's agent has its llms now
        with pytest.raises(ComponentInUseError, match="agent/a and 3 more need it") as caught:
            await components.delete(LLM, "fast")
        assert [tuple(each) for each in caught.value.violations] == [
            ("agents.a.llm", "agent/a (API) needs llm/fast, which would be gone"),
            ("agents.b.llm", "agent/b (API) needs llm/fast, which would be gone"),
            ("agents.c.llm", "agent/c (API) needs llm/fast, which would be gone"),
            (
                "agents.file.fallback_llms[0]",
                "agent/file (retinue.yaml:2) needs llm/fast, which would be gone",
            ),
        ]
        assert caught.value.facts["needed_by"] == "agent/a, agent/b, agent/c, agent/file"
        forced = await components.delete(LLM, "fast", force=True)
        assert lacks(forced.broken) == [
            ("a", "llm", "fast"),
            ("b", "llm", "fast"),
            ("c", "llm", "fast"),
            ("file", "fallback_llms[0]", "fast"),
        ]
        assert {each.component.kind for each in forced.broken} == {AGENT}
        assert {each.missing.kind for each in forced.broken} == {LLM}
        # What nobody needs goes without being forced, broken as it is.
        await components.delete(AGENT, "c")
        assert len((await components.delete(MCP_SERVER, "time")).broken) == 0


async def test_what_stands_in_a_file_is_deleted_there_alone(tmp_path: Path) -> None:
    (tmp_path / "retinue.yaml").write_text("llms:\n  fast: {model: m}\n")
    async with serving(tmp_path) as components:
        with pytest.raises(
            ComponentOwnedByFileError, match=r"stands in retinue\.yaml:2: remove it"
        ) as caught:
            await components.delete(LLM, "fast", force=True)
        assert caught.value.facts == {"kind": "llm", "name": "fast", "path": "retinue.yaml", "line": "2"}


async def test_what_a_file_gives_is_in_effect_again(tmp_path: Path) -> None:
    (tmp_path / "retinue.yaml").write_text("llms:\n  fast: {model: m}\nagents:\n  a: {llm: fast}\n")
    async with serving(tmp_path) as components:
        taken = (await components.apply([llm("fast", "other")])).applied[0].component
        deleted = await components.delete(LLM, "fast")
        assert deleted.component == taken
        assert deleted.replacement == await components.get(LLM, "fast")
        assert (deleted.replacement.version, deleted.replacement.llm.model) == (3, "m")
        assert deleted.replacement.source.file.line == 2
        # One that is the same keeps its version, and is the file's.
        await components.apply([llm("fast", "other")])
        same = await components.rollback(LLM, "fast", 3)
        deleted = await components.delete(LLM, "fast", request_id="r")
        assert deleted.component == same.applied.component
        assert deleted.replacement.version == same.applied.component.version
        assert deleted.replacement.source.HasField("file")
        assert deleted.revision == same.revision
        assert await components.delete(LLM, "fast", request_id="r") == deleted


async def test_what_a_file_gives_in_its_place_must_not_close_a_circle(tmp_path: Path) -> None:
    (tmp_path / "retinue.yaml").write_text(
        "llms:\n  fast: {model: m}\nagents:\n  a: {llm: fast, agents: [b]}\n  b: {llm: fast}\n"
    )
    async with serving(tmp_path) as components:
        await components.apply([agent("a")])
        await components.apply([agent("b", agents=["a"])])
        with pytest.raises(ComponentInvalidError, match="leads back to the agent itself"):
            await components.delete(AGENT, "a", force=True)
        assert (await components.get(AGENT, "a")).source.HasField("api")


async def test_a_delete_sent_again_gets_its_first_answer(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        await components.apply([llm("fast"), agent("a")])
        first = await components.delete(LLM, "fast", request_id="r", force=True)
        await components.apply([llm("fast", "m2")])
        assert await components.delete(LLM, "fast", request_id="r", force=True) == first
        assert lacks(first.broken) == [("a", "llm", "fast")]
        assert (await components.get(LLM, "fast")).llm.model == "m2"
        with pytest.raises(RequestIdReusedError):
            await components.delete(AGENT, "a", request_id="r", force=True)
        with pytest.raises(RequestIdReusedError):
            await components.apply([llm("fast")], request_id="r")
    async with serving(tmp_path) as components:
        assert await components.delete(LLM, "fast", request_id="r", force=True) == first


async def test_a_delete_that_says_too_little_or_knows_another_version_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        first = (await components.apply([llm("fast")])).applied[0].component
        await components.apply([llm("fast", "m2")])
        with pytest.raises(EtagMismatchError, match="it is at version 2 now"):
            await components.delete(LLM, "fast", etag=first.etag)
        with pytest.raises(ComponentNotFoundError, match="did you mean fast"):
            await components.delete(LLM, "fats")
        stub, channel = components._stub, components._channel
        for ref, field in (
            (component_pb2.ComponentRef(kind=LLM, name="fast", version=1), "component.version"),
            (component_pb2.ComponentRef(name="fast"), "component.kind"),
        ):
            request = service_pb2.DeleteComponentRequest(component=ref)
            with pytest.raises(InvalidArgumentError) as caught:
                await channel.unary(stub.DeleteComponent, request)
            assert caught.value.violations[0].field == field
        newer = service_pb2.DeleteComponentRequest(
            component=component_pb2.ComponentRef(kind=LLM, name="fast")
        )
        newer.MergeFromString(b"\xa0\x06\x01")  # field 100
        with pytest.raises(InvalidArgumentError, match="field number 100"):
            await channel.unary(stub.DeleteComponent, newer)
        assert (await components.get(LLM, "fast")).version == 2
