"""Components as files: the registry reads from what is written just what was there."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinue.registry.v1 import component_pb2
from retinue_cli.file_form import component_form, file_form, to_yaml
from retinue_registry.convert import SPECS, fill
from retinue_registry.files.yaml_tree import read_yaml
from tests.unit.registry.full_specs import FULL, HTTP, SSE

# What YAML might take for something else, beside any text.
TEXTS = (
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
    | st.from_regex(r"[-+.0-9eExoa-f_:~ \n#&*!|>'\"%@`{}\[\],?]{1,8}", fullmatch=True)
    | st.sampled_from(
        ["null", "Yes", "OFF", "=", "1e5", "08", "0x1f", "1:30", "2020-01-01", "\n", " \n a", "a \nb"]
    )
)
KEYS = TEXTS.filter(lambda text: text != "<<")
VALUES = st.recursive(
    TEXTS | st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


def component(kind: str, values: dict[str, Any], **more: Any) -> component_pb2.Component:
    """A component with a spec of these values."""
    result = component_pb2.Component(name="x", **more)
    spec = getattr(result, kind)
    spec.SetInParent()
    fill(spec, values)
    assert isinstance(spec, SPECS[kind])
    return result


@settings(deadline=None, max_examples=300)
@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=3))
def test_what_is_written_is_read_again(values: dict[str, Any]) -> None:
    tree = read_yaml(to_yaml(values))
    assert not tree.faults
    assert json.dumps(tree.data) == json.dumps(values)


@pytest.mark.parametrize(
    ("kind", "values"), [*FULL.items(), ("mcp_server", HTTP), ("mcp_server", SSE), ("agent", {"llm": "fast"})]
)
def test_every_field_is_written_as_files_have_it(kind: str, values: dict[str, Any]) -> None:
    assert component_form(component(kind, values)) == values


def test_components_stand_below_their_kind_with_their_labels_and_namespace() -> None:
    found = [
        component("agent", {"llm": "fast"}, namespace="lab", labels={"b": "2", "a": "1"}),
        component("llm", {"model": "m", "timeout": "90s"}, namespace="lab"),
    ]
    assert to_yaml(file_form(found)) == (
        "namespace: lab\n"
        "agents:\n  x:\n    labels:\n      a: '1'\n      b: '2'\n    llm: fast\n"
        "llms:\n  x:\n    model: m\n    timeout: 90s\n"
    )
