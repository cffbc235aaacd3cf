"""Reads all stories after the chaos and says what does not hold."""

from collections import Counter
from collections.abc import Iterator

from retinue.common.v1 import error_pb2 as pb
from retinue.engine.v1 import run_pb2
from tests.chaos.checker_calls import judge_model, judge_tools
from tests.chaos.checker_inputs import wrong_with_inputs
from tests.chaos.checker_rows import wrong_with_rows
from tests.chaos.checker_sessions import wrong_with_order, wrong_with_session
from tests.chaos.facts import Accepted, Facts, Story, View, Watched
from tests.chaos.reading import row_time, tellings, wrong_texts
from tests.chaos.report import Report
from tests.suite import FINAL, check_tree

INTERRUPTED = "interrupted by a newer run of the session"


def judge(facts: Facts) -> Report:
    """Hold the facts against one another."""
    report = Report()
    for view in facts.views:
        whole = _judge_runs(facts, view, report)
        report.hold("", wrong_with_rows(view, whole))
        report.hold("", wrong_with_inputs(facts, view, whole))
        report.hold("", wrong_with_order(facts, view, whole))
        for session_id, session in view.sessions.items():
            report.hold(f"session {session_id}: ", wrong_with_session(session_id, session, view, whole))
        for (run_id, after), tail in view.tails.items():
            if tail != view.stories[run_id][after:]:
                report.violations.append(f"{run_id}: its story after {after} is another")
    first = facts.views[0]
    for view in facts.views[1:]:
        for what in ("runs", "listed", "stories", "sessions", "children", "inputs"):
            if getattr(view, what) != getattr(first, what):
                report.violations.append(f"two engines do not tell the same {what}")
    for watched in facts.watched:
        report.hold(f"{watched.root_run_id}: ", _wrong_with_watched(watched, first))
    _count(first, report)
    runs = {run_id: tellings(story) for run_id, story in _judge_runs(facts, first, Report()).items()}
    if len(runs) == len(facts.accepted):
        # Only whole stories tell who asked the model and the tools.
        judge_model(facts, first, runs, report)
        judge_tools(facts, runs, report)
    return report


def _count(view: View, report: Report) -> None:
    report.states.update(run.state for run in view.runs.values())
    kinds = Counter(event.WhichOneof("event") for story in view.stories.values() for event in story)
    report.takeovers = kinds["run_claimed"]
    report.discarded = kinds["message_discarded"]
    report.suspended = kinds["run_suspended"]
    report.children = kinds["child_run_started"]
    report.inputs = kinds["input_requested"]


def _judge_runs(facts: Facts, view: View, report: Report) -> dict[str, Story]:
    """Every run has ended, with one whole story, which is what its watcher saw; return the whole ones."""
    whole = {}
    for run_id, accepted in facts.accepted.items():
        run = view.runs.get(run_id)
        if run is None or run.state not in FINAL:
            report.violations.append(f"{run_id} has not ended: {run and run_pb2.RunState.Name(run.state)}")
            continue
        story = view.stories[run_id]
        wrong = list(_wrong_with_story(story))
        if not wrong:
            whole[run_id] = story
            wrong += _wrong_with_row(run, story)
            wrong += _wrong_with_end(run, accepted, facts)
        if facts.seen.get(run_id) != story:
            wrong.append("a watcher saw another story than the store holds")
        report.hold(f"{run_id}: ", wrong)
    if sorted(view.listed) != sorted(facts.accepted):
        report.violations.append(f"other runs than were accepted: {set(view.listed) ^ set(facts.accepted)}")
    return whole


def _wrong_with_story(story: Story) -> Iterator[str]:
    try:
        check_tree(story)
        tellings(story)
    except (AssertionError, IndexError, KeyError, ValueError) as error:
        yield f"is no whole story: {error!r}"
        return
    yield from (f"is no whole story: {what}" for what in wrong_texts(story))


def _wrong_with_row(run: run_pb2.Run, story: Story) -> Iterator[str]:
    if story[-1].run_finished.result != run.result:
        yield "the run's result is not its story's"
    if row_time(story[-1]) != run.end_time:
        yield "the run's end is not its story's"
    if run.state != run.result.state:
        yield "the run's state is not its result's"


def _wrong_with_end(run: run_pb2.Run, accepted: Accepted, facts: Facts) -> Iterator[str]:
    """What nobody caused: a failure, a cancel."""
    allowed = set()
    if accepted.message.startswith("fail ") and accepted.tag.endswith(" try 0"):
        allowed.add(pb.ERROR_REASON_LLM_INVALID_REQUEST)
    if accepted.agent == "strict":
        allowed.add(pb.ERROR_REASON_TOOL_CALL_INTERRUPTED)
    if run.state == run_pb2.RUN_STATE_FAILED and run.result.error.reason not in allowed:
        yield f"failed: {run.result.error}"
    if run.state == run_pb2.RUN_STATE_CANCELLED:
        reasons = {facts.cancelled.get(run.run_id)}
        if any(each.interrupts for each in facts.accepted.values()):
            reasons.add(INTERRUPTED)
        if run.result.cancel_reason not in reasons:
            yield f"was cancelled by nobody: {run.result.cancel_reason!r}"


def _wrong_with_watched(watched: Watched, view: View) -> Iterator[str]:
    story = view.stories.get(watched.root_run_id, [])
    due = [
        event
        for event in story
        if (not watched.types or event.WhichOneof("event") in watched.types)
        and (not watched.path or f"{event.path}/".startswith(f"{watched.path}/"))
    ]
    if watched.seen != due:
        what = watched.child_run_id or f"{watched.types}, {watched.path!r}"
        yield f"who watched {what} saw {len(watched.seen)} events of {len(due)}, or others"
