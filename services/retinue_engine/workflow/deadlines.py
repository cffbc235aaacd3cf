"""When a workflow that waits for somebody must be looked at again: tries, branches and joins have limits."""

import math
from collections.abc import Iterator

from retinue_engine.workflow.definition import EachAction, WorkflowDefinition
from retinue_engine.workflow.progress import Progress


def after(begun_us: int, limit_s: float) -> int:
    """The microsecond at which something that began has had its time."""
    return begun_us + math.ceil(limit_s * 1_000_000)


def deadlines(definition: WorkflowDefinition, progress: Progress, now_us: int) -> Iterator[int]:
    """Yield them; those of branches and joins that have passed were looked at before."""
    for known in progress.steps.values():
        if known.state != "open":
            continue
        step = definition.by_name[known.name]
        if step.timeout_s is not None:
            yield after(known.tried_us, step.timeout_s)
        if isinstance(step.action, EachAction) and step.action.branch_timeout_s is not None:
            place = f"step:{known.name}/try:{known.attempt}"
            for path, begun_us in progress.branches.items():
                is_open = path.rpartition("/item:")[0].endswith(place) and path not in progress.closed
                if is_open and (us := after(begun_us, step.action.branch_timeout_s)) > now_us:
                    yield us
    for edge in definition.edges or ():
        limit_s = definition.by_name[edge.target].join.timeout_s
        source = progress.steps.get(edge.source)
        if limit_s is not None and source is not None and source.done and edge.target not in progress.steps:
            # Where the edge was not taken, that is too early, and does no harm.
            us = after(source.done_us, limit_s)
            if us > now_us:
                yield us
