"""What components were: lists of versions, how they differ, and rolling back to one."""

from pathlib import Path

import pytest

from retinue.client import Components
from retinue.errors import (
    ComponentInvalidError,
    ComponentNotFoundError,
    ComponentOwnedByFileError,
    EtagMismatchError,
    InvalidArgumentError,
    ReferenceNotFoundError,
)
from retinue.registry.v1 import llm_pb2, service_pb2
from retinue_registry.component import ApiSource, Key, Version
from retinue_registry.stores.sqlite.store import open_sqlite_store
from retinue_registry.stores.store import Write
from tests.rpc.registry.serving import AGENT, LLM, agent, llm, serving

CREATED = service_pb2.APPLY_OUTCOME_CREATED
UPDATED = service_pb2.APPLY_OUTCOME_UPDATED
UNCHANGED = service_pb2.APPLY_OUTCOME_UNCHANGED


def told(changes: object) -> list[tuple[str, str, str]]:
    """Field changes as texts."""
    return [(each.path, each.before_json, each.after_json) for each in changes]  # type: ignore[attr-defined]


async def models(components: Components, name: str, page_size: int = 100) -> list[tuple[int, str, bool]]:
    """The versions of an llm: number, model, whether it is an end."""
    return [
        (each.component.version, each.component.llm.model, each.deleted)
        async for each in components.versions(LLM, name, page_size=page_size)
    ]


async def test_versions_come_newest_first_page_by_page_and_of_what_was_deleted_too(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        for number in range(4):
            await components.apply([llm("fast", f"m{number}")])
        await components.delete(LLM, "fast")
        expected = [(5, "m3", True), (4, "m3", False), (3, "m2", False), (2, "m1", False), (1, "m0", False)]
        for page_size in (1, 2, 5, 100):
            assert await models(components, "fast", page_size) == expected
        await components.apply([llm("slow")])
        with pytest.raises(ComponentNotFoundError, match="did you mean slow"):
            await models(components, "slwo")


async def test_a_page_of_large_versions_ends_early(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        for number in range(6):
            await components.apply([agent("a", system_prompt="x" * 500_000 + str(number)), llm("fast")])
        request = service_pb2.ListComponentVersionsRequest()
        request.component.kind, request.component.name = AGENT, "a"
        page = await components._channel.unary(components._stub.ListComponentVersions, request)
        assert 1 < len(page.versions) < 6
        assert page.next_page_token
        assert len([each async for each in components.versions(AGENT, "a")]) == 6


async def test_versions_differ_by_the_fields_of_files(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        first = llm("fast", "m", labels={"team": "a"})
        first.llm.MergeFrom(
            llm_pb2.LlmSpec(
                transport=llm_pb2.LLM_TRANSPORT_LITELLM, api_key="${env:A}", headers={"X": "1", "Y": "2"}
            )
        )
        first.llm.timeout.FromJsonString("30s")
        await components.apply([first])
        second = llm("fast", "m", labels={"team": "b"})
        second.llm.MergeFrom(
            llm_pb2.LlmSpec(transport=llm_pb2.LLM_TRANSPORT_AUTO, api_key="${env:B}", headers={"Y": "2"})
        )
        second.llm.generation.temperature = 0.5
        await components.apply([second])
        changes = told(await components.diff(LLM, "fast", 1))
        assert changes == [
            ("labels.team", '"a"', '"b"'),
            ("transport", '"litellm"', '"auto"'),
            ("api_key", '"${env:A}"', '"${env:B}"'),
            ("headers.X", '"1"', ""),
            ("generation", "", '{"temperature": 0.5}'),
            ("timeout", '"30s"', ""),
        ]
        backwards = told(await components.diff(LLM, "fast", 2, 1))
        assert {(path, after, before) for path, before, after in backwards} == set(changes)
        assert told(await components.diff(LLM, "fast", 2)) == []
        schemas = ('{"properties":{"age":{"type":"integer"}}}', '{"properties":{"age":{"type":"number"}}}')
        for schema in schemas:
            await components.apply([agent("a", output_schema_json=schema)])
        changes = told(await components.diff(AGENT, "a", 1, 2))
        assert changes == [("output_schema.properties.age.type", '"integer"', '"number"')]


async def test_a_version_that_is_not_there_says_which_are_kept(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        await components.apply([llm("fast")])
        for number in range(3):
            await components.apply([llm("fast", f"m{number}")])
        for call in (
            components.get(LLM, "fast", version=9),
            components.diff(LLM, "fast", 9),
            components.diff(LLM, "fast", 1, 9),
            components.rollback(LLM, "fast", 9),
        ):
            with pytest.raises(ComponentNotFoundError, match="has no version 9: kept are 1 to 4") as caught:
                await call
            assert (caught.value.facts["oldest_version"], caught.value.facts["newest_version"]) == ("1", "4")
        with pytest.raises(InvalidArgumentError, match=r"component\.version must be set"):
            await components.rollback(LLM, "fast", 0)
        with pytest.raises(InvalidArgumentError, match=r"component\.version must be set"):
            await components.diff(LLM, "fast", 0)


async def test_a_rollback_is_a_new_version_by_api(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        first = (await components.apply([llm("fast", "m1", labels={"a": "b"})])).applied[0].component
        await components.apply([llm("fast", "m2")])
        rolled = await components.rollback(LLM, "fast", 1, request_id="r")
        back = rolled.applied.component
        assert (rolled.applied.outcome, back.version, rolled.revision) == (UPDATED, 3, 3)
        assert (back.llm, back.labels) == (first.llm, first.labels)
        assert told(rolled.applied.changes) == [("labels.a", "", '"b"'), ("model", '"m2"', '"m1"')]
        again = await components.rollback(LLM, "fast", 1)
        assert (again.applied.outcome, again.applied.component) == (UNCHANGED, back)
        await components.apply([llm("fast", "m4")])
        assert await components.rollback(LLM, "fast", 1, request_id="r") == rolled
        with pytest.raises(EtagMismatchError, match="it is at version 4 now"):
            await components.rollback(LLM, "fast", 1, etag=back.etag)
        assert (await components.get(LLM, "fast")).version == 4


async def test_what_was_deleted_comes_back_by_a_rollback_and_an_end_is_none_to_go_to(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        await components.apply([llm("fast", "m1")])
        await components.delete(LLM, "fast")
        with pytest.raises(InvalidArgumentError, match="version 2 of llm/fast is its end") as end:
            await components.rollback(LLM, "fast", 2)
        assert end.value.violations[0].field == "component.version"
        with pytest.raises(InvalidArgumentError, match="is its end") as end:
            await components.diff(LLM, "fast", 1, 2)
        assert end.value.violations[0].field == "to_version"
        back = await components.rollback(LLM, "fast", 1)
        assert (back.applied.outcome, back.applied.component.version) == (CREATED, 3)
        assert await models(components, "fast") == [(3, "m1", False), (2, "m1", True), (1, "m1", False)]


async def test_a_rollback_keeps_the_rules_of_any_change(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        await components.apply([llm("fast"), llm("slow"), agent("a", "slow", agents=[])])
        await components.apply([agent("a", "fast"), agent("b", agents=["a"])])
        await components.apply([agent("c", agents=["b"])])
        await components.delete(LLM, "slow")
        with pytest.raises(ReferenceNotFoundError, match=r"agents\.a\.llm: there is no llm 'slow'"):
            await components.rollback(AGENT, "a", 1)
        await components.apply([agent("b")])
        await components.apply([agent("a", agents=["c"])])
        with pytest.raises(ComponentInvalidError, match="leads back to the agent itself") as caught:
            await components.rollback(AGENT, "b", 1)
        assert caught.value.violations[0].field == "agents.b.agents[0]"


async def test_what_was_stored_by_older_rules_is_not_gone_back_to(tmp_path: Path) -> None:
    async with open_sqlite_store(tmp_path / ".retinue" / "registry.db") as store:
        key = Key("default", "llm", "fast")
        specs = (llm_pb2.LlmSpec(model="m", base_url="nowhere"), llm_pb2.LlmSpec(model="m"))
        versions = [
            Version(key, number, number, f"e{number}", {}, spec.SerializeToString(), ApiSource(), 1, 1)
            for number, spec in enumerate(specs, start=1)
        ]
        await store.write(Write(0, 2, versions))
    async with serving(tmp_path) as components:
        with pytest.raises(ComponentInvalidError, match="version 1 of llm/fast breaks a rule") as caught:
            await components.rollback(LLM, "fast", 1)
        assert caught.value.violations[0].field == "llms.fast.base_url"


async def test_what_a_file_owns_is_taken_over_only_where_that_is_said(tmp_path: Path) -> None:
    anchor = tmp_path / "retinue.yaml"
    anchor.write_text("llms:\n  fast: {model: m1}\n")
    async with serving(tmp_path):
        pass
    anchor.write_text("llms:\n  fast: {model: m2}\n")
    async with serving(tmp_path) as components:
        with pytest.raises(ComponentOwnedByFileError, match=r"retinue\.yaml:2: change it there, or take it"):
            await components.rollback(LLM, "fast", 1)
        current = await components.rollback(LLM, "fast", 2)
        assert current.applied.outcome == UNCHANGED
        assert current.applied.component.source.HasField("file")
        back = await components.rollback(LLM, "fast", 1, take_over=True)
        assert (back.applied.component.version, back.applied.component.llm.model) == (3, "m1")
        assert back.applied.component.source.HasField("api")
    async with serving(tmp_path) as components:
        assert (await components.get(LLM, "fast")).version == 3
        # One that is the same already is taken over as it is.
        assert (await components.delete(LLM, "fast")).replacement.llm.model == "m2"
        same = await components.rollback(LLM, "fast", 4, take_over=True)
        assert (same.applied.outcome, same.applied.component.version) == (UNCHANGED, 4)
        assert same.applied.component.source.HasField("api")
