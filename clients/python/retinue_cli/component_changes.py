"""What becomes of components, as people read it: one line each, or with each field that is another."""

import difflib
import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from retinue_cli.kinds import ref
from retinue_cli.output import Output

if TYPE_CHECKING:
    from retinue.registry.v1 import component_pb2, service_pb2

CREATED, UPDATED, UNCHANGED, DELETED = 1, 2, 3, 4
"""ApplyOutcome, without importing the stubs; a test holds them to the proto."""

_OUTCOMES = {
    CREATED: ("created", "green"),
    UPDATED: ("updated", "green"),
    UNCHANGED: ("unchanged", "dim"),
    DELETED: ("deleted", "yellow"),
}
_SIGNS = {CREATED: ("+ ", "green"), UPDATED: ("~ ", "yellow"), DELETED: ("- ", "red")}
_STYLES = {"+": "green", "-": "red"}
_INDENT = 4

Change = tuple[str, str, str]
"""A field, what it was and what it is, as JSON; empty where it is not set."""


def show_outcome(output: Output, component: "component_pb2.Component", outcome: int) -> None:
    """A line: `agent/assistant updated v3`."""
    word, style = _OUTCOMES.get(outcome, ("?", ""))
    output.parts((ref(component), "bold"), (f" {word}", style), (f" v{component.version}", "dim"))


def show_plan(output: Output, applied: "Iterable[service_pb2.AppliedComponent]") -> None:
    """What would change, each component with its fields, and how many there are of each sort."""
    counts = dict.fromkeys(_SIGNS, 0)
    for each in applied:
        if each.outcome not in counts:
            continue
        counts[each.outcome] += 1
        sign, style = _SIGNS[each.outcome]
        output.parts((sign, style), (ref(each.component), "bold"))
        show_changes(output, _fields(each))
    words = ("to create", "to update", "to delete")
    said = [f"{count} {word}" for count, word in zip(counts.values(), words, strict=True) if count]
    output.line(", ".join(said) or "Nothing would change.", style="dim")


def show_changes(output: Output, changes: Iterable[Change]) -> None:
    """The lines that are gone and those that are new; of a text of many lines those around them as well."""
    for path, before, after in changes:
        for sign, text in _lines(path, before, after):
            output.parts((f"{sign} ", _STYLES.get(sign, "")), (text, _STYLES.get(sign, "")), indent=_INDENT)


def changes_from(changes: "Iterable[service_pb2.FieldChange]") -> list[Change]:
    """The changes that the registry tells."""
    return [(each.path, each.before_json, each.after_json) for each in changes]


def show_broken(output: Output, broken: "Iterable[service_pb2.BrokenReference]") -> None:
    """What lacks something now."""
    for each in broken:
        said = f"{ref(each.component)} needs {ref(each.missing)}, which is gone"
        output.parts(("! ", "yellow"), (said, ""), (f" ({each.field})", "dim"))


def _fields(applied: "service_pb2.AppliedComponent") -> list[Change]:
    if applied.outcome == UPDATED:
        return changes_from(applied.changes)
    from retinue_cli.file_form import component_form

    texts = {
        name: json.dumps(value, ensure_ascii=False)
        for name, value in component_form(applied.component).items()
    }
    if applied.outcome == CREATED:
        return [(name, "", text) for name, text in texts.items()]
    return [(name, text, "") for name, text in texts.items()]


def _lines(path: str, before: str, after: str) -> Iterator[tuple[str, str]]:
    was, now = _text(before), _text(after)
    if "\n" in was + now:
        yield " ", f"{path}:"
        # The names of the files come first, then where the first piece begins.
        lines = list(difflib.unified_diff(was.splitlines(), now.splitlines(), n=2, lineterm=""))[3:]
        for line in lines:
            yield (" ", "  …") if line[0] == "@" else (line[0], f"  {line[1:]}")
        return
    if before:
        yield "-", f"{path}: {before}"
    if after:
        yield "+", f"{path}: {after}"


def _text(value_json: str) -> str:
    """What a JSON text says, where that is a text."""
    value = json.loads(value_json) if value_json.startswith('"') else ""
    return value if isinstance(value, str) else ""
