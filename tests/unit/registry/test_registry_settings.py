"""The registry's settings come from its environment."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from retinue_registry.settings import RegistrySettings


def test_settings_come_from_their_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {
        "RETINUE_REGISTRY_ADDRESS": "127.0.0.1:1",
        "RETINUE_REGISTRY_METRICS_ADDRESS": "",
        "RETINUE_PROJECT": str(tmp_path),
        "RETINUE_DATA_DIR": str(tmp_path / "data"),
        "RETINUE_WATCH_HEARTBEAT_S": "2.5",
        "RETINUE_WATCH_QUEUE_SIZE": "7",
        "RETINUE_USER_DIR": str(tmp_path / "mine"),
        "RETINUE_WATCH_FILES": "false",
        "RETINUE_WATCH_FILES_POLL": "true",
        "RETINUE_REGISTRY_STORE": "sqlite:components.db",
        # The engine's.
        "RETINUE_STORE": "mongodb://host/runs",
        "RETINUE_RETAIN_VERSIONS": "5",
        "RETINUE_RETAIN_REQUESTS_HOURS": "0.5",
    }.items():
        monkeypatch.setenv(name, value)
    settings = RegistrySettings()
    assert settings.address == "127.0.0.1:1"
    assert not settings.metrics_address
    assert settings.project == tmp_path
    assert settings.sqlite_path(None) == Path("components.db").absolute()
    monkeypatch.delenv("RETINUE_REGISTRY_STORE")
    assert RegistrySettings().sqlite_path(None) == tmp_path / "data" / "registry.db"
    assert (settings.watch_heartbeat_s, settings.watch_queue_size) == (2.5, 7)
    assert settings.roots(None).user == tmp_path / "mine"
    assert (settings.watch_files, settings.watch_files_poll) == (False, True)
    assert (settings.retain_versions, settings.retain_requests_hours) == (5, 0.5)


def test_the_store_has_three_forms_and_another_is_refused(tmp_path: Path) -> None:
    assert RegistrySettings(registry_store=f"sqlite:{tmp_path}/x.db").sqlite_path(None) == tmp_path / "x.db"
    assert RegistrySettings(registry_store="mongodb://host/db").sqlite_path(None) is None
    for wrong in ("postgres://x/y", "sqlite:", ""):
        with pytest.raises(ValidationError, match="use `sqlite`, `sqlite:PATH` or a mongodb:// address"):
            RegistrySettings(registry_store=wrong)


def test_without_settings_the_project_is_the_nearest_and_its_data_is_inside(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("RETINUE_REGISTRY_ADDRESS", "RETINUE_PROJECT", "RETINUE_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "retinue.yaml").touch()
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    settings = RegistrySettings()
    assert settings.address == "127.0.0.1:7401"
    assert settings.metrics_address == "127.0.0.1:7411"
    assert settings.anchor() == tmp_path / "retinue.yaml"
    assert settings.sqlite_path(settings.anchor()) == tmp_path / ".retinue" / "registry.db"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert settings.sqlite_path(None) == tmp_path / "home" / ".local" / "share" / "retinue" / "registry.db"
