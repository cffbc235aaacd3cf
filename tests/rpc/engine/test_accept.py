"""What is accepted, what is refused and how, and what a run is while it waits for its session."""

import asyncio
import re
from collections.abc import Awaitable, Callable

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from retinue.engine.v1 import run_pb2, service_pb2
from retinue.errors import (
    ComponentNotFoundError,
    InvalidArgumentError,
    RequestIdReusedError,
    RequestTooLargeError,
    SecretNotFoundError,
    TooManyRunsError,
)
from retinue.registry.v1 import component_pb2, llm_pb2
from tests.suite import Suite, check_story, until

OpenSuite = Callable[..., Awaitable[Suite]]


async def test_fifty_starts_of_one_request_are_one_run(opened: OpenSuite) -> None:
    suite = await opened()
    runs = await asyncio.gather(*(suite.client.runs.start("a", "hi", request_id="once") for _ in range(50)))
    assert len({run.run_id for run in runs}) == 1
    check_story(await suite.watched(runs[0].run_id))
    assert len([run async for run in suite.client.runs.list()]) == 1
    assert len(suite.model.requests) == 1
    again = await suite.client.runs.start("a", "hi", request_id="once")
    assert (again.run_id, again.state) == (runs[0].run_id, run_pb2.RUN_STATE_SUCCEEDED)


async def test_no_namespace_and_the_default_one_are_the_same_request(opened: OpenSuite) -> None:
    suite = await opened()
    target = component_pb2.ComponentRef(name="a")
    requests = [
        service_pb2.RunRequest(namespace=namespace, request_id="once", target=target, message="hi")
        for namespace in ("", "default")
    ]
    first, second = [
        (await suite.runs.StartRun(service_pb2.StartRunRequest(run=request))).run for request in requests
    ]
    assert first.run_id == second.run_id


async def test_a_request_id_used_for_another_request_already_exists(opened: OpenSuite) -> None:
    suite = await opened()
    first = await suite.client.runs.start("a", "hi", request_id="once")
    for more in (
        {"message": "ho"},
        {"message": "hi", "session_id": "s"},
        {"message": "hi", "labels": {"a": "b"}},
    ):
        with pytest.raises(RequestIdReusedError) as refused:
            await suite.client.runs.start("a", request_id="once", **more)
        assert refused.value.facts == {"request_id": "once", "run_id": first.run_id}


async def test_a_start_whose_caller_goes_away_leaves_no_run_that_nobody_works_on(opened: OpenSuite) -> None:
    suite = await opened()

    async def give_up_after(passes: int, number: int) -> None:
        """Cancel the call a little later each time: before, while, and after the run is stored."""
        task = asyncio.create_task(suite.client.runs.start("a", "hi", session_id=f"s{number}"))
        for _ in range(passes):
            await asyncio.sleep(0)
        await asyncio.sleep(passes / 10_000)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    for number in range(60):
        await give_up_after(number, number)

    async def all_ended() -> bool:
        unfinished = (run_pb2.RUN_STATE_RUNNING, run_pb2.RUN_STATE_QUEUED)
        return not [run async for run in suite.client.runs.list(states=unfinished)]

    await until(all_ended, "what was stored has ended")


async def test_what_is_unknown_is_not_found_and_the_nearest_is_named(opened: OpenSuite) -> None:
    suite = await opened(agents={"assistant": {}}, llms={"small": {}})
    with pytest.raises(ComponentNotFoundError) as no_agent:
        await suite.client.runs.start("asistant", "hi")
    assert no_agent.value.facts["nearest"] == "assistant"
    assert "assistant" in no_agent.value.message
    with pytest.raises(ComponentNotFoundError) as no_llm:
        await suite.client.runs.start("assistant", "hi", options=run_pb2.RunOptions(llm="smal"))
    assert (no_llm.value.facts["kind"], no_llm.value.facts["nearest"]) == ("llm", "small")
    assert not [run async for run in suite.client.runs.list()]


async def test_a_missing_secret_is_told_at_the_start(
    opened: OpenSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = await opened(
        llms={"keyed": {"api_key": "${env:KEY_OF_THE_TEST}"}}, agents={"b": {"llm": "keyed"}}
    )
    with pytest.raises(SecretNotFoundError) as refused:
        await suite.client.runs.start("b", "hi")
    assert refused.value.code == grpc.StatusCode.FAILED_PRECONDITION
    assert refused.value.facts == {"reference": "${env:KEY_OF_THE_TEST}", "field": "llms.keyed.api_key"}
    monkeypatch.setenv("KEY_OF_THE_TEST", "sk-1")
    result = await suite.result("b")
    assert result.state == run_pb2.RUN_STATE_SUCCEEDED
    assert suite.model.headers[-1]["Authorization"] == "Bearer sk-1"


@pytest.mark.parametrize(
    ("run", "field"),
    [
        ({"message": ""}, "run.message"),
        ({"target": component_pb2.ComponentRef()}, "run.target.name"),
        ({"target": component_pb2.ComponentRef(name="a", version=3)}, "run.target.version"),
        ({"session_id": "s" * 257}, "run.session_id"),
        ({"request_id": "r" * 129}, "run.request_id"),
        ({"labels": {str(n): "" for n in range(65)}}, "run.labels"),
        ({"labels": {"long": "x" * 257}}, "run.labels['long']"),
        ({"options": run_pb2.RunOptions(max_iterations=0)}, "run.options.max_iterations"),
        ({"options": run_pb2.RunOptions(tool_concurrency=1000)}, "run.options.tool_concurrency"),
        (
            {"options": run_pb2.RunOptions(generation=llm_pb2.GenerationSettings(temperature=2.5))},
            "run.options.generation.temperature",
        ),
        (
            {"options": run_pb2.RunOptions(generation=llm_pb2.GenerationSettings(top_p=float("nan")))},
            "run.options.generation.top_p",
        ),
        (
            {"options": run_pb2.RunOptions(generation=llm_pb2.GenerationSettings(max_output_tokens=0))},
            "run.options.generation.max_output_tokens",
        ),
        (
            {"options": run_pb2.RunOptions(generation=llm_pb2.GenerationSettings(stop=list("abcde")))},
            "run.options.generation.stop",
        ),
    ],
)
async def test_a_bad_field_is_named(opened: OpenSuite, run: dict[str, object], field: str) -> None:
    suite = await opened()
    fields = {"target": component_pb2.ComponentRef(name="a"), "message": "hi", **run}
    request = service_pb2.StartRunRequest(run=service_pb2.RunRequest(**fields))  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError) as refused:
        await suite.client.runs._channel.unary(suite.runs.StartRun, request)
    assert [each.field for each in refused.value.violations] == [field]


async def test_many_long_violations_still_arrive_as_an_error_of_ours(opened: OpenSuite) -> None:
    suite = await opened()
    labels = {f"{n}{'x' * 20_000}": "" for n in range(60)}
    with pytest.raises(InvalidArgumentError) as refused:
        await suite.client.runs.start("a", "hi", labels=labels)
    assert refused.value.violations


async def test_a_request_over_the_size_limit_is_resource_exhausted_with_its_size(opened: OpenSuite) -> None:
    suite = await opened(max_request_bytes=64 * 1024)
    with pytest.raises(RequestTooLargeError) as refused:
        await suite.client.runs.start("a", "x" * 70_000)
    assert refused.value.facts["limit_bytes"] == "65536"
    assert int(refused.value.facts["size_bytes"]) > 70_000
    call = suite.runs.StreamRun(
        service_pb2.StreamRunRequest(run=service_pb2.RunRequest(message="x" * 70_000))
    )
    with pytest.raises(grpc.aio.AioRpcError) as raw:
        await call.read()
    assert raw.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    details = dict(raw.value.trailing_metadata() or ())["grpc-status-details-bin"]
    info = error_details_pb2.ErrorInfo()
    assert isinstance(details, bytes)
    assert status_pb2.Status.FromString(details).details[0].Unpack(info)
    assert (info.reason, info.domain) == ("REQUEST_TOO_LARGE", "retinue")


async def test_a_message_as_large_as_a_run_takes_goes_to_the_model_whole(opened: OpenSuite) -> None:
    suite = await opened()
    message = "ü" * (256 * 1024)
    events = await suite.story(message=message)
    check_story(events)
    assert events[0].run_started.message == message
    assert suite.model.requests[0]["messages"][-1]["content"] == message
    with pytest.raises(InvalidArgumentError) as refused:
        await suite.client.runs.start("a", message + "x")
    assert refused.value.violations[0].field == "run.message"


async def test_runs_beyond_what_the_engine_takes_are_queued_and_a_full_queue_refuses(
    opened: OpenSuite,
) -> None:
    suite = await opened({"default": {"hang": True}}, max_active_runs=2, max_queued_runs=2)
    states = [(await suite.client.runs.start("a", "hi")).state for _ in range(4)]
    assert states == [run_pb2.RUN_STATE_RUNNING] * 2 + [run_pb2.RUN_STATE_QUEUED] * 2
    with pytest.raises(TooManyRunsError) as refused:
        await suite.client.runs.start("a", "hi")
    assert refused.value.facts == {"limit": "2", "retry_after_s": "5"}


async def test_a_namespace_of_its_own_keeps_runs_apart(opened: OpenSuite) -> None:
    suite = await opened()
    run = await suite.client.runs.start("a", "hi")
    request = service_pb2.GetRunRequest(namespace="other", run_id=run.run_id)
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await suite.runs.GetRun(request)
    assert unknown.value.code() == grpc.StatusCode.NOT_FOUND
    listed = await suite.runs.ListRuns(service_pb2.ListRunsRequest(namespace="other"))
    assert not listed.runs
    assert (await suite.runs.GetRun(service_pb2.GetRunRequest(namespace="default", run_id=run.run_id))).run


async def test_generated_session_ids_are_agent_and_eight_hex_digits(opened: OpenSuite) -> None:
    suite = await opened()
    ids = {(await suite.client.runs.start("a", "hi")).session_id for _ in range(5)}
    assert len(ids) == 5
    assert all(re.fullmatch(r"agent-[0-9a-f]{8}", each) for each in ids)


async def test_lists_of_runs_are_filtered_by_session_state_and_target(opened: OpenSuite) -> None:
    suite = await opened(
        {"rules": [{"when": {"user_contains": "fail"}, "error": {"status": 400}}], "default": {"text": "ok"}},
        agents={"b": {}},
    )
    good = [(await suite.story(agent, session_id=agent))[0].run_id for agent in ("a", "b", "a")]
    bad = (await suite.story("b", "fail"))[0].run_id

    async def listed(**which: object) -> list[str]:
        return [run.run_id async for run in suite.client.runs.list(**which)]  # type: ignore[arg-type]

    assert await listed() == [bad, *reversed(good)]
    assert await listed(session_id="a") == [good[2], good[0]]
    assert await listed(target_name="b") == [bad, good[1]]
    assert await listed(states=[run_pb2.RUN_STATE_FAILED]) == [bad]
    assert await listed(states=[run_pb2.RUN_STATE_FAILED, run_pb2.RUN_STATE_SUCCEEDED], target_name="b") == [
        bad,
        good[1],
    ]
    assert await listed(states=[run_pb2.RUN_STATE_QUEUED]) == []


async def test_pages_hold_every_run_once_while_others_start(opened: OpenSuite) -> None:
    suite = await opened()
    first = [(await suite.client.runs.start("a", "hi")).run_id for _ in range(25)]
    found: list[str] = []
    token = ""
    while True:
        page = await suite.runs.ListRuns(service_pb2.ListRunsRequest(page_size=4, page_token=token))
        assert len(page.runs) <= 4
        found.extend(run.run_id for run in page.runs)
        await suite.client.runs.start("a", "another")
        token = page.next_page_token
        if not token:
            break
    assert found == list(reversed(first))


@pytest.mark.parametrize("token", ["nonsense", "WzFd", "WzE4NDQ2NzQ0MDczNzA5NTUxNjE2MCwiYSJd"])
async def test_a_page_token_that_nobody_gave_is_invalid(opened: OpenSuite, token: str) -> None:
    suite = await opened()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await suite.runs.ListRuns(service_pb2.ListRunsRequest(page_token=token))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
