"""What the MCP host's process is told by its environment."""

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AliasChoices, Field, field_validator
from pydantic_settings import NoDecode

from retinue.client import MCP_HOST_ADDRESS, REGISTRY_ADDRESS
from retinue_kit.settings import ApiSettings


class McpHostSettings(ApiSettings):
    """Settings of the MCP host manager; each is an environment variable of the kit's form."""

    service: ClassVar[str] = "mcp-host"

    address: str = Field(
        default=MCP_HOST_ADDRESS, validation_alias=AliasChoices("RETINUE_MCP_HOST_ADDRESS", "address")
    )
    metrics_address: str = Field(
        default="127.0.0.1:7412",
        validation_alias=AliasChoices("RETINUE_MCP_HOST_METRICS_ADDRESS", "metrics_address"),
    )
    registry_address: str = REGISTRY_ADDRESS

    max_result_bytes: int = Field(default=1024 * 1024, ge=1024, le=16 * 1024 * 1024)
    """Of one tool call's result; what is beyond is cut, and it says so. Of one request of a server."""
    max_server_message_bytes: int = Field(default=16 * 1024 * 1024, ge=64 * 1024, le=256 * 1024 * 1024)
    """Of one message from a stdio server; a longer one is thrown away."""
    max_stream_calls: int = Field(default=1024, ge=1, le=65536)
    """Calls under way on one StreamToolCalls."""
    max_connections: int = Field(default=256, ge=1)
    """Open at a time; a further server fails until an idle one is closed."""
    logins_file: Path | None = None
    """Where people's logins outlast this process; None: they last as long as it does."""
    prewarm_namespaces: Annotated[tuple[str, ...], NoDecode] = ("default",)
    """Whose servers with `prewarm` are kept connected; comma separated."""

    @field_validator("logins_file", mode="before")
    @classmethod
    def _no_file(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("prewarm_namespaces", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(name for each in value.split(",") if (name := each.strip()))
