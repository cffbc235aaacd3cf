"""Applying components: all or none, versions, etags, request ids, and everything that is refused."""

import asyncio
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from retinue.client import Components
from retinue.errors import (
    ComponentInUseError,
    ComponentInvalidError,
    ComponentNotFoundError,
    EtagMismatchError,
    InvalidArgumentError,
    ReferenceNotFoundError,
    RequestIdReusedError,
    RetinueError,
)
from retinue.registry.v1 import component_pb2, llm_pb2, service_pb2
from tests.rpc.registry.serving import AGENT, BOUND_S, LLM, agent, llm, server, serving, stdio

CREATED = service_pb2.APPLY_OUTCOME_CREATED
UPDATED = service_pb2.APPLY_OUTCOME_UPDATED
UNCHANGED = service_pb2.APPLY_OUTCOME_UNCHANGED
DELETED = service_pb2.APPLY_OUTCOME_DELETED


async def names(components: Components) -> list[str]:
    return [each.name async for each in components.list()]


def told(response: service_pb2.ApplyComponentsResponse) -> list[tuple[str, int, list[str]]]:
    """What became of which component, and which of its fields are others."""
    return [
        (each.component.name, each.outcome, [change.path for change in each.changes])
        for each in response.applied
    ]


async def test_a_set_is_stored_and_each_change_makes_a_version_and_a_revision(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        first = await components.apply([agent("a"), llm("fast")])
        assert [each.outcome for each in first.applied] == [CREATED, CREATED]
        assert [each.component.revision for each in first.applied] == [1, 2]
        assert first.revision == 2
        assert first.applied[0].component.source.HasField("api")
        second = await components.apply([llm("fast", "m2"), agent("a")])
        assert [each.outcome for each in second.applied] == [UPDATED, UNCHANGED]
        assert [each.component.version for each in second.applied] == [2, 1]
        assert second.revision == 3
        assert second.applied[0].component.etag != first.applied[1].component.etag
        labelled = await components.apply([llm("fast", "m2", labels={"a": "b"})])
        assert labelled.applied[0].outcome == UPDATED
        assert labelled.applied[0].component.version == 3


async def test_every_violation_of_a_set_comes_at_once_and_nothing_is_stored(tmp_path: Path) -> None:
    bad = agent("Bad", "fast", max_iterations=0, timeout=Duration(seconds=-1))
    bad.kind = LLM
    bad.labels[""] = "x"
    secret = component_pb2.Component(name="s", llm=llm_pb2.LlmSpec(model="m", api_key="hunter2"))
    paths = component_pb2.Component(name="p", mcp_server=stdio("./x", cwd="y", env={"A": "${file:z}"}))
    async with serving(tmp_path) as components:
        with pytest.raises(ComponentInvalidError) as caught:
            await components.apply([llm("fast"), bad, secret, paths, component_pb2.Component(name="none")])
        assert sorted(violation.field for violation in caught.value.violations) == [
            "components[1].agent.max_iterations",
            "components[1].agent.timeout",
            "components[1].kind",
            "components[1].labels.",
            "components[1].name",
            "components[2].llm.api_key",
            "components[3].mcp_server.stdio.command",
            "components[3].mcp_server.stdio.cwd",
            "components[3].mcp_server.stdio.env.A",
            "components[4]",
        ]
        assert "hunter2" not in str(caught.value)
        assert await names(components) == []


async def test_rules_references_and_circles_of_a_set_come_at_once(tmp_path: Path) -> None:
    """References to a component that is wrong itself lead somewhere, and its own are looked at."""
    around = agent("around", "fast", agents=["back"])
    back = agent("back", "fast", agents=["around"])
    async with serving(tmp_path) as components:
        with pytest.raises(ComponentInvalidError) as caught:
            await components.apply(
                [
                    llm("fast", ""),
                    agent("wrong", "fats", max_iterations=-1),
                    agent("lost", "fast", mcp_servers=["gone"]),
                    around,
                    back,
                    server("twice"),
                    server("twice"),
                ]
            )
        assert [violation.field for violation in caught.value.violations] == [
            "components[0].llm.model",
            "components[1].agent.max_iterations",
            "components[6].mcp_server",
            "components[1].agent.llm",
            "components[2].agent.mcp_servers[0]",
            "components[3].agent.agents[0]",
            "components[4].agent.agents[0]",
        ]
        assert "did you mean fast" in caught.value.violations[3].description
        assert await names(components) == []


async def test_an_error_with_very_many_violations_arrives_and_counts_the_rest(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        with pytest.raises(ComponentInvalidError) as caught:
            await components.apply([llm("N" * 500, "") for _ in range(1000)])
        assert "more" in caught.value.violations[-1].description
        with pytest.raises(ReferenceNotFoundError) as missing:
            await components.apply([agent(f"a{number}", f"none-{number}") for number in range(1000)])
        assert "more" in missing.value.violations[-1].description
        with pytest.raises(ComponentInvalidError) as large:
            await components.apply([llm("fast", labels={"é" * 100_000: "${env:X}"}) for _ in range(9)])
        assert "labels.éé" in large.value.violations[0].field


async def test_a_field_of_a_newer_client_is_not_ignored(tmp_path: Path) -> None:
    newer = llm("fast")
    newer.llm.MergeFromString(b"\xa0\x06\x01")  # field 100
    async with serving(tmp_path) as components:
        with pytest.raises(ComponentInvalidError) as caught:
            await components.apply([newer])
        (violation,) = caught.value.violations
        assert violation.field == "components[0].llm"
        assert "field number 100" in violation.description


async def test_a_reference_that_leads_nowhere_is_refused_with_the_nearest(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        with pytest.raises(ReferenceNotFoundError, match="did you mean fast") as caught:
            await components.apply([llm("fast"), agent("a", "fats", mcp_servers=["time"])])
        assert [violation.field for violation in caught.value.violations] == [
            "components[1].agent.llm",
            "components[1].agent.mcp_servers[0]",
        ]
        assert caught.value.facts == {"kind": "agent", "name": "a", "missing": "llm/fats"}
        assert await names(components) == []


async def test_agents_that_would_call_each_other_in_a_circle_are_refused_with_the_whole_way(
    tmp_path: Path,
) -> None:
    (tmp_path / "retinue.yaml").write_text(
        "llms:\n  fast: {model: m}\nagents:\n  file: {llm: fast, agents: [leaf]}\n  leaf: {llm: fast}\n"
    )
    async with serving(tmp_path) as components:
        await components.apply([agent("top", agents=["file"])])
        with pytest.raises(ComponentInvalidError, match="leads back to the agent itself") as caught:
            await components.apply([agent("other"), agent("leaf", agents=["other", "top"])])
        (violation,) = caught.value.violations
        assert violation.field == "components[1].agent.agents[1]"
        assert violation.description.endswith("leaf → top (API) → file (retinue.yaml:4) → leaf")
        with pytest.raises(ComponentInvalidError) as caught:
            await components.apply([agent("a", agents=["b"]), agent("b", agents=["a"])])
        assert [violation.field for violation in caught.value.violations] == [
            "components[0].agent.agents[0]",
            "components[1].agent.agents[0]",
        ]
        assert "a → b (components[1].agent) → a" in str(caught.value)
        with pytest.raises(ComponentInvalidError, match="the agent 'me' cannot need itself"):
            await components.apply([agent("me", agents=["me"])])
        assert await names(components) == ["fast", "file", "leaf", "top"]
        # What breaks an old step of the circle may close a new one at the same time.
        await components.apply([agent("top"), agent("leaf", agents=["top"])])


async def test_a_reference_to_an_agent_that_is_not_there_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        with pytest.raises(ReferenceNotFoundError, match="did you mean helper") as caught:
            await components.apply([llm("fast"), agent("helper"), agent("a", agents=["helpr"])])
        assert caught.value.facts == {"kind": "agent", "name": "a", "missing": "agent/helpr"}


async def test_json_that_came_by_api_keeps_to_the_rules_of_files_and_comes_back(tmp_path: Path) -> None:
    schema = '{"type":"object","properties":{"b":{"type":"string"},"a":{"type":"integer"}}}'
    async with serving(tmp_path) as components:
        await components.apply([llm("fast"), agent("a", output_schema_json=schema.replace(":", " : "))])
        assert (await components.get(AGENT, "a")).agent.output_schema_json == schema
        again = await components.apply([agent("a", output_schema_json=schema)])
        assert again.applied[0].outcome == UNCHANGED
        bad = [
            agent("b", output_schema_json="{"),
            agent("c", output_schema_json=schema.replace("eger", "gr")),
        ]
        with pytest.raises(ComponentInvalidError) as caught:
            await components.apply(bad)
        assert [violation.field for violation in caught.value.violations] == [
            "components[0].agent.output_schema_json",
            "components[1].agent.output_schema_json.properties.a.type",
        ]
    async with serving(tmp_path) as components:
        assert (await components.get(AGENT, "a")).agent.output_schema_json == schema


async def test_a_component_stands_once_in_a_set(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        with pytest.raises(ComponentInvalidError, match=r"stands in components\[0\]\.llm already"):
            await components.apply([llm("fast"), server("fast"), llm("fast", "m2")])


async def test_an_etag_must_be_the_current_one(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        first = (await components.apply([llm("fast")])).applied[0].component
        second = (await components.apply([llm("fast", "m2", etag=first.etag)])).applied[0].component
        with pytest.raises(EtagMismatchError) as caught:
            await components.apply([llm("other"), llm("fast", "m3", etag=first.etag)])
        assert caught.value.facts == {"kind": "llm", "name": "fast", "etag": second.etag}
        with pytest.raises(EtagMismatchError):
            await components.apply([llm("new", etag="x")])
        assert await names(components) == ["fast"]


async def test_a_request_sent_again_gets_its_first_answer(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        first = await components.apply([llm("fast"), llm("slow")], request_id="r1")
        await components.apply([llm("fast", "m2")])
        again = await components.apply([llm("fast"), llm("slow")], request_id="r1")
        assert again == first
        assert (await components.get(LLM, "fast")).version == 2
        with pytest.raises(RequestIdReusedError) as caught:
            await components.apply([llm("fast", "m3")], request_id="r1")
        assert caught.value.facts == {"request_id": "r1"}
        with pytest.raises(InvalidArgumentError, match="128"):
            await components.apply([llm("fast")], request_id="x" * 129)
    async with serving(tmp_path) as components:
        assert await components.apply([llm("fast"), llm("slow")], request_id="r1") == first


async def test_one_request_sent_many_times_at_once_is_done_once(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        answers = await asyncio.gather(*(components.apply([llm("fast")], request_id="r") for _ in range(20)))
        assert all(answer == answers[0] for answer in answers)
        assert answers[0].applied[0].outcome == CREATED
        assert (await components.get(LLM, "fast")).version == 1


async def test_a_refused_request_may_be_mended_under_its_id(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        with pytest.raises(ReferenceNotFoundError):
            await components.apply([agent("a")], request_id="r")
        await components.apply([agent("a"), llm("fast")], request_id="r")


async def test_of_32_writers_every_accepted_write_is_a_version(tmp_path: Path) -> None:
    accepted: list[component_pb2.Component] = []

    async def write(components: Components, writer: int) -> None:
        for turn in range(8):
            response = await components.apply([llm("fast", f"m-{writer}-{turn}")])
            assert response.applied[0].outcome in {CREATED, UPDATED}
            accepted.append(response.applied[0].component)

    async with serving(tmp_path) as components:
        async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as group:
            for writer in range(32):
                group.create_task(write(components, writer))
        assert sorted(each.version for each in accepted) == list(range(1, 257))
        assert len({each.etag for each in accepted}) == 256
        by_version = sorted(accepted, key=lambda each: each.version)
        revisions = [each.revision for each in by_version]
        assert revisions == sorted(set(revisions))
        assert [each.component async for each in components.versions(LLM, "fast")] == by_version[::-1]
        assert await components.get(LLM, "fast", version=17) == by_version[16]


async def test_of_writers_with_the_same_etag_one_wins(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        etag = (await components.apply([llm("fast")])).applied[0].component.etag
        tries = await asyncio.gather(
            *(components.apply([llm("fast", f"m{n}", etag=etag)]) for n in range(16)), return_exceptions=True
        )
        assert sum(isinstance(each, Message) for each in tries) == 1
        assert sum(isinstance(each, EtagMismatchError) for each in tries) == 15
        assert (await components.get(LLM, "fast")).version == 2


async def test_a_write_whose_caller_went_away_is_whole_or_not_there(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        await components.apply([llm("fast")])
        for number in range(30):
            call = asyncio.ensure_future(components.apply([agent(f"a{number}"), agent(f"b{number}")]))
            for _ in range(number % 10):
                await asyncio.sleep(0)
            call.cancel()
            with pytest.raises((asyncio.CancelledError, RetinueError)):
                await call
            # A later write waits behind it, so that what is read is settled.
            await components.apply([llm("fast", f"m{number}")])
            there = []
            for name in (f"a{number}", f"b{number}"):
                try:
                    there.append((await components.get(AGENT, name)).version)
                except ComponentNotFoundError:
                    there.append(0)
            assert there in ([0, 0], [1, 1])


async def test_what_is_updated_comes_with_what_is_another_now(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        await components.apply([llm("fast"), llm("slow"), agent("a")])
        answer = await components.apply([agent("a", "slow", max_iterations=3), llm("new"), llm("fast")])
        assert told(answer) == [
            ("a", UPDATED, ["llm", "max_iterations"]),
            ("new", CREATED, []),
            ("fast", UNCHANGED, []),
        ]
        change = answer.applied[0].changes[0]
        assert (change.before_json, change.after_json) == ('"fast"', '"slow"')


async def test_a_dry_run_tells_what_would_be_done_and_stores_nothing(tmp_path: Path) -> None:
    wanted = [llm("fast", "m2"), llm("new"), agent("a", "new")]
    async with serving(tmp_path) as components:
        before = await components.apply([llm("fast"), llm("old"), agent("a")])
        plan = await components.apply(wanted, dry_run=True, prune=True, request_id="r")
        assert told(plan) == [
            ("fast", UPDATED, ["model"]),
            ("new", CREATED, []),
            ("a", UPDATED, ["llm"]),
            ("old", DELETED, []),
        ]
        assert plan.revision == before.revision
        planned = plan.applied[0].component
        assert planned.llm.model == "m2"
        assert (planned.version, planned.etag, planned.revision) == (0, "", 0)
        assert planned.create_time == before.applied[0].component.create_time
        assert plan.applied[3].component == before.applied[1].component
        assert await names(components) == ["fast", "old", "a"]
        with pytest.raises(ReferenceNotFoundError):
            await components.apply([agent("b", "none")], dry_run=True)
        # Neither the request_id is taken, nor what would be stored is mistaken for what is.
        done = await components.apply(wanted, prune=True, request_id="r")
        assert told(done) == told(plan)
        assert [each.component.version for each in done.applied] == [2, 1, 2, 1]
        assert done.applied[0].component == await components.get(LLM, "fast")
        assert told(await components.apply([llm("x")], dry_run=True, request_id="r")) == [("x", CREATED, [])]
        assert await names(components) == ["fast", "new", "a"]


async def test_prune_deletes_what_came_by_api_and_is_not_in_the_set(tmp_path: Path) -> None:
    (tmp_path / "retinue.yaml").write_text("llms:\n  file: {model: m}\n  taken: {model: m}\n")
    team = {"team": "a", "x": "y"}
    async with serving(tmp_path) as components:
        elsewhere = llm("elsewhere", namespace="other")
        await components.apply([llm("kept"), llm("b"), llm("a"), llm("taken", "api"), elsewhere])
        first = await components.apply([llm("kept", "m2")], prune=True, request_id="r")
        assert told(first) == [
            ("kept", UPDATED, ["model"]),
            ("a", DELETED, []),
            ("b", DELETED, []),
            ("taken", DELETED, []),
        ]
        assert first.applied[3].component.llm.model == "api"
        assert await names(components) == ["file", "kept", "taken"]
        assert (await components.get(LLM, "taken")).source.HasField("file")
        await components.apply([llm("mine", labels=team), llm("theirs", labels={"team": "b"})])
        labelled = await components.apply([llm("new")], prune=True, prune_labels={"team": "a"})
        assert told(labelled) == [("new", CREATED, []), ("mine", DELETED, [])]
        assert await components.apply([llm("kept", "m2")], prune=True, request_id="r") == first
        assert await names(components) == ["file", "kept", "new", "taken", "theirs"]
    async with serving(tmp_path, namespace="other") as components:
        assert await names(components) == ["elsewhere"]


async def test_prune_does_not_delete_what_others_need_unless_it_is_forced(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        await components.apply([llm("fast"), llm("slow"), agent("a"), agent("b", "slow", agents=["a"])])
        with pytest.raises(
            ComponentInUseError, match="llm/fast cannot be deleted: agent/a needs it"
        ) as caught:
            await components.apply([agent("a"), agent("b", "slow")], prune=True)
        assert [each.field for each in caught.value.violations] == [
            "components[0].agent.llm",
            "components[1].agent.llm",
        ]
        assert len(await names(components)) == 4
        # What goes with it needs it no more.
        forced = await components.apply([agent("b", "slow")], prune=True, force=True, request_id="r")
        assert told(forced) == [
            ("b", UPDATED, ["agents"]),
            ("fast", DELETED, []),
            ("slow", DELETED, []),
            ("a", DELETED, []),
        ]
        # What is gone closes no circle.
        await components.apply([llm("slow"), agent("a", "slow", agents=["b"])])
        circle = await components.apply(
            [llm("slow"), agent("b", "slow", agents=["a"])], prune=True, force=True
        )
        assert [(each.component.name, each.missing.name) for each in circle.broken] == [("b", "a")]
        (broken,) = forced.broken
        assert (broken.component.name, broken.field, broken.missing.name) == ("b", "llm", "slow")
        assert await components.apply([agent("b", "slow")], prune=True, force=True, request_id="r") == forced


async def test_options_that_go_with_prune_alone_are_not_ignored(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        for options in ({"force": True}, {"prune_labels": {"a": "b"}}):
            with pytest.raises(InvalidArgumentError, match="goes with prune, which is not set"):
                await components.apply([llm("fast")], **options)
