"""Whether a run may make its next call: what it has used, held against its budget."""

from retinue.errors import BudgetExceededError
from retinue_engine.agent.conversation import Conversation
from retinue_engine.definition import Budget


def check_llm_call(budget: Budget, conversation: Conversation) -> None:
    """Raise BudgetExceededError where tokens or money are used up."""
    tokens = conversation.usage.input_tokens + conversation.usage.output_tokens
    if budget.max_tokens is not None and tokens >= budget.max_tokens:
        raise _exceeded("max_tokens", budget.max_tokens, tokens, "tokens")
    limit, cost = budget.max_cost_nano_usd, conversation.cost
    if limit is None or not conversation.turns:
        return
    if cost.unknown:
        raise BudgetExceededError(
            "the run has a budget in money, and the price of its model is not known: set `price` in the llm",
            budget="max_cost_nano_usd",
            limit=limit,
            used="unknown",
        )
    if cost.nano_usd >= limit:
        raise _exceeded("max_cost_nano_usd", limit, cost.nano_usd, "billionths of a US dollar")


def check_tool_calls(budget: Budget, conversation: Conversation) -> None:
    """Raise BudgetExceededError where the calls that the model asks for are more than are left."""
    limit = budget.max_tool_calls
    # Of a turn that is taken up again some calls are counted already: they began within the budget.
    asked = conversation.tool_calls + len(conversation.unanswered)
    if limit is not None and asked > limit:
        raise _exceeded("max_tool_calls", limit, asked, "tool calls, with those that the model asks for")


def _exceeded(name: str, limit: int, used: int, what: str) -> BudgetExceededError:
    return BudgetExceededError(
        f"the run's budget is used up: {used} {what}, and {name} is {limit}",
        budget=name,
        limit=limit,
        used=used,
    )
