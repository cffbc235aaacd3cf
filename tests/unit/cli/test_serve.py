"""`serve` becomes the service's own process: each option is a variable of its environment."""

import os
from pathlib import Path

import pytest

from retinue_cli.__main__ import main

_OF_ALL = {
    "address": ("127.0.0.1:1", "RETINUE_{}_ADDRESS"),
    "metrics-address": ("127.0.0.1:2", "RETINUE_{}_METRICS_ADDRESS"),
    "tls-cert-file": ("/tls/cert.pem", "RETINUE_TLS_CERT_FILE"),
    "tls-key-file": ("/tls/key.pem", "RETINUE_TLS_KEY_FILE"),
    "log-level": ("debug", "RETINUE_LOG_LEVEL"),
    "log-format": ("text", "RETINUE_LOG_FORMAT"),
}
_DATA = {"data-dir": ("/data", "RETINUE_DATA_DIR")}
_CALLS = {
    "registry": ("127.0.0.1:3", "RETINUE_REGISTRY_ADDRESS"),
    "tls-ca-file": ("/tls/ca.pem", "RETINUE_TLS_CA_FILE"),
}
_ENGINE = {
    "mcp-host": ("127.0.0.1:4", "RETINUE_MCP_HOST_ADDRESS"),
    "store": ("mongodb://db/retinue", "RETINUE_STORE"),
}


@pytest.mark.parametrize(
    ("service", "module", "options"),
    [
        ("registry", "retinue_registry", _OF_ALL | _DATA),
        ("mcp-host", "retinue_mcp_host", _OF_ALL | _CALLS),
        ("engine", "retinue_engine", _OF_ALL | _DATA | _CALLS | _ENGINE),
    ],
)
def test_every_option_of_serve_reaches_the_service(
    service: str,
    module: str,
    options: dict[str, tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    became: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(os, "execve", lambda _path, argv, env: became.append((argv, env)))
    (tmp_path / "retinue.yaml").touch()
    given = [word for name, (value, _) in options.items() for word in (f"--{name}", value)]
    assert main(["serve", service, "--project", str(tmp_path), "--insecure", *given]) == 0
    argv, environment = became.pop()
    assert argv[1:] == ["-m", module]
    own = service.upper().replace("-", "_")
    wanted = {variable.format(own): value for value, variable in options.values()}
    wanted |= {"RETINUE_PROJECT": str(tmp_path), "RETINUE_INSECURE": "true"}
    assert {name: environment.get(name) for name in wanted} == wanted
    assert main(["serve", service, "--json"]) == 0
    assert became.pop()[1]["RETINUE_LOG_FORMAT"] == "json"
