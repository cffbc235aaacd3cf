"""Runs, records and ends to store, with what a test does not care about filled in."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from retinue.engine.v1.run_pb2 import RUN_STATE_SUCCEEDED
from retinue_engine.stores.rows import (
    RUN_STATE_RUNNING,
    RUN_STATE_WAITING,
    BlobRow,
    Effects,
    InputRow,
    JournalRecord,
    RunOutcome,
    RunRow,
    Suspension,
    Totals,
)
from retinue_engine.stores.store import Store

LATER_US = 2**60
"""When every lease is over."""

_numbers = itertools.count(1)


def make_run(session_id: str = "", **changes: Any) -> RunRow:
    """A run that is newer than all before; without a session it has one of its own."""
    number = next(_numbers)
    run_id = f"run-{number:06}"
    run = RunRow(
        run_id=run_id,
        namespace="default",
        root_run_id=run_id,
        request_id="",
        request_digest=b"digest",
        target_kind=2,
        target_name="a",
        target_version=3,
        session_id=session_id or f"session-{number:06}",
        create_us=1_000_000 + number,
        request=b"request",
        definition=b"definition",
        writer=f"w-{number:06}",
        lease_us=LATER_US - 1,
    )
    return replace(run, **changes)


def record(
    run: RunRow, first: int = 1, last: int = 0, *, writer: str = "", data: bytes = b""
) -> JournalRecord:
    """A record of a run's journal, by the run's own writer."""
    text = data or f"{run.run_id}:{first}".encode()
    return JournalRecord(run.run_id, first, last or first, writer or run.writer, text)


def make_child(root: RunRow, number: int = 1, **changes: Any) -> RunRow:
    """A child of a root, as it begins."""
    run_id = f"{root.run_id}-{number}"
    child = replace(
        root,
        run_id=run_id,
        request_id="",
        session_id="",
        create_us=root.create_us + number,
        lease_us=0,
        parent_run_id=root.run_id,
        path=f"turn:{number}/call:1",
        state=RUN_STATE_RUNNING,
    )
    return replace(child, **changes)


def make_input(root: RunRow, number: int = 1, **changes: Any) -> InputRow:
    """A request for input of a tree."""
    asked = InputRow(
        input_id=f"input-{root.run_id}-{number}",
        namespace=root.namespace,
        root_run_id=root.run_id,
        create_us=root.create_us + number,
        expire_us=LATER_US,
        request=b"may I?",
    )
    return replace(asked, **changes)


def make_blob(root: RunRow, number: int = 1) -> BlobRow:
    """A blob of a tree."""
    return BlobRow(root.run_id, f"blob-{number}", "image/png", "a.png", bytes(range(256)) * number)


def end_of(
    run: RunRow,
    *messages: str,
    state: int = RUN_STATE_SUCCEEDED,
    end_us: int = 0,
    totals: Totals = Totals(),  # noqa: B008 - it is frozen
    closes_inputs: bool = False,
    base: str = "",
) -> RunOutcome:
    """A run's end; with `base` that of a step's."""
    return RunOutcome(
        run.namespace,
        run.run_id,
        run.session_id,
        state,
        end_us or run.create_us + 1_000,
        b"result of " + run.run_id.encode(),
        messages,
        totals,
        base,
        closes_inputs,
    )


def ends(*outcomes: RunOutcome) -> Effects:
    """That runs end, and nothing else."""
    return Effects(outcomes=outcomes)


async def create(store: Store, run: RunRow, *, new_session: bool = False) -> RunRow:
    """Store a run with its first record."""
    return await store.create_run(run, record(run), new_session=new_session)


async def finish(store: Store, run: RunRow, *messages: str, at: int = 2) -> None:
    """Append a run's last record and end."""
    await store.append(record(run, at), ends(end_of(run, *messages)))


async def suspend(
    store: Store, run: RunRow, at: int = 2, *, until_us: int | None = None, state: int = RUN_STATE_WAITING
) -> None:
    """Append the record with which a tree is suspended."""
    await store.append(record(run, at), Effects(suspension=Suspension(run.run_id, state, until_us)))


async def get(store: Store, run: RunRow) -> RunRow:
    """A run as it is stored now."""
    stored = await store.get_run(run.namespace, run.run_id)
    assert stored is not None
    return stored


async def positions(store: Store, run: RunRow) -> list[tuple[int, str, str]]:
    """What stands in a run's session: position, run and text of each message."""
    found = await store.list_messages(run.namespace, run.session_id, 0, None)
    return [(each.position, each.run_id, each.message_json) for each in found]


def ids(runs: Sequence[RunRow]) -> list[str]:
    return [run.run_id for run in runs]
