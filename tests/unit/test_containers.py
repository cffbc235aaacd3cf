"""No Docker engine runs where the tests do: what the container files name must exist."""

import importlib.util
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from retinue_engine.settings import EngineSettings
from retinue_kit.settings import ServiceSettings
from retinue_mcp_host.settings import McpHostSettings
from retinue_registry.settings import RegistrySettings

ROOT = Path(__file__).resolve().parents[2]
SETTINGS: dict[str, type[ServiceSettings]] = {
    "registry": RegistrySettings,
    "mcp-host": McpHostSettings,
    "engine": EngineSettings,
}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    compose: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return compose["services"]


def variables(settings: type[ServiceSettings]) -> set[str]:
    """The environment variables that a service reads."""
    found = set()
    for name, field in settings.model_fields.items():
        alias = field.validation_alias
        choices = getattr(alias, "choices", [alias] if alias else [])
        found.update(str(choice) for choice in choices or [f"RETINUE_{name.upper()}"])
    return found


@pytest.mark.parametrize("name", SETTINGS)
def test_each_service_starts_a_module_that_exists(services: dict[str, Any], name: str) -> None:
    command = services[name]["command"]
    assert command[:2] == ["python", "-m"]
    assert importlib.util.find_spec(f"{command[2]}.__main__") is not None


@pytest.mark.parametrize("name", SETTINGS)
def test_each_setting_is_one_that_some_service_reads(services: dict[str, Any], name: str) -> None:
    known = set().union(*(variables(settings) for settings in SETTINGS.values()))
    given = {variable for variable in services[name]["environment"] if variable.startswith("RETINUE_")}
    assert given <= known


@pytest.mark.parametrize("name", SETTINGS)
def test_the_settings_are_accepted_and_listen_where_the_ports_and_the_health_check_look(
    services: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = services[name]
    for variable, value in service["environment"].items():
        with_defaults = re.sub(r"\$\{\w+:-(.*)\}", r"\1", value)
        monkeypatch.setenv(variable, re.sub(r"\$\{\w+:\?.*\}", "secret", with_defaults))
    port = SETTINGS[name]().address.rpartition(":")[2]
    assert service["ports"] == [f"127.0.0.1:{port}:{port}"]
    *check, address = service["healthcheck"]["test"]
    assert check == ["CMD", "python", "-m", "retinue_kit.health"]
    assert address == f"127.0.0.1:{port}"
    assert importlib.util.find_spec("retinue_kit.health") is not None


def test_what_components_by_api_may_use_can_be_said_to_who_uses_it(services: dict[str, Any]) -> None:
    for name, settings in SETTINGS.items():
        lists = {variable for variable in variables(settings) if variable.startswith("RETINUE_API_")}
        assert bool(lists) == (name != "registry")
        for variable in lists:
            assert services[name]["environment"][variable] == f"${{{variable}:-}}"


def test_services_find_each_other_by_their_names_in_the_network(services: dict[str, Any]) -> None:
    for name in SETTINGS:
        for variable, value in services[name]["environment"].items():
            match = re.fullmatch(r"RETINUE_(REGISTRY|MCP_HOST|ENGINE)_ADDRESS", variable)
            if match and not value.startswith("0.0.0.0"):
                host, _, port = value.partition(":")
                assert host == match[1].lower().replace("_", "-")
                assert services[host]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert "mongodb:27017/" in services["engine"]["environment"]["RETINUE_STORE"]


def test_what_a_service_depends_on_has_a_health_check(services: dict[str, Any]) -> None:
    for service in services.values():
        for needed in service.get("depends_on", {}):
            assert "healthcheck" in services[needed]


def test_the_image_copies_files_that_exist_and_installs_extras_that_exist() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    for sources in re.findall(r"^COPY (.+) \S+$", dockerfile, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists()
            assert any(f"!{source}".startswith(line) for line in allowed if line.startswith("!"))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (named,) = re.findall(r"pip install .*'\.\[(.+)\]'", dockerfile)
    assert set(named.split(",")) <= set(extras)
    default_project = ROOT / "examples" / "clock" / "retinue.yaml"
    assert default_project.exists()
