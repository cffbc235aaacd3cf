"""`serve`: one service in the foreground, as it runs on a server or in a container."""

from pathlib import Path
from typing import Annotated

import typer

from retinue_cli.suite.becoming import become_service
from retinue_cli.suite.services import ENGINE, MCP_HOST, REGISTRY

app = typer.Typer(no_args_is_help=True, help="Run one service in the foreground.")

_SECURITY = "Who may call"
_OTHERS = "The other services"

Address = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="Where to listen; port 0 takes a free one.")
]
Metrics = Annotated[
    str | None,
    typer.Option("--metrics-address", metavar="HOST:PORT", help="Where Prometheus asks; empty: nowhere."),
]
Project = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="The project; else the nearest folder upward with retinue.yaml."),
]
DataDir = Annotated[Path | None, typer.Option(metavar="DIR", help="Where the service keeps its data.")]
LogLevel = Annotated[str | None, typer.Option(metavar="LEVEL", help="debug, info, warning or error.")]
LogFormat = Annotated[str | None, typer.Option(metavar="FORMAT", help="json or text.")]
TlsCert = Annotated[
    Path | None,
    typer.Option("--tls-cert-file", metavar="FILE", rich_help_panel=_SECURITY, help="Certificate, PEM."),
]
TlsKey = Annotated[
    Path | None,
    typer.Option("--tls-key-file", metavar="FILE", rich_help_panel=_SECURITY, help="Its key, PEM."),
]
TlsCa = Annotated[
    Path | None,
    typer.Option(
        "--tls-ca-file", metavar="FILE", rich_help_panel=_OTHERS, help="Whom to trust; implies TLS."
    ),
]
Insecure = Annotated[
    bool,
    typer.Option("--insecure", rich_help_panel=_SECURITY, help="Let everybody in who reaches the address."),
]
Json = Annotated[
    bool, typer.Option("--json", help="Log in JSON; the line that says it is ready is JSON at any rate.")
]
RegistryAt = Annotated[
    str | None, typer.Option("--registry", metavar="HOST:PORT", rich_help_panel=_OTHERS, help="The registry.")
]
McpHostAt = Annotated[
    str | None, typer.Option("--mcp-host", metavar="HOST:PORT", rich_help_panel=_OTHERS, help="The MCP host.")
]


@app.command()
def registry(
    *,
    address: Address = None,
    metrics_address: Metrics = None,
    project: Project = None,
    data_dir: DataDir = None,
    tls_cert_file: TlsCert = None,
    tls_key_file: TlsKey = None,
    insecure: Insecure = False,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
    as_json: Json = False,
) -> None:
    """Run the registry: what is configured, from the project's files and by API."""
    become_service(
        REGISTRY,
        [],
        project,
        RETINUE_REGISTRY_ADDRESS=address,
        RETINUE_REGISTRY_METRICS_ADDRESS=metrics_address,
        RETINUE_DATA_DIR=data_dir,
        RETINUE_TLS_CERT_FILE=tls_cert_file,
        RETINUE_TLS_KEY_FILE=tls_key_file,
        RETINUE_INSECURE="true" if insecure else None,
        RETINUE_LOG_LEVEL=log_level,
        RETINUE_LOG_FORMAT="json" if as_json else log_format,
    )


@app.command("mcp-host")
def mcp_host(
    *,
    address: Address = None,
    metrics_address: Metrics = None,
    registry: RegistryAt = None,
    project: Project = None,
    tls_cert_file: TlsCert = None,
    tls_key_file: TlsKey = None,
    tls_ca_file: TlsCa = None,
    insecure: Insecure = False,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
    as_json: Json = False,
) -> None:
    """Run the MCP host: live connections to MCP servers, and their tools."""
    become_service(
        MCP_HOST,
        [],
        project,
        RETINUE_MCP_HOST_ADDRESS=address,
        RETINUE_MCP_HOST_METRICS_ADDRESS=metrics_address,
        RETINUE_REGISTRY_ADDRESS=registry,
        RETINUE_TLS_CERT_FILE=tls_cert_file,
        RETINUE_TLS_KEY_FILE=tls_key_file,
        RETINUE_TLS_CA_FILE=tls_ca_file,
        RETINUE_INSECURE="true" if insecure else None,
        RETINUE_LOG_LEVEL=log_level,
        RETINUE_LOG_FORMAT="json" if as_json else log_format,
    )


@app.command()
def engine(
    *,
    address: Address = None,
    metrics_address: Metrics = None,
    registry: RegistryAt = None,
    mcp_host: McpHostAt = None,
    store: Annotated[
        str | None, typer.Option(metavar="STORE", help="`sqlite`, `sqlite:PATH` or a mongodb:// address.")
    ] = None,
    project: Project = None,
    data_dir: DataDir = None,
    tls_cert_file: TlsCert = None,
    tls_key_file: TlsKey = None,
    tls_ca_file: TlsCa = None,
    insecure: Insecure = False,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
    as_json: Json = False,
) -> None:
    """Run the engine: runs, their events, sessions."""
    become_service(
        ENGINE,
        [],
        project,
        RETINUE_ENGINE_ADDRESS=address,
        RETINUE_ENGINE_METRICS_ADDRESS=metrics_address,
        RETINUE_REGISTRY_ADDRESS=registry,
        RETINUE_MCP_HOST_ADDRESS=mcp_host,
        RETINUE_STORE=store,
        RETINUE_DATA_DIR=data_dir,
        RETINUE_TLS_CERT_FILE=tls_cert_file,
        RETINUE_TLS_KEY_FILE=tls_key_file,
        RETINUE_TLS_CA_FILE=tls_ca_file,
        RETINUE_INSECURE="true" if insecure else None,
        RETINUE_LOG_LEVEL=log_level,
        RETINUE_LOG_FORMAT="json" if as_json else log_format,
    )
