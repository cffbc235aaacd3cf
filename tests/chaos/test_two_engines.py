"""Two engines on one MongoDB: whatever is asked of one holds for the runs of the other."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

from retinue.engine.v1 import event_pb2, run_pb2
from tests.chaos.engines import Engines, open_engines, standing_still
from tests.suite import SOON_S, Suite, check_story, kinds, until

pytestmark = pytest.mark.xdist_group("chaos")

HANG_ONCE: dict[str, Any] = {
    "rules": [{"when": {"user_contains": "hang"}, "times": 1, "hang": True}],
    "default": {"chunks": [f"w{n} " for n in range(20)], "chunk_delay_ms": 10},
}


async def watched_after(suite: Suite, run_id: str, after: int) -> list[event_pb2.RunEvent]:
    return await asyncio.wait_for(suite.watched(run_id, after), 2 * SOON_S)


async def asked(engines: Engines, count: int) -> None:
    await until(lambda: len(engines.first.model.requests) >= count, f"the model is asked {count} times")


async def test_a_run_is_watched_cancelled_got_and_listed_through_either_engine(tmp_path: Path) -> None:
    async with open_engines(tmp_path, HANG_ONCE, lease_s=60) as engines:
        first, second = engines.suites
        run = await first.client.runs.start("a", "talk", session_id="s")
        live = await asyncio.gather(*(watched_after(each, run.run_id, 0) for each in engines.suites))
        check_story(live[0])
        assert live[0] == live[1]
        for suite in engines.suites:
            for after in range(len(live[0]) + 1):
                assert await watched_after(suite, run.run_id, after) == live[0][after:]
        # The run of one engine waits for that of the other, and is begun by whoever comes to it.
        hanging = await first.client.runs.start("a", "hang", session_id="s")
        waiting = await second.client.runs.start("a", "next", session_id="s")
        assert (hanging.state, waiting.state) == (run_pb2.RUN_STATE_RUNNING, run_pb2.RUN_STATE_QUEUED)
        await asked(engines, 2)
        watching = asyncio.create_task(watched_after(second, hanging.run_id, 0))
        await second.client.runs.cancel(hanging.run_id, reason="enough")
        ended = await first.ended(hanging.run_id, SOON_S)
        assert (ended.state, ended.result.cancel_reason) == (run_pb2.RUN_STATE_CANCELLED, "enough")
        assert await watching == await watched_after(first, hanging.run_id, 0)
        assert (await second.ended(waiting.run_id, SOON_S)).state == run_pb2.RUN_STATE_SUCCEEDED
        for suite in engines.suites:
            assert [each.run_id async for each in suite.client.runs.list()] == [
                waiting.run_id,
                hanging.run_id,
                run.run_id,
            ]
            assert await suite.client.runs.get(run.run_id) == await first.client.runs.get(run.run_id)
            assert await suite.messages("s") == await first.messages("s")


async def test_one_request_that_is_sent_to_both_engines_at_once_is_one_run(tmp_path: Path) -> None:
    async with open_engines(tmp_path, {"default": {"text": "ok"}}, lease_s=60) as engines:

        async def both(number: int) -> None:
            session_id = f"s{number}" if number % 2 else ""
            started = await asyncio.gather(
                *(
                    suite.client.runs.start("a", "hi", session_id=session_id, request_id=f"r{number}")
                    for suite in (*engines.suites, *engines.suites)
                )
            )
            assert len({run.run_id for run in started}) == 1

        await asyncio.gather(*(both(number) for number in range(20)))
        runs = [run async for run in engines.second.client.runs.list()]
        assert len(runs) == 20
        for run in runs:
            assert (await engines.first.ended(run.run_id, SOON_S)).state == run_pb2.RUN_STATE_SUCCEEDED
            check_story(await engines.second.watched(run.run_id))
        assert len(engines.first.model.requests) == 20


async def test_the_other_engine_takes_over_what_a_killed_one_had_just_accepted(tmp_path: Path) -> None:
    async with open_engines(tmp_path, HANG_ONCE, lease_s=1.5) as engines:
        first, second = engines.suites
        runs = [
            *await asyncio.gather(*(first.client.runs.start("a", "talk") for _ in range(10))),
            *[await first.client.runs.start("a", f"talk {n}", session_id="s") for n in range(3)],
        ]
        await engines.processes[0].kill()
        for run in runs:
            # The lease, a look, and each of the session's runs.
            ended = await second.ended(run.run_id, 2 * SOON_S)
            assert ended.state == run_pb2.RUN_STATE_SUCCEEDED
            check_story(await second.watched(run.run_id))
        questions = [each["content"] for each in await second.messages("s") if each["role"] == "user"]
        assert questions == ["talk 0", "talk 1", "talk 2"]


async def test_an_engine_that_is_told_to_stop_gives_its_runs_to_the_other_at_once(tmp_path: Path) -> None:
    script = {"rules": [{"when": {}, "times": 12, "hang": True}], "default": {"text": "ok"}}
    async with open_engines(tmp_path, script, lease_s=60) as engines:
        first, second = engines.suites
        runs = await asyncio.gather(*(first.client.runs.start("a", "hi") for _ in range(12)))
        waiting = await second.client.runs.start("a", "hi", session_id=runs[0].session_id)
        await asked(engines, 12)
        assert await engines.processes[0].kill(signal.SIGTERM) == 0
        for run in (*runs, waiting):
            assert (await second.ended(run.run_id, SOON_S)).state == run_pb2.RUN_STATE_SUCCEEDED
        log = engines.processes[0].log.read_text()
        assert "Traceback" not in log, log


async def test_an_engine_that_stood_still_hears_that_its_run_is_anothers(tmp_path: Path) -> None:
    async with open_engines(tmp_path, HANG_ONCE, lease_s=1.5) as engines:
        first, second = engines.suites
        run = await first.client.runs.start("a", "hang")
        await asked(engines, 1)
        async with standing_still(engines.processes[0]):
            story = await watched_after(second, run.run_id, 0)
        check_story(story)
        assert story[-1].run_finished.result.state == run_pb2.RUN_STATE_SUCCEEDED
        assert "run_claimed" in kinds(story)
        # It still waits for its model, and does not know better until it renews its lease.
        assert await watched_after(first, run.run_id, 4) == story[4:]
        assert await watched_after(first, run.run_id, 0) == story
        await until(lambda: len(first.model.broken) == 1, "it gives its request up", SOON_S)
        assert len(first.model.requests) == 2


async def test_engines_keep_their_runs_over_a_stop_of_the_database(tmp_path: Path) -> None:
    script = {"default": {"chunks": [f"w{n} " for n in range(40)], "chunk_delay_ms": 50}}
    async with open_engines(tmp_path, script, lease_s=1.5, own_database=True) as engines:
        assert engines.mongodb is not None
        runs = [await suite.client.runs.start("a", "hi") for suite in engines.suites for _ in range(3)]
        await asked(engines, 6)
        engines.mongodb.kill()
        # Longer than a lease: when the database is back, every lease is over.
        await until(lambda: len(engines.first.model.answered) == 6, "the model has told everything")
        await asyncio.to_thread(engines.mongodb.start)
        for run in runs:
            await engines.first.ended(run.run_id)
            story = await watched_after(engines.second, run.run_id, 0)
            check_story(story)
            assert story[-1].run_finished.result.state == run_pb2.RUN_STATE_SUCCEEDED
            assert "run_claimed" not in kinds(story)
        assert len(engines.first.model.requests) == 6
