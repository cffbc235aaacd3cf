"""The registry's own words: what a component is called, what a version of it holds, where it came from."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, Protocol, TypeAlias

from retinue_registry.models import Spec

DEFAULT_NAMESPACE = "default"

BATCH_BYTES = 1024 * 1024
"""Specs after which a page or a batch of changes is full; one that is larger goes alone."""


class Key(NamedTuple):
    """What names a component."""

    namespace: str
    kind: str
    """As in `retinue_registry.kinds`: `llm`."""
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


class Layer(StrEnum):
    """Which files a component came from. Of equal keys the layer that comes first here is in effect."""

    PROJECT = "project"
    WORKSPACE = "workspace"
    USER = "user"
    PACKAGE = "package"


@dataclass(frozen=True, slots=True)
class FileSource:
    """A place in a file."""

    path: str
    """Relative to the folder of the layer, with `/`."""
    line: int
    """Counted from 1."""
    layer: Layer = Layer.PROJECT
    distribution: str = ""
    """Which one, for Layer.PACKAGE; else empty."""

    def __str__(self) -> str:
        return _place(self.path, self.line, self.layer, self.distribution)


@dataclass(frozen=True, slots=True)
class ApiSource:
    """A call of ApplyComponents."""


Source: TypeAlias = FileSource | ApiSource


@dataclass(frozen=True, slots=True)
class Draft:
    """A component that keeps every rule of its kind and is not stored yet."""

    key: Key
    labels: Mapping[str, str]
    spec: Spec
    source: Source
    field: str
    """Where it stands, for messages about its fields: `agents.assistant` or `components[3].agent`."""
    etag: str = ""
    """The current etag as its writer knows it; empty: the writer does not care."""


@dataclass(frozen=True, slots=True)
class Version:
    """One stored state of a component, or its end. The revision alone identifies it."""

    key: Key
    version: int
    """Counted from 1 for the key, the ends included."""
    revision: int
    etag: str
    labels: Mapping[str, str]
    spec: bytes
    """As the codec encodes it; the bytes of what was there before, where this is the end."""
    source: Source
    create_time_us: int
    """Microseconds since 1970, as the next."""
    update_time_us: int
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """One step of the registry, as watchers see it."""

    revision: int
    after: Version
    """What was stored; the end, where the component was deleted."""
    before: Version | None = None
    """What was deleted; None where something was stored."""


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong in files."""

    path: str
    """Relative to the folder of the layer."""
    line: int
    """Counted from 1; 0: the file as a whole."""
    field: str
    """`agents.assistant.llm`, or empty."""
    message: str
    namespace: str | None = dataclasses.field(default=None, compare=False)
    """The file's; None where that could not be read."""
    layer: Layer = Layer.PROJECT
    distribution: str = ""
    """As in FileSource."""

    def __str__(self) -> str:
        place = _place(self.path, self.line, self.layer, self.distribution)
        return f"{place}: {self.field}: {self.message}" if self.field else f"{place}: {self.message}"


def _place(path: str, line: int, layer: Layer, distribution: str) -> str:
    """A place as people read it: `a.yaml:3`; of another layer than the project with its name before it."""
    place = f"{path}:{line}" if line else path
    if layer is Layer.PROJECT:
        return place
    return f"{layer} {distribution}: {place}" if distribution else f"{layer}: {place}"


class Codec(Protocol):
    """Turns the plain values of a spec into the bytes that are stored, and back.

    Equal values of a kind give equal bytes: that is how an unchanged component is known.
    """

    def encode(self, kind: str, values: Mapping[str, Any]) -> bytes:
        """The bytes of a spec's values."""

    def decode(self, kind: str, data: bytes) -> dict[str, Any]:
        """The values of a spec's bytes."""
