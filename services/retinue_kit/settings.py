"""Settings that every service has: environment variables, `RETINUE_` and the name in capitals."""

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from retinue.client import Access
from retinue_kit.allowed import Allowed, listed, parse_files, parse_hosts
from retinue_kit.tracing import current_traceparent

MAX_PORT = 65535
"""gRPC takes a larger one for another."""

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1", "[::1]"})


def host_of(address: str) -> str:
    """The host of `host:port`; of `[::1]:80` it is `[::1]`."""
    return address.rpartition(":")[0]


class ServiceSettings(BaseSettings):
    """What a service's process is told by its environment. A service adds its own fields."""

    model_config = SettingsConfigDict(
        env_prefix="RETINUE_", extra="forbid", frozen=True, populate_by_name=True
    )

    service: ClassVar[str]
    """The service's name in logs and metrics: `registry`."""

    address: str
    """Where to listen, `host:port`; port 0 takes a free one. Each service names its own variable for it."""
    metrics_address: str
    """Where to serve Prometheus metrics, `host:port`; empty: not at all."""

    token: SecretStr | None = None
    """The bearer token that callers must show, and that this service shows to the others."""
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    tls: bool = False
    """Whether the other services are called with TLS."""
    tls_ca_file: Path | None = None
    """What to trust of the other services; implies `tls`."""
    insecure: bool = False
    """Listen on any address without TLS and token. Whoever reaches it can do everything."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "text"] = "json"
    max_request_bytes: int = Field(default=4 * 1024 * 1024, ge=1024, le=32 * 1024 * 1024)
    call_timeout_s: float = Field(default=120.0, gt=0)
    """For a unary call whose caller set no shorter deadline."""
    stop_on_stdin_eof: bool = False
    """Stop when standard input ends: a parent that dies closes the pipe that it held."""
    stop_grace_s: float = Field(default=10.0, ge=0)
    """How long unary calls may go on after the signal to stop."""
    close_timeout_s: float = Field(default=15.0, gt=0)
    """How long the service may take to close what it owns, after the calls have ended."""

    @field_validator("token", "tls_cert_file", "tls_key_file", "tls_ca_file", mode="before")
    @classmethod
    def _empty_is_not_set(cls, value: object) -> object:
        # An empty token would count as one here and let everybody in.
        return None if value == "" else value

    @field_validator("address", "metrics_address")
    @classmethod
    def _host_and_port(cls, address: str) -> str:
        host, _, port = address.rpartition(":")
        if address and not (host and port.isdecimal() and int(port) <= MAX_PORT):
            raise ValueError(f"{address!r} is no address: use HOST:PORT, like 127.0.0.1:7403")
        return address

    @model_validator(mode="after")
    def _closed_by_default(self) -> Self:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("RETINUE_TLS_CERT_FILE and RETINUE_TLS_KEY_FILE go together: set both or none")
        if host_of(self.address) in LOOPBACK or self.insecure:
            return self
        if self.tls_cert_file is None or self.token is None:
            raise ValueError(
                f"{self.address} is not a loopback address: set RETINUE_TLS_CERT_FILE, "
                "RETINUE_TLS_KEY_FILE and RETINUE_TOKEN, or RETINUE_INSECURE=true to let everybody in"
            )
        return self

    @property
    def access(self) -> Access:
        """How this service calls the others."""
        token = self.token.get_secret_value() if self.token else None
        return Access(token=token, tls=self.tls, ca_file=self.tls_ca_file, trace=current_traceparent)


class ApiSettings(ServiceSettings):
    """Settings of a service that uses components: what those that came by API may use there.

    Lists with commas between the entries; empty ones allow nothing.
    """

    api_env: str = ""
    """Environment variables that `${env:NAME}` may name, with `*` and `?`."""
    api_files: str = ""
    """Files, and folders of files, that may be read: absolute paths, with `*` and `?` within a name."""
    api_hosts: str = ""
    """Where addresses may lead: `host`, `host:port`, `*.example.com`, `10.0.0.0/8`, `*` for all public."""
    api_commands: str = ""
    """What stdio servers may be started with: names on PATH, or absolute paths."""

    api_modules: str = ""
    """Modules that custom workflows may name, `reports.nightly`, with `*` and `?`."""

    @field_validator("api_files")
    @classmethod
    def _known_files(cls, files: str) -> str:
        parse_files(files)
        return files

    @field_validator("api_hosts")
    @classmethod
    def _known_hosts(cls, hosts: str) -> str:
        parse_hosts(hosts)
        return hosts

    @property
    def allowed(self) -> Allowed:
        """The lists."""
        return Allowed(
            service=self.service,
            env=listed(self.api_env),
            files=parse_files(self.api_files),
            hosts=parse_hosts(self.api_hosts),
            commands=listed(self.api_commands),
            modules=listed(self.api_modules),
        )
