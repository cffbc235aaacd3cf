"""What the registry is told by its environment."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from retinue_kit.settings import ServiceSettings
from retinue_registry.files.discover import ANCHOR, find_anchor


class RegistrySettings(ServiceSettings):
    """The registry's settings."""

    service: ClassVar[str] = "registry"

    address: str = Field(default="127.0.0.1:7401", validation_alias="RETINUE_REGISTRY_ADDRESS")
    metrics_address: str = Field(
        default="127.0.0.1:7411", validation_alias="RETINUE_REGISTRY_METRICS_ADDRESS"
    )
    project: Path | None = None
    """The project's folder. Where it is not set: the nearest with a retinue.yaml, from the working folder up;
    where there is none, components come by API alone."""
    data_dir: Path | None = None
    """Where the SQLite file is. Where it is not set: `.retinue` in the project's folder, without a project
    `~/.local/share/retinue`."""
    watch_heartbeat_s: float = Field(default=20.0, gt=0)
    """How long a watch is silent before it says that it stands."""
    watch_queue_size: int = Field(default=1000, ge=1)
    """Changes that wait for one watcher before it is dropped."""

    def anchor(self) -> Path | None:
        """The project's anchor file; None where there is no project. Raises ValueError."""
        if self.project is None:
            return find_anchor(Path.cwd())
        anchor = self.project.absolute() / ANCHOR
        if not anchor.is_file():
            raise ValueError(f"RETINUE_PROJECT is {self.project}, and there is no {ANCHOR} in that folder")
        return anchor

    def store_folder(self, anchor: Path | None) -> Path:
        """Where the registry keeps its data."""
        if self.data_dir:
            return self.data_dir.absolute()
        return anchor.parent / ".retinue" if anchor else Path.home() / ".local" / "share" / "retinue"
