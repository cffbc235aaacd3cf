"""An answer is held against a schema, strictly, within bounds, and with a complaint that a model can use."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.errors import InvalidArgumentError
from retinue_engine.agent import json_schema
from retinue_engine.agent.output import MAX_ERRORS, OutputSchema

FORECAST = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "city": {"type": "string", "pattern": "^[A-Z]"},
        "days": {"type": "integer", "maximum": 5},
        "sky": {"enum": ["clear", "cloudy"]},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}


def compiled(schema: Any) -> OutputSchema:
    return OutputSchema(json.dumps(schema))


def fits(schema: Any, value: Any) -> bool:
    return bool(compiled(schema).check(json.dumps(value)).structured_json)


def complaint(schema: Any, text: str) -> str:
    checked = compiled(schema).check(text)
    assert checked.structured_json == ""
    assert checked.complaint
    return checked.complaint


def faults(schema_json: str) -> list[str]:
    with pytest.raises(InvalidArgumentError) as caught:
        OutputSchema(schema_json, "agents.a.output_schema_json")
    assert {each.field for each in caught.value.violations} == {"agents.a.output_schema_json"}
    return [each.description for each in caught.value.violations]


@pytest.mark.parametrize(
    "text",
    [
        '{"city": "Köln", "days": 3}',
        '\n {"city":"Köln","days":3}\t\n',
        '```json\n{"city": "Köln", "days": 3}\n```',
        ' ```JSON {"city": "K\\u00f6ln", "days": 3}```\n',
        '```\n{"city": "Köln", "days": 3}\n```',
    ],
)
def test_an_answer_that_fits_becomes_compact_json(text: str) -> None:
    assert compiled(FORECAST).check(text) == ('{"city":"Köln","days":3}', "")


@pytest.mark.parametrize("number", ["9007199254740993", "123456789012345678901234567890", "-0", "1.5", "1.0"])
def test_numbers_stay_what_they_are(number: str) -> None:
    assert compiled({}).check(number).structured_json == number.replace("-0", "0")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Here it is: {}",
        "{} done",
        "```json\n{}\n```\n```json\n{}\n```",
        "```",
        "```json",
        "{'a': 1}",
        '{"a": 1,}',
        "NaN",
        '{"a": -Infinity}',
        "1e999",
        "9" * 5000,
        "[" * 65 + "]" * 65 + "1",
        "[" * 100_000,
        "[" * 66 + "]" * 66,
    ],
)
def test_what_is_not_strict_json_is_complained_about(text: str) -> None:
    assert complaint({}, text).startswith("Your answer is not valid JSON: ")


def test_a_complaint_lists_place_fault_and_expectation_of_each_error() -> None:
    said = complaint(FORECAST, '{"city": "bonn", "days": "three", "sky": "blue", "wind": 1}')
    assert said.splitlines() == [
        "Your answer does not fit the JSON Schema:",
        '- $.city: found "bonn", expected {"pattern":"^[A-Z]"}',
        '- $.days: found "three", expected {"type":"integer"}',
        '- $.sky: found "blue", expected {"enum":["clear","cloudy"]}',
        "- $: unknown keys 'wind' (known: 'city', 'days', 'sky'), expected {\"additionalProperties\":false}",
        "Answer again with the corrected JSON alone: no words before or after it.",
    ]
    assert "$: 'city' is a required property" in complaint(FORECAST, "{}")


def test_of_many_errors_the_first_are_told_and_large_values_are_cut() -> None:
    said = complaint({"items": {"type": "integer"}}, json.dumps(["x" * 10_000] * 50))
    assert said.count("\n- $[") == MAX_ERRORS
    assert "\n- and more\n" in said
    assert len(said) < 1000 * MAX_ERRORS
    assert "and more" not in complaint({"items": {"type": "integer"}}, json.dumps(["x"] * MAX_ERRORS))


def test_where_no_alternative_fits_the_nearest_is_told() -> None:
    dog = {"properties": {"kind": {"const": "dog"}, "age": {"type": "integer"}}, "required": ["kind"]}
    said = complaint({"anyOf": [{"type": "string"}, {"type": "object", **dog}]}, '{"kind": "cat"}')
    assert '; nearest: $.kind: found "cat", expected {"const":"dog"}' in said


def test_where_nothing_is_allowed_the_complaint_says_so() -> None:
    assert "found 1, expected nothing" in complaint({"properties": {"a": False}}, '{"a": 1}')


def test_halves_of_surrogate_pairs_never_come_out() -> None:
    assert compiled({}).check('{"a\\ud83d": "\\ud83d\\ude00"}').structured_json == '{"a\ufffd":"😀"}'
    complaint({"type": "integer"}, '"\\ud83d"').encode()


def test_the_instruction_holds_the_schema_and_demands_json_alone() -> None:
    said = compiled(FORECAST).instruction
    assert "nothing else" in said
    assert json.loads(said[said.index("{") :]) == FORECAST
    assert compiled(FORECAST).schema == FORECAST


@pytest.mark.parametrize(
    ("schema_json", "fault"),
    [
        ("{", "not JSON"),
        ('{"maximum": NaN}', "not JSON: NaN"),
        ("[]", "$: a schema is a JSON object"),
        ("true", "$: a schema is a JSON object"),
        ('{"properties": {"a": {"type": "strin"}}}', "$.properties.a.type: 'strin' is not valid"),
        ('{"items": [{}]}', "$.items: [{}] is not of type 'object', 'boolean'"),
        ('{"properties": {"a": {"pattern": "("}}}', "$.properties.a.pattern: '(' is not a 'regex' (error"),
        ('{"patternProperties": {"(?=a)": {}}}', "look-ahead"),
        ('{"pattern": "((a?){3000}){3000}"}', "exceeds size limit"),
        (
            '{"$schema": "http://json-schema.org/draft-07/schema#"}',
            "$schema: only https://json-schema.org/draft/2020",
        ),
        ('{"$ref": "http://127.0.0.1:9/schema"}', "http://127.0.0.1:9/schema: there is no such place"),
        ('{"$ref": "https://json-schema.org/draft/2020-12/schema"}', "nothing is fetched"),
        ('{"items": {"anyOf": [{"$ref": "#/$defs/a"}]}}', "#/$defs/a: there is no such place"),
        ('{"$dynamicRef": "#a"}', "#a: there is no such place"),
        ('{"$ref": "http://["}', "http://[: there is no such place"),
        ('{"examples": [{"type": 7}], "$ref": "#/examples/0"}', "#/examples/0: what stands there is no"),
        ('{"$ref": "#"}', "refers to itself without end"),
        ('{"allOf": [{"anyOf": [{"$ref": "#"}]}]}', "refers to itself without end"),
        ('{"not": ' * 100 + "{}" + "}" * 100, "nested deeper than 64"),
        (
            '{"unevaluatedProperties": false, "allOf": [{"patternProperties": {"a": {}}}]}',
            "unevaluatedProperties does not go with patternProperties",
        ),
        ('{"title": "' + "ü" * 40_000 + '"}', "more than 65536 bytes"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused(schema_json: str, fault: str) -> None:
    assert fault in faults(schema_json)[0]


def test_several_faults_of_a_schema_are_told_at_once() -> None:
    assert len(faults('{"type": "strin", "maximum": "x", "required": [1]}')) == 3


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"n": {"type": "integer"}}, "properties": {"a": {"$ref": "#/$defs/n"}}},
        {"definitions": {"n": {"type": "integer"}}, "properties": {"a": {"$ref": "#/definitions/n"}}},
        {"$defs": {"n": {"$anchor": "n", "type": "integer"}}, "properties": {"a": {"$ref": "#n"}}},
        {
            "$defs": {"n": {"$dynamicAnchor": "n", "type": "integer"}},
            "properties": {"a": {"$dynamicRef": "#n"}},
        },
        {
            "$id": "https://example.com/s",
            "$defs": {"n": {"$id": "n", "type": "integer"}},
            "properties": {"a": {"$ref": "n"}},
        },
        {"type": ["object", "integer"], "properties": {"a": {"$ref": "#", "type": "integer"}}},
    ],
)
def test_references_inside_the_schema_are_followed(schema: Any) -> None:
    assert fits(schema, {"a": 1})
    assert not fits(schema, {"a": "x"})


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"pattern": "b"}, ["abc", 7], ["ac"]),
        ({"pattern": "^a+$"}, ["aa"], ["aa\n", "\ud83d"]),
        ({"patternProperties": {"^n_": {"type": "integer"}}}, [{"n_a": 1, "b": "x"}], [{"n_a": "x"}]),
        ({"properties": {"a": True}, "additionalProperties": False}, [{"a": 1}, {}, 5], [{"b": 1}]),
        (
            {"patternProperties": {"^n": True}, "additionalProperties": {"type": "null"}},
            [{"n": 1, "x": None}],
            [{"x": 1}],
        ),
        (
            {"uniqueItems": True},
            [[1, True, "1", [1], {"a": 1}, {"a": True}], []],
            [[1, 1.0], [{"a": [1]}, {"a": [1.0]}]],
        ),
        ({"uniqueItems": False}, [[1, 1]], []),
        ({"unevaluatedProperties": False, "allOf": [{"properties": {"a": True}}]}, [{"a": 1}], [{"b": 1}]),
        ({"format": "email"}, ["anything"], []),
        ({"const": {"$ref": "http://example.com"}}, [{"$ref": "http://example.com"}], [{}]),
        ({"multipleOf": 0.5}, [1, 1.5], [1.3]),
    ],
)
def test_keywords_mean_what_the_standard_says(schema: Any, good: list[Any], bad: list[Any]) -> None:
    assert [fits(schema, value) for value in good] == [True] * len(good)
    assert [fits(schema, value) for value in bad] == [False] * len(bad)


def test_a_pattern_that_backtracks_without_end_elsewhere_is_matched_at_once() -> None:
    assert not fits({"pattern": "^(a+)+$"}, "a" * 5000 + "!")


def test_a_metaschema_that_compares_items_is_bounded_too() -> None:
    # Not all of one type, so that they cannot be sorted.
    assert "is not of type 'string'" in faults(json.dumps({"required": [*map(str, range(8000)), 1]}))[0]


def test_a_check_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    doubled = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)}
    schema = {"properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": {**doubled, "d40": {"type": "integer"}}}
    output = compiled(schema)
    assert output.check("{}").structured_json
    monkeypatch.setattr(json_schema, "MAX_CHECK_S", 0.05)
    assert "takes too long" in output.check('{"a": "x"}').complaint
    assert "takes too long" in faults(json.dumps({"$ref": "#/$defs/d0", "$defs": schema["$defs"]}))[0]


def test_a_schema_that_goes_deeper_than_its_value_is_given_up() -> None:
    endless = {"properties": {"a": {"$ref": "#/properties/a"}}}
    assert "nested too deeply" in complaint(endless, '{"a": 1}')


def test_a_number_that_no_float_holds_is_complained_about() -> None:
    assert "too large" in complaint({"multipleOf": 0.5}, "1" * 400)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_any_json_comes_out_as_it_went_in(value: Any) -> None:
    assert json.loads(compiled({}).check(json.dumps(value)).structured_json) == value


@given(st.text() | JSON.map(json.dumps))
def test_no_answer_makes_a_check_raise(text: str) -> None:
    checked = compiled(FORECAST).check(text)
    assert bool(checked.structured_json) != bool(checked.complaint)


KEYS = st.sampled_from(
    [
        "type",
        "$ref",
        "properties",
        "items",
        "pattern",
        "required",
        "enum",
        "anyOf",
        "$id",
        "$anchor",
        "$defs",
        "not",
    ]
)
SCHEMAS = st.recursive(
    st.sampled_from(["object", "#", "#/$defs/a", "", "x", "#a", "http://[", "http://x"])
    | st.integers()
    | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=15,
)


@given(SCHEMAS, JSON)
def test_no_schema_makes_anything_else_than_a_violation(schema: Any, value: Any) -> None:
    try:
        output = compiled(schema)
    except InvalidArgumentError:
        return
    output.check(json.dumps(value))
