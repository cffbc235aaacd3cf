"""How versions differ: what is told of two versions is enough to make one from the other."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinue_registry.changes.diff import NOT_SET, Difference, diff
from retinue_registry.convert import ProtoCodec
from retinue_registry.validation import field_text
from tests.unit.registry.full_specs import FULL

KEYS = st.sampled_from(["a", "b", "c", "d.e", ""])
LEAVES = st.none() | st.booleans() | st.integers(-2, 2) | st.floats(-1, 1) | st.text(max_size=2)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
MAPPINGS = st.dictionaries(KEYS, VALUES, max_size=4)


def applied(before: dict[str, Any], differences: list[Difference]) -> dict[str, Any]:
    """What differences make of `before`, in their order."""
    result: Any = copy.deepcopy(before)
    for each in differences:
        if not each.place:
            result = json.loads(each.after_json)
            continue
        holder = result
        for part in each.place[:-1]:
            holder = holder[part]
        last: Any = each.place[-1]
        there = last < len(holder) if isinstance(holder, list) else last in holder
        assert there is (each.before_json != "")
        assert not there or exact(holder[last]) == exact(json.loads(each.before_json))
        if each.after is NOT_SET:
            del holder[last]
        elif isinstance(holder, list) and not there:
            holder.append(json.loads(each.after_json))
        else:
            holder[last] = json.loads(each.after_json)
    assert isinstance(result, dict)
    return result


def exact(value: object) -> str:
    """A text that tells 1 from 1.0 and true, and takes no notice of the order of keys."""
    return json.dumps(value, sort_keys=True)


@settings(deadline=None, max_examples=300)
@given(MAPPINGS, MAPPINGS)
def test_what_differs_applied_to_the_one_gives_the_other(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    found = diff(before, after)
    assert exact(applied(before, found)) == exact(after)
    assert (not found) is (json.dumps(before) == json.dumps(after))


def test_fields_are_named_as_in_files_and_values_are_json() -> None:
    before = {
        "labels": {"team": "a", "old": "x"},
        "generation": {"temperature": 1.0, "stop": ["a", "b", "c"]},
        "mcp_servers": ["time"],
        "ask_user": False,
    }
    after = {
        "labels": {"team": "b"},
        "generation": {"temperature": 0.5, "stop": ["a"]},
        "mcp_servers": ["time", "mäil"],
        "budget": {"max_turns": 1},
        "ask_user": True,
    }
    assert [(field_text(each.place), each.before_json, each.after_json) for each in diff(before, after)] == [
        ("labels.team", '"a"', '"b"'),
        ("labels.old", '"x"', ""),
        ("generation.temperature", "1.0", "0.5"),
        ("generation.stop[2]", '"c"', ""),
        ("generation.stop[1]", '"b"', ""),
        ("mcp_servers[1]", "", '"mäil"'),
        ("budget", "", '{"max_turns": 1}'),
        ("ask_user", "false", "true"),
    ]


def test_a_schema_whose_keys_stand_in_another_order_is_another_one() -> None:
    before: dict[str, Any] = {"output_schema": {"properties": {"a": {}, "b": {}}}}
    after: dict[str, Any] = {"output_schema": {"properties": {"b": {}, "a": {}}}}
    (found,) = diff(before, after)
    assert field_text(found.place) == "output_schema.properties"
    assert found.after_json == '{"b": {}, "a": {}}'


@pytest.mark.parametrize("kind", FULL)
def test_a_stored_spec_has_its_values_as_files_do_and_in_one_order(kind: str) -> None:
    codec = ProtoCodec()
    values = codec.decode(kind, codec.encode(kind, FULL[kind]))
    backwards = codec.decode(kind, codec.encode(kind, dict(reversed(FULL[kind].items()))))
    assert values == FULL[kind]
    assert diff(values, backwards) == []
    many = {"headers": {f"X-{number * 7 % 20:02}": "" for number in range(20)}}
    assert list(codec.decode("llm", codec.encode("llm", many))["headers"]) == sorted(many["headers"])
    for name in values:
        without = {key: value for key, value in values.items() if key != name}
        assert [each.place for each in diff(without, values)] == [(name,)]
