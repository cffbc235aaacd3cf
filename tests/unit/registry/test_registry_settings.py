"""The registry's settings come from its environment."""

from pathlib import Path

import pytest

from retinue_registry.settings import RegistrySettings


def test_settings_come_from_their_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {
        "RETINUE_REGISTRY_ADDRESS": "127.0.0.1:1",
        "RETINUE_REGISTRY_METRICS_ADDRESS": "",
        "RETINUE_PROJECT": str(tmp_path),
        "RETINUE_DATA_DIR": str(tmp_path / "data"),
        "RETINUE_WATCH_HEARTBEAT_S": "2.5",
        "RETINUE_WATCH_QUEUE_SIZE": "7",
    }.items():
        monkeypatch.setenv(name, value)
    settings = RegistrySettings()
    assert settings.address == "127.0.0.1:1"
    assert not settings.metrics_address
    assert settings.project == tmp_path
    assert settings.store_folder(None) == tmp_path / "data"
    assert (settings.watch_heartbeat_s, settings.watch_queue_size) == (2.5, 7)


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
    assert settings.store_folder(settings.anchor()) == tmp_path / ".retinue"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert settings.store_folder(None) == tmp_path / "home" / ".local" / "share" / "retinue"
