"""JSON inside specs: a mapping in files and text in the protos; and what a JSON Schema there must keep to."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinue.registry.v1 import agent_pb2
from retinue_registry.convert import ProtoCodec, message_place, values_of
from retinue_registry.models.json_value import MAX_JSON_BYTES, MAX_JSON_DEPTH
from retinue_registry.validation import check_spec, field_text

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0$"), max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def faults(schema: Any) -> list[tuple[str, str]]:
    """What is wrong with an agent that has this output_schema: fields and messages."""
    _, broken = check_spec("agent", {"llm": "a", "output_schema": schema})
    return [(field_text(each.place), each.message) for each in broken]


def sent(text: str) -> list[tuple[str, str]]:
    """The same for one that came by API with this text."""
    message = agent_pb2.AgentSpec(llm="a", output_schema_json=text)
    _, broken = check_spec("agent", values_of(message))
    return [(field_text(message_place(message.DESCRIPTOR, each.place)), each.message) for each in broken]


@settings(deadline=None)
@given(VALUES)
def test_json_comes_back_as_it_was_written_with_its_keys_in_order(value: Any) -> None:
    schema = {"examples": [value], "default": {"b": 1, "a": value}}
    spec, broken = check_spec("agent", {"llm": "a", "output_schema": schema})
    assert not broken
    assert spec is not None
    codec = ProtoCodec()
    data = codec.encode("agent", spec.model_dump(exclude_none=True))
    assert json.loads(agent_pb2.AgentSpec.FromString(data).output_schema_json) == schema
    found = codec.decode("agent", data)["output_schema"]
    assert json.dumps(found) == json.dumps(schema)


def test_spaces_in_json_make_no_other_version() -> None:
    codec = ProtoCodec()
    texts = ['{"type":"object"}', ' {\n "type" : "object" } ']
    stored = set()
    for text in texts:
        spec, _ = check_spec("agent", values_of(agent_pb2.AgentSpec(llm="a", output_schema_json=text)))
        assert spec is not None
        stored.add(codec.encode("agent", spec.model_dump(exclude_none=True)))
    assert len(stored) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON: Expecting property name"),
        ("[1]", "must be a mapping"),
        ('"x"', "must be a mapping"),
        ('{"a": 1, "a": 2}', "the key 'a' stands in one object twice"),
        ('{"default": NaN}', "NaN is no number"),
        ('{"default": ' + "9" * 5000 + "}", "limit"),
        ("[" * 100_000, "at most 64 KiB"),
        ("[" * 60_000, "nested deeper"),
        ('{"default": "' + "x" * MAX_JSON_BYTES + '"}', "at most 64 KiB"),
    ],
)
def test_text_that_is_no_json_is_refused_by_the_name_of_the_proto_s_field(text: str, said: str) -> None:
    ((field, message),) = sent(text)
    assert field == "output_schema_json"
    assert said in message


def test_a_place_inside_json_that_came_by_api_is_named() -> None:
    ((field, message),) = sent('{"properties": {"age": {"type": "integr"}}}')
    assert field == "output_schema_json.properties.age.type"
    assert "did you mean integer?" in message
    assert sent('{"default": 1e999}') == [("output_schema_json.default", "must be a finite number")]
    ((field, message),) = sent('{"default": "\\ud800"}')
    assert "surrogate" in message


def test_places_in_lists_of_messages_are_named_by_the_proto_s_fields() -> None:
    place = ("tool_policies", 1, "server")
    assert message_place(agent_pb2.AgentSpec.DESCRIPTOR, place) == place
    assert message_place(agent_pb2.AgentSpec.DESCRIPTOR, ("variables", "x")) == ("variables", "x")


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {"type": "null"}
    for _ in range(levels - 1):
        value = {"not": value}
    return value


@pytest.mark.parametrize(
    ("schema", "field", "said"),
    [
        ("x", "", "must be a mapping"),
        (True, "", "must be a mapping"),
        ({"type": "strng"}, ".type", "did you mean string?"),
        ({"properties": []}, ".properties", "breaks a rule of JSON Schema: [] is not of type 'object'"),
        ({"anyOf": [{}, {"minimum": "1"}]}, ".anyOf[1].minimum", "is not of type 'number'"),
        ({"pattern": "("}, ".pattern", "is not a 'regex'"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, ".$schema", "2020-12"),
        ({"properties": {"a": {"$id": "b"}}}, ".properties.a.$id", "only allowed at the top"),
        ({"$ref": "https://example.com/x"}, ".$ref", "leads out of the schema"),
        ({"allOf": [{"$dynamicRef": "other#x"}]}, ".allOf[0].$dynamicRef", "leads out of the schema"),
        ({"items": {"$ref": "#/$defs/no"}}, ".items.$ref", "leads to no schema in here"),
        ({"items": {"$ref": "#no"}}, ".items.$ref", "leads to no schema in here"),
        ({"const": {"type": 3}, "items": {"$ref": "#/const"}}, ".items.$ref", "leads to no schema in here"),
        ({"$ref": "#"}, "", "there is no end to it"),
        ({"description": "${env:KEY}"}, ".description", "only allowed in secret fields"),
        ({"properties": {"${env:KEY}": {}}}, ".properties.${env:KEY}", "only allowed in secret fields"),
        ({"default": float("inf")}, ".default", "must be a finite number"),
        ({"default": "\ud800"}, "", "half of a surrogate pair"),
        ({"default": "x" * MAX_JSON_BYTES}, "", "at most 64 KiB as JSON"),
        (nested(MAX_JSON_DEPTH + 1), ".not" * MAX_JSON_DEPTH, "nested deeper than 28 levels"),
    ],
)
def test_a_schema_that_cannot_serve_is_refused_at_its_place(schema: Any, field: str, said: str) -> None:
    ((found, message),) = faults(schema)
    assert found == f"output_schema{field}"
    assert said in message


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://example.com/answer"},
        {"properties": {"next": {"$ref": "#"}}},
        {"items": {"$ref": "#/$defs/a~1b%20c"}, "$defs": {"a/b c": {"type": ["string", "null"]}}},
        {"prefixItems": [True, {"$ref": "#there"}], "$defs": {"x": {"$anchor": "there"}}},
        {"properties": {"$ref": {"type": "string"}}, "const": {"$ref": "no reference here"}},
        {"allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}], "$defs": {"a": {"minimum": 1}}},
        nested(MAX_JSON_DEPTH),
    ],
)
def test_a_schema_that_is_whole_in_itself_is_taken(schema: dict[str, Any]) -> None:
    assert faults(schema) == []


def test_a_schema_that_leads_round_and_round_over_others_is_refused() -> None:
    schema = {
        "properties": {"x": {"$ref": "#/$defs/a"}},
        "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/b"}]}, "b": {"if": {"$ref": "#/$defs/a"}}},
    }
    ((field, message),) = faults(schema)
    assert field.startswith("output_schema.$defs.")
    assert "there is no end to it" in message


def test_all_that_is_wrong_with_a_schema_comes_at_once() -> None:
    found = faults({"type": "strng", "required": "a", "properties": {"b": {"minLength": -1}}})
    assert sorted(field for field, _ in found) == [
        "output_schema.properties.b.minLength",
        "output_schema.required",
        "output_schema.type",
    ]
