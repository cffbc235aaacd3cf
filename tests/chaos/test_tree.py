"""A tree whose engine is killed at one of its events after another goes on each time, and loses nothing."""

from collections.abc import Collection
from functools import partial
from pathlib import Path

import pytest

from retinue.client import Client
from retinue.engine.v1 import run_pb2
from tests.chaos.callers import Callers
from tests.chaos.checker import judge
from tests.chaos.facts import Accepted, Facts, Story, read_views
from tests.chaos.people import People
from tests.chaos.test_chaos import LONG, SEED
from tests.chaos.world import AGENT_OF, SCRIPT, project, tag_of
from tests.suite import Processes, open_processes

pytestmark = pytest.mark.xdist_group("chaos")

KINDS = ("approve", "boss", "query", "deep") if LONG else ("boss",)

TAG = tag_of(1, 0)


async def stored_events(client: Client, run_id: str, after: int) -> Story:
    return [event async for event in client.runs.events(run_id, after_sequence=after)]


async def follow_and_kill(
    suite: Processes, callers: Callers, run_id: str, at: Collection[str] = ()
) -> tuple[Story, int]:
    """The story, and how often the engine was killed when it told of something new; `at` says of what.

    How often that is nobody can say: between two kills a quick engine may come far.
    """
    story: Story = []
    told: set[tuple[str, str | None]] = set()
    kills = 0
    while not (story and story[-1].HasField("run_finished")):
        async for event in suite.client.runs.watch(run_id, after_sequence=len(story)):
            story.append(event)
            what = event.path, event.WhichOneof("event")
            if what in told or what[1] in ("run_claimed", "message_discarded", "run_finished"):
                continue
            if at and what[1] not in at:
                continue
            told.add(what)
            await suite.engine_process.kill()
            await suite.engine_process.start()
            kills += 1
            break
        # What it had stored by then is nothing new.
        read = partial(stored_events, run_id=run_id, after=len(story))
        story += await callers.ask(callers.chance("look"), read)
        told.update((event.path, event.WhichOneof("event")) for event in story)
    return story, kills


@pytest.mark.parametrize("kind", KINDS)
async def test_a_tree_that_is_killed_at_one_event_after_another_ends_well(tmp_path: Path, kind: str) -> None:
    async with open_processes(tmp_path, SCRIPT, **project(tmp_path)) as suite:
        callers = Callers([suite.client], SEED)
        accepted: dict[str, Accepted] = {}
        people = People(callers, accepted)
        options = run_pb2.RunOptions(variables={"tag": TAG})
        agent, message = AGENT_OF[kind], f"{kind} #1#"
        run = await suite.client.runs.start(agent, message, session_id="s", options=options)
        accepted[run.run_id] = Accepted(agent, message, TAG)
        async with people.answering():
            story, kills = await follow_and_kill(suite, callers, run.run_id)
        facts = Facts(
            accepted,
            {run.run_id: story},
            await read_views([suite], accepted),
            list(zip(suite.model.requests, suite.model.times, strict=True)),
            suite.notes(),
            answered=people.answered,
        )
        report = judge(facts)
        assert not report.violations, f"seed {SEED}: " + "\n".join(report.violations)
        assert report.states == {run_pb2.RUN_STATE_SUCCEEDED: 1}
        # One that waited, or had stored its end, when the engine was killed needed nobody to take it over.
        assert kills
        assert report.takeovers
