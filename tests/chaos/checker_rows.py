"""Holds the rows that are made from journals against the stories: the runs inside each tree."""

from collections.abc import Iterator, Mapping

from retinue.engine.v1 import run_pb2
from tests.chaos.facts import Story, View
from tests.chaos.reading import row_time


def wrong_with_rows(view: View, stories: Mapping[str, Story]) -> Iterator[str]:
    """Every run inside a tree has its row, and there are no others."""
    told = {}
    for root_run_id, story in stories.items():
        for event in story:
            if event.HasField("child_run_started"):
                started = event.child_run_started
                told[event.run_id] = run_pb2.Run(
                    run_id=event.run_id,
                    namespace="default",
                    root_run_id=root_run_id,
                    target=started.target,
                    message=started.message,
                    parent_run_id=started.parent_run_id,
                    path=event.path,
                    create_time=row_time(event),
                )
            elif event.HasField("child_run_finished"):
                result = event.child_run_finished.result
                told[event.run_id].state = result.state
                told[event.run_id].result.CopyFrom(result)
                told[event.run_id].end_time.CopyFrom(row_time(event))
    for run_id, run in told.items():
        if view.children.get(run_id) != run:
            yield f"{run_id}: its row is not what its tree tells: {view.children.get(run_id)}"
    others = {run_id for run_id, run in view.children.items() if run.root_run_id in stories} - set(told)
    if others:
        yield f"runs that no tree tells of: {others}"
