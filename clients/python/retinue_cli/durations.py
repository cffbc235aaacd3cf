"""Spans of time as people type them: `30s`, `1.5s`, `5m`, `250ms`, `1h`, `2d`, or a number of seconds."""

import re
from datetime import timedelta

import typer

_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|)")
_UNITS_S = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_LONGEST_S = 10_000 * 365 * 86_400.0
"""What fits a google.protobuf.Duration."""


def parse_duration(text: str) -> timedelta:
    """The span that a text says; for an option's `parser`."""
    found = _SPAN.fullmatch(text.strip())
    span_s = float(found[1]) * _UNITS_S[found[2]] if found else 0.0
    if not 0 < span_s <= _LONGEST_S:
        raise typer.BadParameter(f"{text!r} is no span of time: 30s, 1.5s, 5m, 250ms, 1h, 2d, or seconds")
    return timedelta(seconds=span_s)
