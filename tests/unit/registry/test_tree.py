"""Reading YAML and JSON: values as YAML 1.2 has them, a line for each, clear words for what is wrong."""

import json
from contextlib import suppress

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from retinue_registry.files import yaml_tree
from retinue_registry.files.json_tree import read_json
from retinue_registry.files.tree import MAX_DEPTH, Tree, UnreadableError
from retinue_registry.files.yaml_tree import read_yaml

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@pytest.fixture(params=["CSafeLoader", "SafeLoader"])
def _loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both of PyYAML's parsers: a machine without libyaml has only the second."""
    monkeypatch.setattr(yaml_tree, "_LOADER", getattr(yaml, request.param))


@pytest.mark.usefixtures("_loader")
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", True),
        ("Off", False),
        ("~", None),
        ("", None),
        ("12", 12),
        ("-3", -3),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("2020-01-01", "2020-01-01"),
        ("'12'", "12"),
        ('"yes"', "yes"),
        ("!!str 12", "12"),
        (".nan", ".nan"),
        ("30s", "30s"),
        ("${env:KEY}", "${env:KEY}"),
        ("[1, [a]]", [1, ["a"]]),
    ],
)
def test_a_scalar_means_what_yaml_1_2_says(text: str, value: object) -> None:
    found = read_yaml(f"key: {text}\n").data["key"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.usefixtures("_loader")
def test_every_value_knows_its_line() -> None:
    tree = read_yaml("a:\n  b: 1\n\n  c:\n    - x\n    - y: 2\n")
    assert tree.line(("a", "b")) == 2
    assert tree.line(("a", "c", 1, "y")) == 6
    assert tree.line(("a", "c", 0, "not", "there")) == 5
    tree = read_json('{\n "a": {"b": 1,\n  "c": ["x",\n {"y": 2}]}}')
    assert tree.line(("a", "c")) == 3
    assert tree.line(("a", "c", 1, "y")) == 4


@pytest.mark.usefixtures("_loader")
def test_an_alias_stands_for_what_it_names() -> None:
    assert read_yaml("a: &x {b: 1}\nc: *x\nd: [*x]\n").data == {"a": {"b": 1}, "c": {"b": 1}, "d": [{"b": 1}]}


@pytest.mark.usefixtures("_loader")
@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a: 1\n\tb: 2\n", 2, "tab"),
        ("a: [1, 2\n", 2, "not YAML"),
        ("a: 1\n--- \nb: 2\n", 2, "second document"),
        ("a: !!python/object:os.system x\n", 1, "tag"),
        ("a: !!int '3'\n", 1, "tag"),
        ("? [1, 2]\n: x\n", 1, "a key must be text"),
        ("a: &x [*x]\n", 1, "inside of what it names"),
        ("a: *nothing\n", 1, "before or inside"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", 3, "merge key"),
        ("a: " + "[" * (MAX_DEPTH + 1) + "\n", 1, "deeper"),
        ("a: \0\n", 1, "does not allow"),
        ("[" * 100_000, 1, "deeper"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(text: str, line: int, said: str) -> None:
    with pytest.raises(UnreadableError, match=said) as caught:
        read_yaml(text)
    assert caught.value.line == line


@pytest.mark.usefixtures("_loader")
def test_a_key_that_stands_twice_and_one_that_is_not_text_are_faults() -> None:
    tree = read_yaml("a: 1\nb: 2\na: 3\non: 4\n7: 5\n")
    assert [(fault.line, fault.message) for fault in tree.faults] == [
        (3, "the key 'a' stands here a second time; the first is on line 1"),
        (4, "the key true is not text: put it in quotes"),
        (5, "the key 7 is not text: put it in quotes"),
    ]


@pytest.mark.usefixtures("_loader")
def test_an_alias_bomb_is_refused_before_it_grows() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    with pytest.raises(UnreadableError, match="more than"):
        read_yaml("\n".join(lines))


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ('{"a": 1,\n}', 2, "a key in double quotes"),
        ('{"a": 1} x', 1, "the end of the file"),
        ('{"a"\n1}', 2, "a colon"),
        ("", 1, "a value"),
        ('{"a": [1 2]}', 1, "a comma"),
        ('{"a": nan}', 1, "a value"),
        ('{"a": "\\ud800"}', 1, "surrogate"),
        ('{"a": "x\ny"}', 1, "Invalid control character"),
        ("[" * 100_000, 1, "deeper"),
    ],
)
def test_json_that_cannot_be_read_is_named_with_its_line(text: str, line: int, said: str) -> None:
    with pytest.raises(UnreadableError, match=said) as caught:
        read_json(text)
    assert caught.value.line == line


def test_json_may_be_indented_with_tabs_and_hold_pairs_of_surrogates() -> None:
    tree = read_json('{\n\t"a": "\\ud83d\\ude00",\n\t"b": [1.5, -2e1, true, null]\n}\n')
    assert tree.data == {"a": "\U0001f600", "b": [1.5, -20.0, True, None]}


def test_a_key_that_stands_twice_in_json_is_a_fault() -> None:
    (fault,) = read_json('{"a": 1,\n"a": 2}').faults
    assert (fault.line, fault.place) == (2, ("a",))


@settings(deadline=None)
@given(PLAIN)
def test_json_reads_as_the_standard_library_reads_it(value: object) -> None:
    for indent in (None, 1, "\t"):
        for ascii_only in (True, False):
            text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
            assert read_json(text).data == value


def _read(reader: str, text: str) -> Tree | None:
    with suppress(UnreadableError):
        return read_json(text) if reader == "json" else read_yaml(text)
    return None


YAMLISH = st.text(st.sampled_from("ab:- \n\t[]{}&*!|>'\"#%@`,?<1.~\0\ud800é\\uU"), max_size=60)


@settings(deadline=None, max_examples=400)
@given(st.sampled_from(["json", "yaml"]), st.text(max_size=80) | YAMLISH)
def test_no_text_breaks_a_reader(reader: str, text: str) -> None:
    tree = _read(reader, text)
    if tree is not None and tree.data is not None:
        json.dumps(tree.data, ensure_ascii=False).encode()
