"""Between the protos and the registry's own types.

Specs are converted by their descriptors, so that a new field needs no code here. A text field `X_json` of the
protos is `X` in files, and holds a mapping there.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.unknown_fields import UnknownFieldSet

from retinue.registry.v1 import component_pb2, service_pb2
from retinue_registry.component import Change, Draft, FileSource, Layer, Problem, Source, Version
from retinue_registry.models.fields import Broken
from retinue_registry.models.json_value import read_json_text, write_json_text

SPECS: Mapping[str, type[Message]] = {
    field.name: GetMessageClass(field.message_type)
    for field in component_pb2.Component.DESCRIPTOR.oneofs_by_name["spec"].fields
    if field.message_type is not None
}
"""The message of each kind, as the cases of Component.spec."""

_LAYERS: Mapping[Layer, component_pb2.FileLayer.ValueType] = {
    Layer.PROJECT: component_pb2.FILE_LAYER_PROJECT,
    Layer.WORKSPACE: component_pb2.FILE_LAYER_WORKSPACE,
    Layer.USER: component_pb2.FILE_LAYER_USER,
    Layer.PACKAGE: component_pb2.FILE_LAYER_PACKAGE,
}

_JSON = "_json"
_KEPT_ANSWERS = 16_384
_PREFIX = "COMPONENT_KIND_"

Put = Callable[[Message, Any], None]
Take = Callable[[Any], Any]


def kind_to_proto(kind: str) -> component_pb2.ComponentKind.ValueType:
    """The number of a kind."""
    return component_pb2.ComponentKind.Value(_PREFIX + kind.upper())


def kind_from_proto(kind: component_pb2.ComponentKind.ValueType) -> str | None:
    """The kind of a number; empty for unspecified, None for one that this registry does not know."""
    if kind == component_pb2.COMPONENT_KIND_UNSPECIFIED:
        return ""
    return _KINDS.get(kind)


_KINDS = {int(kind_to_proto(kind)): kind for kind in SPECS}


class ProtoCodec:
    """Stores a spec as its serialized message."""

    def encode(self, kind: str, values: Mapping[str, Any]) -> bytes:
        """The bytes of a spec's values; equal values give equal bytes."""
        message = SPECS[kind]()
        fill(message, values)
        return message.SerializeToString(deterministic=True)

    def decode(self, kind: str, data: bytes) -> dict[str, Any]:
        """The values of a spec's bytes."""
        return values_of(SPECS[kind].FromString(data))


def enum_words(enum: EnumDescriptor) -> dict[int, str]:
    """How the numbers of an enum are written in files: `LLM_TRANSPORT_DIRECT` is `direct`."""
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return {value.number: value.name.removeprefix(prefix).lower() for value in enum.values}


def is_map(field: Any) -> bool:
    """Whether a field is a map."""
    return bool(field.message_type is not None and field.message_type.GetOptions().map_entry)


def holds_json(field: Any) -> bool:
    """Whether a field is a text that holds JSON."""
    return bool(field.type == field.TYPE_STRING and not field.is_repeated and field.name.endswith(_JSON))


def key_of(field: Any) -> str:
    """How a field is called in files."""
    name: str = field.name
    return name.removesuffix(_JSON) if holds_json(field) else name


def message_place(descriptor: Any, place: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """A place in a spec's values, named by the fields of its message."""
    if not place:
        return place
    field = next((field for field in descriptor.fields if key_of(field) == place[0]), None)
    if field is None:
        return place
    part = field.message_type
    if part is None or is_map(field):
        return (field.name, *place[1:])
    index = place[1:2] if field.is_repeated else ()
    return (field.name, *index, *message_place(part, place[1 + len(index) :]))


def fill(message: Message, values: Mapping[str, Any]) -> None:
    """Set the fields of a message from values that keep the rules of its model."""
    puts = _puts(message.DESCRIPTOR)
    for name, value in values.items():
        puts[name](message, value)


def values_of(message: Message) -> dict[str, Any]:
    """The fields of a message that are set, as a file would write them."""
    takes = _takes(message.DESCRIPTOR)
    return {key_of(field): takes[field.name](value) for field, value in message.ListFields()}


@functools.cache
def _puts(descriptor: Any) -> Mapping[str, Put]:
    return {key_of(field): _put(field) for field in descriptor.fields}


@functools.cache
def _takes(descriptor: Any) -> Mapping[str, Take]:
    return {field.name: _take(field) for field in descriptor.fields}


def _put(field: Any) -> Put:
    name = field.name
    if is_map(field):
        return lambda message, value: getattr(message, name).update(value)
    if not field.is_repeated:
        return _put_one(field)
    if field.message_type is None:
        return lambda message, value: getattr(message, name).extend(value)

    def put_each(message: Message, value: Any) -> None:
        for each in value:
            fill(getattr(message, name).add(), each)

    return put_each


def _put_one(field: Any) -> Put:
    name = field.name
    if holds_json(field):
        return lambda message, value: setattr(message, name, write_json_text(value))
    if _is_duration(field):
        return lambda message, value: getattr(message, name).FromJsonString(value)
    if field.message_type is not None:

        def put(message: Message, value: Any) -> None:
            part = getattr(message, name)
            part.SetInParent()
            fill(part, value)

        return put
    if field.enum_type is not None:
        numbers = {word: number for number, word in enum_words(field.enum_type).items()}
        return lambda message, value: setattr(message, name, numbers[value])
    return lambda message, value: setattr(message, name, value)


def _take(field: Any) -> Take:
    if is_map(field):
        return lambda entries: dict(sorted(entries.items()))  # the message has them in no order
    if not field.is_repeated:
        return _take_one(field)
    if field.message_type is None:
        return list
    return lambda parts: [values_of(part) for part in parts]


def _take_one(field: Any) -> Take:
    if holds_json(field):
        return read_json_text
    if _is_duration(field):
        return _duration_text
    if field.message_type is not None:
        return values_of
    if field.enum_type is not None:
        words = enum_words(field.enum_type)
        return lambda number: words.get(number, str(number))
    return lambda value: value


def _is_duration(field: Any) -> bool:
    part = field.message_type
    return bool(part is not None and part.full_name == Duration.DESCRIPTOR.full_name)


def _duration_text(span: Duration) -> str:
    nanos = span.seconds * 1_000_000_000 + span.nanos
    if nanos < 0:
        return f"{nanos}ns"  # no span that a file could write: the model refuses it
    whole, fraction = divmod(nanos, 1_000_000_000)
    return f"{whole}.{fraction:09}".rstrip("0").rstrip(".") + "s"


def unknown_fields(message: Message, place: tuple[str | int, ...] = ()) -> Iterator[Broken]:
    """Yield the fields that a newer caller has set and this registry does not know."""
    unknown: Any
    for unknown in UnknownFieldSet(message):  # type: ignore[attr-defined] # the stubs lack __iter__
        yield Broken(place, f"has the field number {unknown.field_number}, which this registry does not know")
    for field, value in message.ListFields():
        if field.message_type is None or is_map(field):
            continue
        for index, each in enumerate(value if field.is_repeated else (value,)):
            below = (field.name, index) if field.is_repeated else (field.name,)
            yield from unknown_fields(each, (*place, *below))


class Answers:
    """Components as they are sent, each built once and kept; what is taken from here must not be changed."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, object], component_pb2.Component] = {}

    def component(self, version: Version) -> component_pb2.Component:
        """The Component of a version."""
        place = (version.revision, version.source)
        found = self._kept.get(place)
        if found is None:
            found = component_to_proto(version)
            if len(self._kept) >= _KEPT_ANSWERS:
                self._kept.pop(next(iter(self._kept)))
            self._kept[place] = found
        return found

    def change(self, change: Change) -> service_pb2.ComponentChange:
        """The ComponentChange of a change."""
        if not change.after.deleted:
            return service_pb2.ComponentChange(
                type=service_pb2.CHANGE_TYPE_STORED,
                component=self.component(change.after),
                revision=change.revision,
            )
        return service_pb2.ComponentChange(
            type=service_pb2.CHANGE_TYPE_DELETED,
            component=self.component(change.before or change.after),
            revision=change.revision,
        )


def component_to_proto(version: Version) -> component_pb2.Component:
    """The Component of a version, to be changed by whoever asks for it."""
    namespace, kind, name = version.key
    result = component_pb2.Component(
        namespace=namespace,
        kind=kind_to_proto(kind),
        name=name,
        labels=version.labels,
        version=version.version,
        etag=version.etag,
        revision=version.revision,
        create_time=_timestamp(version.create_time_us),
        update_time=_timestamp(version.update_time_us),
    )
    result.source.CopyFrom(source_to_proto(version.source))
    spec = getattr(result, kind)
    spec.SetInParent()
    spec.MergeFromString(version.spec)
    return result


def source_to_proto(source: Source) -> component_pb2.ComponentSource:
    """The ComponentSource of a source."""
    if not isinstance(source, FileSource):
        return component_pb2.ComponentSource(api=component_pb2.ApiSource())
    return component_pb2.ComponentSource(
        file=component_pb2.FileSource(
            path=source.path,
            line=source.line,
            layer=_LAYERS[source.layer],
            distribution=source.distribution,
        )
    )


def draft_to_proto(draft: Draft) -> component_pb2.Component:
    """The Component that a draft would be, without what only storing it tells."""
    namespace, kind, name = draft.key
    component = component_pb2.Component(
        namespace=namespace,
        kind=kind_to_proto(kind),
        name=name,
        labels=draft.labels,
        source=source_to_proto(draft.source),
    )
    spec = getattr(component, kind)
    spec.SetInParent()
    fill(spec, draft.spec.model_dump(exclude_none=True))
    return component


def shadowed_to_proto(draft: Draft, shadowed_by: Source) -> service_pb2.ShadowedComponent:
    """The ShadowedComponent of what a file gives."""
    return service_pb2.ShadowedComponent(
        component=draft_to_proto(draft), shadowed_by=source_to_proto(shadowed_by)
    )


def _timestamp(time_us: int) -> Timestamp:
    return Timestamp(seconds=time_us // 1_000_000, nanos=time_us % 1_000_000 * 1000)


def problem_to_proto(problem: Problem) -> service_pb2.Problem:
    """The Problem of a problem."""
    return service_pb2.Problem(
        path=problem.path,
        line=problem.line,
        field=problem.field,
        message=problem.message,
        layer=_LAYERS[problem.layer],
        distribution=problem.distribution,
    )
