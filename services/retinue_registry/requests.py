"""Reads the requests of the API: what they name, and drafts from the components that they bring."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from retinue.errors import InvalidArgumentError, Violation
from retinue.registry.v1 import component_pb2, service_pb2
from retinue_registry.catalog import Filter
from retinue_registry.changes.changing import Prune
from retinue_registry.changes.first_answers import Asked
from retinue_registry.changes.proposal import Need, Proposal
from retinue_registry.component import DEFAULT_NAMESPACE, ApiSource, Draft, Key, Layer
from retinue_registry.convert import SPECS, kind_from_proto, message_place, unknown_fields, values_of
from retinue_registry.kinds import KINDS
from retinue_registry.models import Spec
from retinue_registry.models.fields import Broken
from retinue_registry.validation import check_labels, check_name, check_spec, field_text

MAX_REQUEST_ID = 128
MAX_NAME = 63
MAX_PATTERN = 256

ChangeRequest: TypeAlias = (
    service_pb2.ApplyComponentsRequest
    | service_pb2.DeleteComponentRequest
    | service_pb2.RollbackComponentRequest
)


def read_namespace(given: str) -> str:
    """The namespace that a request means. Raises InvalidArgumentError."""
    if given and (wrong := check_name(given)):
        raise InvalidArgumentError(f"namespace: {wrong}", violations=[Violation("namespace", wrong)])
    return given or DEFAULT_NAMESPACE


def read_kind(given: component_pb2.ComponentKind.ValueType, *, field: str = "kind") -> str:
    """The kind that a request names, or the empty text. Raises InvalidArgumentError."""
    kind = kind_from_proto(given)
    if kind is None:
        wrong = f"the kind number {given} is not known to this registry"
        raise InvalidArgumentError(f"{field}: {wrong}", violations=[Violation(field, wrong)])
    return kind


def read_key(namespace: str, ref: component_pb2.ComponentRef, *, kind_needed: bool) -> tuple[Key, int]:
    """The key and version that a reference names. Raises InvalidArgumentError."""
    kind = read_kind(ref.kind, field="component.kind")
    violations = []
    if kind_needed and not kind:
        violations.append(Violation("component.kind", "must be set"))
    if not 1 <= len(ref.name) <= MAX_NAME:
        violations.append(Violation("component.name", f"must have 1 to {MAX_NAME} characters"))
    if ref.version < 0:
        violations.append(Violation("component.version", "must be 0 for the current one, or a version"))
    if violations:
        message = "; ".join(f"{field} {text}" for field, text in violations)
        raise InvalidArgumentError(message, violations=violations)
    return Key(read_namespace(namespace), kind, ref.name), ref.version


def read_current_key(namespace: str, ref: component_pb2.ComponentRef) -> Key:
    """The key that a reference names without a version. Raises InvalidArgumentError."""
    key, version = read_key(namespace, ref, kind_needed=True)
    if version:
        raise _invalid_field("component.version", "must be 0: it is about the component, not one version")
    return key


def read_version(namespace: str, ref: component_pb2.ComponentRef) -> tuple[Key, int]:
    """The key and version that a reference names, which must have one. Raises InvalidArgumentError."""
    key, version = read_key(namespace, ref, kind_needed=True)
    if not version:
        raise _invalid_field("component.version", "must be set: ListComponentVersions tells which there are")
    return key, version


def read_asked(request: ChangeRequest) -> Asked:
    """What tells a request from others. Raises InvalidArgumentError."""
    if len(request.request_id) > MAX_REQUEST_ID:
        raise _invalid_field("request_id", f"must have at most {MAX_REQUEST_ID} characters")
    if not isinstance(request, service_pb2.ApplyComponentsRequest):  # read_apply looks at those of an apply
        for broken in unknown_fields(request):
            raise _invalid_field(field_text(broken.place) or "the request", broken.message)
    return Asked(read_namespace(request.namespace), request.request_id, _digest(request))


def read_prune(request: service_pb2.ApplyComponentsRequest) -> Prune | None:
    """What an apply is to delete; None where it is nothing. Raises InvalidArgumentError."""
    if request.prune:
        return Prune(dict(request.prune_labels), request.force)
    for field in ("prune_labels", "force"):
        if getattr(request, field):
            raise _invalid_field(field, "goes with prune, which is not set")
    return None


def _invalid_field(field: str, wrong: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{field} {wrong}", violations=[Violation(field, wrong)])


def read_apply(request: service_pb2.ApplyComponentsRequest) -> Proposal:
    """The set that an apply brings, with what is wrong with each component by itself.

    Raises InvalidArgumentError.
    """
    namespace = read_namespace(request.namespace)
    drafts: list[Draft] = []
    broken = list(unknown_fields(request))
    needs: list[Need] = []
    declared: set[Key] = set()
    for index, component in enumerate(request.components):
        field = f"components[{index}]"
        draft, found = _draft(component, namespace, field)
        broken += [Broken(("components", index, *each.place), each.message) for each in found]
        if draft:
            drafts.append(draft)
        elif key := _key(component, namespace):
            declared.add(key)
            needs += _needs(component, key, f"{field}.{key.kind}")
    violations = [Violation(field_text(each.place), each.message) for each in broken]
    return Proposal(drafts, violations, _facts(broken, request), needs, declared)


def _draft(
    component: component_pb2.Component, namespace: str, field: str
) -> tuple[Draft | None, list[Broken]]:
    broken: list[Broken] = []
    kind = component.WhichOneof("spec")
    said = kind_from_proto(component.kind)
    if kind not in SPECS:
        kind = None
        broken.append(Broken((), f"has no spec: set one of {', '.join(SPECS)}"))
    elif said not in {"", kind}:
        broken.append(Broken(("kind",), f"does not fit the spec, which is that of the kind {kind}"))
    if wrong := check_name(component.name):
        broken.append(Broken(("name",), wrong))
    if component.namespace and (wrong := check_name(component.namespace)):
        broken.append(Broken(("namespace",), wrong))
    labels, broken_labels = check_labels(dict(component.labels))
    broken += broken_labels
    spec: Spec | None = None
    if kind:
        message = getattr(component, kind)
        spec, found = check_spec(kind, values_of(message))
        found += spec.without_folder() if spec else ()
        broken += [
            Broken((kind, *message_place(message.DESCRIPTOR, each.place)), each.message) for each in found
        ]
    if broken or spec is None or kind is None:
        return None, broken
    key = Key(component.namespace or namespace, kind, component.name)
    return Draft(key, labels, spec, ApiSource(), f"{field}.{kind}", component.etag), []


def _key(component: component_pb2.Component, namespace: str) -> Key | None:
    """What a wrong component would be, where that can be read."""
    kind = component.WhichOneof("spec")
    namespace = component.namespace or namespace
    if kind is None or kind not in SPECS or check_name(component.name) or check_name(namespace):
        return None
    return Key(namespace, kind, component.name)


def _needs(component: component_pb2.Component, key: Key, field: str) -> Iterator[Need]:
    for place, kind, name in KINDS[key.kind].references(values_of(getattr(component, key.kind))):
        yield Need(f"{field}.{field_text(place)}", Key(key.namespace, kind, name))


def _facts(broken: Sequence[Broken], request: service_pb2.ApplyComponentsRequest) -> dict[str, Any]:
    """Kind and name of the first component that is wrong."""
    place = broken[0].place if broken else ()
    index = place[1] if len(place) > 1 else None
    if not isinstance(index, int):
        return {}
    component = request.components[index]
    return {"kind": component.WhichOneof("spec") or None, "name": component.name[:MAX_REQUEST_ID]}


_SOURCES: Mapping[int, type[ApiSource] | Layer | None] = {
    service_pb2.SOURCE_TYPE_UNSPECIFIED: None,
    service_pb2.SOURCE_TYPE_API: ApiSource,
    service_pb2.SOURCE_TYPE_PROJECT: Layer.PROJECT,
    service_pb2.SOURCE_TYPE_WORKSPACE: Layer.WORKSPACE,
    service_pb2.SOURCE_TYPE_USER: Layer.USER,
    service_pb2.SOURCE_TYPE_PACKAGE: Layer.PACKAGE,
}


def read_filter(request: service_pb2.ListComponentsRequest) -> Filter:
    """Which components a list asks for. Raises InvalidArgumentError."""
    violations = []
    if request.source not in _SOURCES:
        wrong = f"the source number {request.source} is not known to this registry"
        violations.append(Violation("source", wrong))
    if len(request.name_pattern) > MAX_PATTERN:
        violations.append(Violation("name_pattern", f"must have at most {MAX_PATTERN} characters"))
    if violations:
        message = "; ".join(f"{field}: {text}" for field, text in violations)
        raise InvalidArgumentError(message, violations=violations)
    kind = read_kind(request.kind)
    return Filter(kind, dict(request.labels), request.name_pattern, _SOURCES[request.source])


def read_llm(given: str) -> str:
    """The name of the llm that a resolve asks for. Raises InvalidArgumentError."""
    if len(given) > MAX_NAME:
        raise _invalid_field("llm", f"must have at most {MAX_NAME} characters")
    return given


def _digest(request: ChangeRequest) -> bytes:
    same = type(request)()
    same.CopyFrom(request)  # type: ignore[arg-type] # of the same type
    same.ClearField("request_id")
    name = request.DESCRIPTOR.full_name.encode()
    return hashlib.sha256(name + b"\0" + same.SerializeToString(deterministic=True)).digest()
