"""Runs, records and ends to store, with what a test does not care about filled in."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from retinue.engine.v1.run_pb2 import RUN_STATE_SUCCEEDED
from retinue_engine.store import JournalRecord, RunOutcome, RunRow, Store

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


def end_of(run: RunRow, *messages: str, state: int = RUN_STATE_SUCCEEDED, end_us: int = 0) -> RunOutcome:
    """A run's end."""
    return RunOutcome(
        run.namespace,
        run.run_id,
        run.session_id,
        state,
        end_us or run.create_us + 1_000,
        b"result of " + run.run_id.encode(),
        messages,
    )


async def create(store: Store, run: RunRow, *, new_session: bool = False) -> RunRow:
    """Store a run with its first record."""
    return await store.create_run(run, record(run), new_session=new_session)


async def finish(store: Store, run: RunRow, *messages: str, at: int = 2) -> None:
    """Append a run's last record and end."""
    await store.append(record(run, at), end_of(run, *messages))


async def positions(store: Store, run: RunRow) -> list[tuple[int, str, str]]:
    """What stands in a run's session: position, run and text of each message."""
    found = await store.list_messages(run.namespace, run.session_id, 0, None)
    return [(each.position, each.run_id, each.message_json) for each in found]


def ids(runs: Sequence[RunRow]) -> list[str]:
    return [run.run_id for run in runs]
