"""What the MongoDB store's documents look like, and the way between them and the registry's own types."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from retinue_registry.component import ApiSource, FileSource, Key, Layer, Source, Version
from retinue_registry.stores.store import RequestRecord

Document = dict[str, Any]

MOST_TOGETHER = 1000
_MOST_BYTES = 8 * 1024 * 1024


def batches(documents: Sequence[Document]) -> Iterator[Sequence[Document]]:
    """Cut documents into such parts that the server takes each of them at once."""
    start = size = 0
    for place, document in enumerate(documents):
        length = len(document.get("spec", b""))
        if place > start and (place - start == MOST_TOGETHER or size + length > _MOST_BYTES):
            yield documents[start:place]
            start, size = place, 0
        size += length
    if start < len(documents):
        yield documents[start:]


def key_of(key: Key) -> Document:
    """What finds the versions of a key."""
    return {"namespace": key.namespace, "kind": key.kind, "name": key.name}


def version_document(version: Version, owner: int) -> Document:
    """A version, as an owner of the database stores it."""
    return {
        "_id": version.revision,
        **key_of(version.key),
        "version": version.version,
        "etag": version.etag,
        # As text: any name may stand in labels, which field names do not take.
        "labels": json.dumps(version.labels, sort_keys=True, ensure_ascii=False),
        "spec": version.spec,
        "source": source_document(version.source),
        "moved": 0,
        "create_time_us": version.create_time_us,
        "update_time_us": version.update_time_us,
        "deleted": version.deleted,
        "owner": owner,
    }


def version_of(document: Mapping[str, Any], moved: Source | None) -> Version:
    """A version as it is stored; `moved` is a newer source than the document's."""
    labels = document["labels"]
    return Version(
        key=Key(document["namespace"], document["kind"], document["name"]),
        version=document["version"],
        revision=document["_id"],
        etag=document["etag"],
        labels=json.loads(labels) if labels != "{}" else {},
        spec=bytes(document["spec"]),
        source=moved or source_of(document["source"]),
        create_time_us=document["create_time_us"],
        update_time_us=document["update_time_us"],
        deleted=document["deleted"],
    )


def source_document(source: Source) -> Document | None:
    """A place in a file; None: the API."""
    if not isinstance(source, FileSource):
        return None
    return {
        "path": source.path,
        "line": source.line,
        "layer": source.layer.value,
        "distribution": source.distribution,
    }


def source_of(document: Mapping[str, Any] | None) -> Source:
    """Where a component came from."""
    if document is None:
        return ApiSource()
    return FileSource(document["path"], document["line"], Layer(document["layer"]), document["distribution"])


def request_document(request: RequestRecord, number: int, owner: int) -> Document:
    """A request, the how manieth it is, as an owner of the database stores it."""
    return {
        "_id": number,
        "namespace": request.namespace,
        "request_id": request.request_id,
        "digest": request.digest,
        "outcomes": json.dumps(request.outcomes),
        "revision": request.revision,
        "time_us": request.time_us,
        "owner": owner,
    }


def request_of(document: Mapping[str, Any]) -> RequestRecord:
    """A request as it is stored."""
    return RequestRecord(
        document["namespace"],
        document["request_id"],
        bytes(document["digest"]),
        [(int(number), str(what)) for number, what in json.loads(document["outcomes"])],
        document["revision"],
        document["time_us"],
    )
