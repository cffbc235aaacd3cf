"""What the tests of the registry's stores write."""

from retinue_registry.component import ApiSource, FileSource, Key, Layer, Version
from retinue_registry.stores.store import RequestRecord, Store, Write


def key(name: str, namespace: str = "default") -> Key:
    return Key(namespace, "llm", name)


def version(at: Key, number: int, revision: int, *, spec: bytes = b"x", deleted: bool = False) -> Version:
    file = FileSource("a/b.yaml", 7, Layer.PACKAGE, "dist") if revision % 4 == 1 else FileSource("c.yaml", 1)
    return Version(
        key=at,
        version=number,
        revision=revision,
        etag=f"e{revision}",
        labels={"é": "ü", "a.$b": ""},
        spec=spec,
        source=file if revision % 2 else ApiSource(),
        create_time_us=1_700_000_000_000_000,
        update_time_us=1_700_000_000_000_000 + revision,
        deleted=deleted,
    )


def record(request_id: str, revision: int, time_us: int = 5) -> RequestRecord:
    outcomes = [(revision, "created"), (revision, "unchanged")]
    return RequestRecord("default", request_id, b"digest", outcomes, revision, time_us)


async def fill(store: Store, *versions: Version, request: RequestRecord | None = None) -> None:
    """Store versions in one write."""
    await store.write(Write(versions[0].revision - 1, versions[-1].revision, versions, request=request))
