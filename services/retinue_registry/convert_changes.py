"""Between the registry's changes and the protos: what became of components, and how versions differ."""

from collections.abc import Iterable

from retinue.registry.v1 import component_pb2, service_pb2
from retinue_registry.changes.diff import diff
from retinue_registry.changes.plan import Outcome, Step
from retinue_registry.changes.removing import Lack
from retinue_registry.component import Key, Version
from retinue_registry.convert import SPECS, Answers, component_to_proto, kind_to_proto, values_of
from retinue_registry.validation import LABELS, field_text

_OUTCOMES = {
    Outcome.CREATED: service_pb2.APPLY_OUTCOME_CREATED,
    Outcome.UPDATED: service_pb2.APPLY_OUTCOME_UPDATED,
    Outcome.UNCHANGED: service_pb2.APPLY_OUTCOME_UNCHANGED,
    Outcome.DELETED: service_pb2.APPLY_OUTCOME_DELETED,
}


def changes_between(before: Version, after: Version) -> list[service_pb2.FieldChange]:
    """How labels and spec differ, by fields and values as files have them."""
    return [
        service_pb2.FieldChange(
            path=field_text(each.place), before_json=each.before_json, after_json=each.after_json
        )
        for each in diff(_values(before), _values(after))
    ]


def _values(version: Version) -> dict[str, object]:
    spec = values_of(SPECS[version.key.kind].FromString(version.spec))
    return {LABELS: dict(sorted(version.labels.items())), **spec}


def changes_of(steps: Iterable[Step]) -> list[list[service_pb2.FieldChange]]:
    """For each step how the component differs from what it was. Of many large ones it takes a while."""
    return [changes_between(step.before, step.version) if step.before else [] for step in steps]


def applied_to_proto(
    step: Step, changes: Iterable[service_pb2.FieldChange], answers: Answers, *, dry_run: bool = False
) -> service_pb2.AppliedComponent:
    """The AppliedComponent of a step."""
    component = _planned(step) if dry_run and step.version_is_new else answers.component(step.version)
    return service_pb2.AppliedComponent(component=component, outcome=_OUTCOMES[step.outcome], changes=changes)


def _planned(step: Step) -> component_pb2.Component:
    """The Component of a step without what only storing it would tell."""
    component = component_to_proto(step.version)
    for name in ("version", "etag", "revision", "update_time"):
        component.ClearField(name)
    if step.outcome is Outcome.CREATED:
        component.ClearField("create_time")
    return component


def lack_to_proto(lack: Lack) -> service_pb2.BrokenReference:
    """The BrokenReference of a lack."""
    return service_pb2.BrokenReference(
        component=_ref(lack.holder), field=lack.field, missing=_ref(lack.missing)
    )


def _ref(key: Key) -> component_pb2.ComponentRef:
    return component_pb2.ComponentRef(kind=kind_to_proto(key.kind), name=key.name)
