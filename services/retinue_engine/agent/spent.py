"""What a run has used: its own calls and those of the runs inside it."""

from dataclasses import dataclass, field

from retinue.common.v1.usage_pb2 import Cost, Usage
from retinue.engine.v1 import event_pb2


@dataclass(slots=True)
class Spent:
    """Sums of one run; what is added counts in the runs above it as well."""

    parent: "Spent | None" = None
    usage: Usage = field(default_factory=Usage)
    cost: Cost = field(default_factory=Cost)
    turns: int = 0
    """LLM calls that were answered."""
    tool_calls: int = 0
    """Tool calls that ended, however they did."""
    retries: int = 0
    """LLM calls that failed and were made again."""

    @property
    def tokens(self) -> int:
        """Input and output tokens together."""
        return self.usage.input_tokens + self.usage.output_tokens

    def add_answer(self, message: event_pb2.MessageCompleted | event_pb2.SamplingCompleted) -> None:
        """Count an answer of a model."""
        self.turns += 1
        add_usage(self.usage, message.usage)
        add_cost(self.cost, message.cost)
        if self.parent is not None:
            self.parent.add_answer(message)

    def add_tool_call(self) -> None:
        """Count a tool call that ended."""
        self.tool_calls += 1
        if self.parent is not None:
            self.parent.add_tool_call()

    def add_retry(self) -> None:
        """Count an LLM call that failed and is made again."""
        self.retries += 1
        if self.parent is not None:
            self.parent.add_retry()


def add_usage(total: Usage, more: Usage) -> None:
    """Add tokens to a sum."""
    total.input_tokens += more.input_tokens
    total.output_tokens += more.output_tokens
    total.cached_input_tokens += more.cached_input_tokens
    total.reasoning_tokens += more.reasoning_tokens


def add_cost(total: Cost, more: Cost) -> None:
    """Add money to a sum; what is unknown stays unknown."""
    total.nano_usd += more.nano_usd
    total.unknown |= more.unknown
