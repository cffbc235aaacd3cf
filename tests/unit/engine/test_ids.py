"""Ids: no two alike, in one process and in those that are forked from it."""

import re
import subprocess
import sys

from retinue_engine.ids import new_run_id, new_session_id, new_writer


def test_ids_have_their_form_and_no_two_are_alike() -> None:
    runs = [new_run_id() for _ in range(5_000)]
    writers = [new_writer() for _ in range(5_000)]
    assert all(re.fullmatch(r"run-[0-9a-f]{24}", each) for each in runs)
    assert all(re.fullmatch(r"[0-9a-f]{16}", each) for each in writers)
    assert re.fullmatch(r"workflow-[0-9a-f]{8}", new_session_id("workflow"))
    assert len(set(runs)) == len(set(writers)) == 5_000
    # The time comes first.
    assert [each[:16] for each in runs] == sorted(each[:16] for each in runs)


FORKS = """
import os
from retinue_engine.ids import new_writer

new_writer()
reading, writing = os.pipe()
child = os.fork()
if not child:
    os.write(writing, " ".join(new_writer() for _ in range(100)).encode())
    os._exit(0)
os.waitpid(child, 0)
theirs = set(os.read(reading, 10_000).decode().split())
mine = {new_writer() for _ in range(100)}
print(len(theirs), len(mine), len(theirs & mine))
"""


def test_a_process_that_is_forked_makes_ids_of_its_own() -> None:
    said = subprocess.run(
        [sys.executable, "-c", FORKS], capture_output=True, text=True, check=True, timeout=60
    )
    assert said.stdout.split() == ["100", "100", "0"], said.stderr
