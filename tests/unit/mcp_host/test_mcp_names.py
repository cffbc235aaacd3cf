"""The names of tools as models see them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue_mcp_host.calls.names import display_name

VALID = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def test_a_plain_pair_is_joined_by_two_underscores() -> None:
    assert display_name("time", "get_current_time") == "time__get_current_time"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("a__b", "c"), ("a", "b__c")),
        (("a_", "b"), ("a", "_b")),
        (("a", "b.c"), ("a", "b_c")),
        (("a", "b c"), ("a", "b.c")),
        (("a", "b" * 70), ("a", "b" * 71)),
        (("a", "x y"), ("a", display_name("a", "x y").removeprefix("a__"))),
        (("", "a"), ("a", "")),
    ],
)
def test_pairs_that_would_fall_together_have_two_names(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert display_name(*one) != display_name(*other)


def test_the_name_of_a_pair_never_changes() -> None:
    assert display_name("files", "read.file") == "files__read_file_97875296cb"


@given(st.text(max_size=80), st.text(max_size=80), st.text(max_size=80), st.text(max_size=80))
def test_every_pair_has_a_valid_name_of_its_own(server: str, tool: str, server2: str, tool2: str) -> None:
    name = display_name(server, tool)
    assert VALID.fullmatch(name)
    assert (display_name(server2, tool2) == name) == ((server, tool) == (server2, tool2))


LONG = st.builds(
    lambda stem, end: stem + end, st.sampled_from(["a" * 30, "a" * 62, "a" * 64]), st.text("ab-.", max_size=4)
)


@given(st.lists(st.tuples(LONG, LONG), min_size=2, max_size=40, unique=True))
def test_many_servers_with_long_and_equal_beginnings_have_names_of_their_own(
    pairs: list[tuple[str, str]],
) -> None:
    names = [display_name(*pair) for pair in pairs]
    assert len(set(names)) == len(pairs)
    assert all(VALID.fullmatch(name) for name in names)
    assert names == [display_name(*pair) for pair in pairs]


@given(st.from_regex(r"\A[ab_]{1,6}\Z"), st.from_regex(r"\A[ab_]{1,6}\Z"), st.data())
def test_short_pairs_of_underscores_never_fall_together(server: str, tool: str, data: st.DataObject) -> None:
    other = data.draw(st.tuples(st.from_regex(r"\A[ab_]{1,6}\Z"), st.from_regex(r"\A[ab_]{1,6}\Z")))
    assert (display_name(*other) == display_name(server, tool)) == (other == (server, tool))
