"""`--dump`: prints what a file holds as protojson, for tools that send it to a registry by API."""

import json
import sys
from pathlib import Path

from google.protobuf.json_format import MessageToDict

from retinue.registry.v1 import component_pb2
from retinue_registry.component import Draft
from retinue_registry.convert import fill, kind_to_proto
from retinue_registry.files.source_file import read_source_file


def dump(path: Path) -> int:
    """Print the components of one file as a JSON list of Component, or what is wrong; the exit status.

    What they refer to is not looked for: it may be in the registry already.
    """
    source = read_source_file(path, str(path))
    if source.problems:
        sys.stderr.writelines(f"{problem}\n" for problem in sorted(source.problems))
        return 1
    json.dump(
        [MessageToDict(_component(draft), preserving_proto_field_name=True) for draft in source.drafts],
        sys.stdout,
    )
    sys.stdout.write("\n")
    return 0


def _component(draft: Draft) -> component_pb2.Component:
    namespace, kind, name = draft.key
    component = component_pb2.Component(
        namespace=namespace, kind=kind_to_proto(kind), name=name, labels=draft.labels
    )
    spec = getattr(component, kind)
    spec.SetInParent()
    fill(spec, draft.spec.model_dump(exclude_none=True))
    return component
