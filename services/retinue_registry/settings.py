"""What the registry is told by its environment."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field, field_validator

from retinue_kit.settings import ServiceSettings
from retinue_registry.files.anchors import Roots, find_user_folder
from retinue_registry.files.discover import ANCHOR, find_anchor
from retinue_registry.files.packaged import find_packages

STORE_FORMS = "use `sqlite`, `sqlite:PATH` or a mongodb:// address with a database name"


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
    registry_store: str = "sqlite"
    """Where components are kept: `sqlite`, `sqlite:PATH`, or `mongodb://HOST/DATABASE`."""
    retain_versions: int = Field(default=1000, ge=1)
    """How many versions of a component are kept beside the current one, or beside its end."""
    retain_requests_hours: float = Field(default=168.0, gt=0)
    """How long a request_id is known, and answered as the first time."""
    user_dir: str | None = None
    """The folder of the user's own retinue.yaml; empty: none. Where it is not set: `retinue` in
    `$XDG_CONFIG_HOME`, or in `~/.config`."""
    watch_files: bool = True
    """Whether edits of files are taken up at once."""
    watch_files_poll: bool = False
    """Whether files are looked at every second, for disks that do not tell of changes."""
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

    def roots(self, anchor: Path | None) -> Roots:
        """Where files are looked for; `anchor` is the project's."""
        return Roots(anchor, find_user_folder(self.user_dir), find_packages())

    @field_validator("registry_store")
    @classmethod
    def _known_store(cls, store: str) -> str:
        if store == "sqlite" or store.startswith(("mongodb://", "mongodb+srv://")):
            return store
        if store.removeprefix("sqlite:") not in {"", store}:
            return store
        raise ValueError(f"{store!r} is not a store: {STORE_FORMS}")

    def sqlite_path(self, anchor: Path | None) -> Path | None:
        """The SQLite file of the registry for a project; None where the store is MongoDB."""
        if self.registry_store != "sqlite":
            path = self.registry_store.removeprefix("sqlite:")
            return Path(path).absolute() if path != self.registry_store else None
        if self.data_dir:
            return self.data_dir.absolute() / "registry.db"
        home = anchor.parent / ".retinue" if anchor else Path.home() / ".local" / "share" / "retinue"
        return home / "registry.db"
