"""How runs stand and how they ended, in words: states, stop reasons, the bill."""

from typing import TYPE_CHECKING

from retinue_cli.wording import count, dollars, seconds

if TYPE_CHECKING:
    from retinue.common.v1 import usage_pb2
    from retinue.engine.v1 import run_pb2

PAUSED, SUCCEEDED, FAILED, CANCELLED = 3, 5, 6, 7
"""RunState, without importing the stubs; a test holds them to the proto."""

FINAL = frozenset({SUCCEEDED, FAILED, CANCELLED})

STATES = {1: "queued", 2: "running", 3: "paused", 4: "waiting", 5: "succeeded", 6: "failed", 7: "cancelled"}
_STYLES = {SUCCEEDED: "green", FAILED: "red", CANCELLED: "yellow"}

_STOP_REASONS = {
    1: "completed",
    2: "cancelled",
    3: "max iterations",
    4: "budget",
    5: "timeout",
    6: "stalled",
    7: "output invalid",
    8: "error",
}
STOP_ERROR = 8
"""The StopReason that says no more than the error does."""


def state_name(state: int) -> str:
    """A RunState in words: `running`."""
    return STATES.get(state, "unknown")


def state_style(state: int) -> str:
    """A RunState's colour."""
    return _STYLES.get(state, "cyan")


def stop_words(stop_reason: int) -> str:
    """A StopReason in words: `max iterations`; empty where it is not set."""
    return _STOP_REASONS.get(stop_reason, "")


def bill(result: "run_pb2.RunResult") -> str:
    """What a run took: turns, tool calls, tokens, cost and time."""
    parts = [count(result.turns, "turn"), count(result.tool_calls, "tool call")]
    if result.retries:
        parts.append(count(result.retries, "failed model call"))
    if result.repairs:
        parts.append(count(result.repairs, "repaired answer"))
    parts.append(f"tokens {tokens(result.usage)}")
    parts.append(dollars(result.cost.nano_usd, unknown=result.cost.unknown))
    parts.append(seconds(result.duration.seconds + result.duration.nanos / 1e9))
    return " · ".join(parts)


def tokens(usage: "usage_pb2.Usage") -> str:
    """Tokens in words: `1,212 in (800 cached), 38 out`."""
    cached = f" ({usage.cached_input_tokens:,} cached)" if usage.cached_input_tokens else ""
    reasoning = f" ({usage.reasoning_tokens:,} reasoning)" if usage.reasoning_tokens else ""
    return f"{usage.input_tokens:,} in{cached}, {usage.output_tokens:,} out{reasoning}"
