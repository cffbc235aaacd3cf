"""The suite as a fixture. No test reads the files of the user who runs it."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.suite import Suite, open_suite

os.environ["RETINUE_USER_DIR"] = ""  # for the processes that tests start, too

OpenSuite = Callable[..., Awaitable[Suite]]


@pytest.hookimpl(tryfirst=True)  # xdist looks at the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let one worker import litellm: it takes seconds and 200 MB."""
    for item in items:
        if "litellm" in item.nodeid and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group("litellm"))


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[OpenSuite]:
    """Opens a suite in the test's folder; see `open_suite`."""
    async with AsyncExitStack() as stack:

        async def opening(*args: Any, **more: Any) -> Suite:
            return await stack.enter_async_context(open_suite(tmp_path, *args, **more))

        yield opening
