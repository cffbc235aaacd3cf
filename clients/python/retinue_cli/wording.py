"""Numbers, times and foreign text as people read them."""

import json
import math
import re
from datetime import datetime

NANO_USD = 1_000_000_000
_MINUTE_S = 60
_HOUR_S = 3600
_DAY_S = 86_400
_LONGEST_COMPACTED = 100_000

# Escape sequences and control characters, all but newline and tab: a model or a tool must not be able to
# move the cursor, recolour or retitle the terminal of whoever watches.
_UNSAFE = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # a title or link
    r"|\x1b\[[0-?]*[ -/]*[@-~]"  # colours, cursor
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
)


def clean(text: str) -> str:
    """The text without what could steer a terminal; CR LF becomes LF."""
    return _UNSAFE.sub("", text)


def one_line(text: str, longest: int) -> str:
    """The text on one line of at most so many characters."""
    line = " ".join(clean(text).split())
    return line if len(line) <= longest else line[: max(longest - 1, 0)] + "…"


def seconds(value: float) -> str:
    """A span: `41 ms`, `1.2 s`, `2 min 3 s`, `1 h 5 min`."""
    if value < 0.9995:  # noqa: PLR2004 - what rounds to 1000 ms is 1 s
        return f"{value * 1000:.0f} ms"
    if value < _MINUTE_S - 0.05:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S} min {whole % _MINUTE_S} s"
    minutes = whole // _MINUTE_S
    return f"{minutes // 60} h {minutes % 60} min"


def ago(then: datetime, now: datetime) -> str:
    """How long something is past: `just now`, `5 min ago`, `3 days ago`."""
    passed = (now - then).total_seconds()
    if passed < 5:  # noqa: PLR2004 - seconds that nobody counts
        return "just now"
    for unit_s, name in ((_DAY_S, "day"), (_HOUR_S, "h"), (_MINUTE_S, "min"), (1, "s")):
        count = int(passed // unit_s)
        if count:
            return f"{count} {name}{'s' if name == 'day' and count > 1 else ''} ago"
    return "just now"


def dollars(nano_usd: int, *, unknown: bool) -> str:
    """An amount with the digits that tell something: `$0.000055`, `at least $0.01`, `cost unknown`."""
    if unknown and not nano_usd:
        return "cost unknown"
    value = nano_usd / NANO_USD
    if not nano_usd:
        text = "$0"
    elif value >= 1:
        text = f"${value:,.2f}"
    else:
        # Two digits that count.
        text = f"${value:.{1 - math.floor(math.log10(value))}f}"
    return f"at least {text}" if unknown else text


def count(number: int, noun: str) -> str:
    """A number with its noun: `1 turn`, `2 turns`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def compact_json(text: str) -> str:
    """JSON that was laid out over many lines, on one; any other text as it stands."""
    if text[:1] not in {"{", "["} or len(text) > _LONGEST_COMPACTED:
        return text
    try:
        return json.dumps(json.loads(text), ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


def same_json(text: str, structured_json: str) -> bool:
    """Whether a text says nothing else than a structured answer; also where there is none."""
    if not structured_json:
        return True
    try:
        return bool(json.loads(text) == json.loads(structured_json))
    except (ValueError, RecursionError):
        return False
