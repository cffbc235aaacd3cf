"""Numbers, times and foreign text as people read them."""

from datetime import UTC, datetime, timedelta

import pytest

from retinue_cli.wording import ago, clean, dollars, one_line, seconds


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0 ms"),
        (0.0414, "41 ms"),
        (0.9994, "999 ms"),
        (0.9999, "1.0 s"),
        (1.25, "1.2 s"),
        (59.97, "1 min 0 s"),
        (123, "2 min 3 s"),
        (3900, "1 h 5 min"),
    ],
)
def test_a_span_has_the_unit_that_fits(value: float, shown: str) -> None:
    assert seconds(value) == shown


@pytest.mark.parametrize(
    ("nano", "unknown", "shown"),
    [
        (0, False, "$0"),
        (0, True, "cost unknown"),
        (55_000, False, "$0.000055"),
        (12_345, False, "$0.000012"),
        (1, False, "$0.0000000010"),
        (999_999_999, False, "$1.00"),
        (1_500_000_000, False, "$1.50"),
        (10_000_000, True, "at least $0.010"),
    ],
)
def test_an_amount_has_the_digits_that_tell_something(nano: int, unknown: bool, shown: str) -> None:
    assert dollars(nano, unknown=unknown) == shown


@pytest.mark.parametrize(
    ("passed", "shown"),
    [
        (timedelta(seconds=1), "just now"),
        (timedelta(seconds=-3), "just now"),
        (timedelta(seconds=59), "59 s ago"),
        (timedelta(minutes=5), "5 min ago"),
        (timedelta(hours=3), "3 h ago"),
        (timedelta(days=1), "1 day ago"),
        (timedelta(days=3), "3 days ago"),
    ],
)
def test_how_long_ago_has_one_unit(passed: timedelta, shown: str) -> None:
    now = datetime(2026, 1, 31, tzinfo=UTC)
    assert ago(now - passed, now) == shown


def test_foreign_text_cannot_steer_the_terminal() -> None:
    evil = "a\x1b[31mred\x1b[0m\x1b]0;title\x07\x1b[2J\r\n\tb\x00\x9b\u202e"
    assert clean(evil) == "ared\n\tb"


def test_one_line_is_one_line_and_no_longer_than_asked() -> None:
    assert one_line("a\n  b\tc", 10) == "a b c"
    assert one_line("abcdef", 4) == "abc…"
