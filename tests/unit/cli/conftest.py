"""What tests of the CLI share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .engine import StoryTeller, serving


@pytest.fixture(autouse=True)
def _no_project_and_no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each test stands in an empty folder, without settings of the machine's."""
    for name in (
        "RETINUE_PROJECT",
        "RETINUE_ENGINE_ADDRESS",
        "RETINUE_REGISTRY_ADDRESS",
        "RETINUE_MCP_HOST_ADDRESS",
        "RETINUE_TOKEN",
        "RETINUE_DEBUG",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def teller(monkeypatch: pytest.MonkeyPatch) -> Iterator[StoryTeller]:
    """A made-up engine that the commands find by their environment."""
    teller = StoryTeller()
    with serving(teller) as address:
        monkeypatch.setenv("RETINUE_ENGINE_ADDRESS", address)
        yield teller
