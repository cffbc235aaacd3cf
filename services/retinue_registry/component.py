"""The registry's own words: what a component is called, what a version of it holds, where it came from."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class FileSource:
    """A place in a file of the project."""

    path: str
    """Relative to the project's folder, with `/`."""
    line: int
    """Counted from 1."""


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
    """One thing that is wrong in the project's files."""

    path: str
    """Relative to the project's folder."""
    line: int
    """Counted from 1; 0: the file as a whole."""
    field: str
    """`agents.assistant.llm`, or empty."""
    message: str
    namespace: str | None = dataclasses.field(default=None, compare=False)
    """The file's; None where that could not be read."""

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}" if self.line else self.path
        return f"{place}: {self.field}: {self.message}" if self.field else f"{place}: {self.message}"


class Codec(Protocol):
    """Turns the plain values of a spec into the bytes that are stored, and back.

    Equal values of a kind give equal bytes: that is how an unchanged component is known.
    """

    def encode(self, kind: str, values: Mapping[str, Any]) -> bytes:
        """The bytes of a spec's values."""

    def decode(self, kind: str, data: bytes) -> dict[str, Any]:
        """The values of a spec's bytes."""
