"""What the engine's process is told by its environment."""

from pathlib import Path
from typing import ClassVar

from pydantic import AliasChoices, Field, field_validator

from retinue.client import ENGINE_ADDRESS, MCP_HOST_ADDRESS, REGISTRY_ADDRESS
from retinue_kit.settings import ApiSettings

STORE_FORMS = "use `sqlite`, `sqlite:PATH` or a mongodb:// address with a database name"


class EngineSettings(ApiSettings):
    """Settings of the engine."""

    service: ClassVar[str] = "engine"

    address: str = Field(default=ENGINE_ADDRESS, validation_alias=AliasChoices("RETINUE_ENGINE_ADDRESS"))
    metrics_address: str = Field(
        default="127.0.0.1:7413", validation_alias=AliasChoices("RETINUE_ENGINE_METRICS_ADDRESS")
    )
    registry_address: str = REGISTRY_ADDRESS
    mcp_host_address: str = MCP_HOST_ADDRESS

    data_dir: Path = Path.home() / ".local" / "share" / "retinue"
    """Where the SQLite file lies."""
    store: str = "sqlite"
    """Where runs and sessions are kept: `sqlite`, `sqlite:PATH`, or `mongodb://HOST/DATABASE`."""
    lease_s: float = Field(default=15.0, gt=0)
    """How long after its last sign an engine's runs are left alone by the others on the same MongoDB."""
    max_active_runs: int = Field(default=10_000, ge=1)
    """How many runs this engine works on at once; one more is queued."""
    max_queued_runs: int = Field(default=100_000, ge=1)
    """How many runs may be queued in the store; one more is refused."""
    max_depth: int = Field(default=5, ge=0)
    """How deep agents may call agents; 0: not at all."""
    workers_ahead: int = Field(default=1, ge=0)
    """Processes for custom workflows that wait for their run, from the first such run on."""
    max_workers: int = Field(default=32, ge=1)
    """How many processes of custom workflows run at once, for each depth of runs inside runs."""
    worker_memory_bytes: int = Field(default=1024 * 1024 * 1024, ge=64 * 1024 * 1024)
    """Memory that one of them may ask for (Linux)."""
    worker_connect_s: float = Field(default=30.0, gt=0)
    """How long one may take until it connects."""
    retain_days: float | None = Field(default=None, gt=0)
    """Sessions that were not used for so long are deleted with their runs; kept where it is not set."""
    retain_sessions: int | None = Field(default=None, ge=1)
    """How many sessions of a namespace are kept, those used last; all where it is not set."""
    heartbeat_s: float = Field(default=20.0, gt=0)
    """How long a stream may be silent before an empty message says that it is alive."""

    @field_validator("store")
    @classmethod
    def _known_store(cls, store: str) -> str:
        if store == "sqlite" or store.startswith(("sqlite:", "mongodb://", "mongodb+srv://")):
            return store
        raise ValueError(f"{store!r} is not a store: {STORE_FORMS}")

    @property
    def sqlite_path(self) -> Path | None:
        """The SQLite file; None where the store is MongoDB."""
        if self.store == "sqlite":
            return self.data_dir / "engine.db"
        return Path(self.store.removeprefix("sqlite:")) if self.store.startswith("sqlite:") else None
