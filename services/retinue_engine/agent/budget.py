"""Whether a run may make its next call: what it has used, held against its budget and those above it."""

import time
from collections.abc import Iterator
from typing import NamedTuple

from retinue.common.v1.usage_pb2 import Cost
from retinue.errors import BudgetExceededError
from retinue_engine.agent.tree import Standing
from retinue_engine.agent.work import AnyRun
from retinue_engine.definition import Budget


class _Account(NamedTuple):
    """A budget and what was used of it."""

    whose: str
    run: AnyRun
    budget: Budget
    tokens: int
    cost: Cost
    turns: int
    tool_calls: int
    duration_s: float


def check_llm_call(run: AnyRun) -> None:
    """Raise BudgetExceededError where tokens, money, turns or time are used up."""
    for account in _accounts(run):
        budget = account.budget
        _check(account, "max_tokens", budget.max_tokens, account.tokens, "tokens")
        if budget.max_turns is not None:
            turns = account.turns + sum(each.open_turn > 0 for each in _others(account, run))
            _check(account, "max_turns", budget.max_turns, turns, "LLM calls")
        _check(account, "max_duration", budget.max_duration_s, account.duration_s, "seconds")
        limit, cost = budget.max_cost_nano_usd, account.cost
        if limit is None or not account.turns:
            continue
        if cost.unknown:
            raise BudgetExceededError(
                f"{account.whose} has a budget in money, and the price of its model is not known: set "
                "`price` in the llm",
                budget="max_cost_nano_usd",
                limit=limit,
                used="unknown",
            )
        _check(account, "max_cost_nano_usd", limit, cost.nano_usd, "billionths of a US dollar")


def check_tool_calls(run: AnyRun, *, asked: int | None = None) -> None:
    """Raise BudgetExceededError where calls are more than are left.

    `asked` is how many are to be made; where it is not given, those that the model asks for.
    """
    unanswered = len(run.state.unanswered) if asked is None else asked
    for account in _accounts(run):
        limit = account.budget.max_tool_calls
        if limit is not None:
            # Of a turn that is taken up again some calls are counted already: they began within the budget.
            wanted = account.tool_calls + unanswered
            wanted += sum(
                call_id in each.unanswered for each in _others(account, run) for call_id in each.started
            )
            if wanted > limit:
                what = "tool calls, with those that the model asks for"
                raise _exceeded(account.whose, "max_tool_calls", limit, wanted, what)
        _check(account, "max_duration", account.budget.max_duration_s, account.duration_s, "seconds")


_NONE = Budget()


def _others(account: _Account, asking: AnyRun) -> Iterator[Standing]:
    """The runs beside the asking one whose calls count in an account: what is under way there counts too."""
    inside = asking.work.tree.at_work(account.run.run_id)
    at_work = [account.run.state, *(each.state for each in inside)]
    return (each for each in at_work if each is not asking.state)


def _accounts(run: AnyRun) -> Iterator[_Account]:
    """The run's own, those of the runs above it, and the session's; only those that have limits."""
    each: AnyRun | None = run
    while each is not None:
        if each.definition.budget != _NONE:
            yield _own(each)
        if each.above is None and each.definition.session_budget != _NONE:
            yield _session(each)
        each = each.above


def _own(run: AnyRun) -> _Account:
    spent = run.state.spent
    return _Account(
        "the run",
        run,
        run.definition.budget,
        spent.tokens,
        spent.cost,
        spent.turns,
        spent.tool_calls,
        _duration_s(run),
    )


def _session(run: AnyRun) -> _Account:
    spent, before = run.state.spent, run.work.session
    cost = Cost(
        nano_usd=before.nano_usd + spent.cost.nano_usd, unknown=before.unknown_cost or spent.cost.unknown
    )
    return _Account(
        "the session",
        run,
        run.definition.session_budget,
        before.input_tokens + before.output_tokens + spent.tokens,
        cost,
        before.turns + spent.turns,
        before.tool_calls + spent.tool_calls,
        before.duration_us / 1_000_000 + _duration_s(run),
    )


def _duration_s(run: AnyRun) -> float:
    """Since acceptance, without the time that the tree waited for people."""
    work = run.work
    since_us, waited_us = work.row.create_us, work.tree.suspended_us
    if run.above is not None:
        child = work.tree.child(run.run_id)
        since_us, waited_us = child.create_us, waited_us - child.suspended_before_us
    return max(0.0, (time.time_ns() // 1000 - since_us - waited_us) / 1_000_000)


def _check(account: _Account, name: str, limit: float | None, used: float, what: str) -> None:
    if limit is not None and used >= limit:
        raise _exceeded(account.whose, name, limit, used, what)


def _exceeded(whose: str, name: str, limit: float, used: float, what: str) -> BudgetExceededError:
    return BudgetExceededError(
        f"the budget of {whose.removeprefix('the ')} is used up: {used:g} {what}, and {name} is {limit:g}",
        budget=name,
        limit=limit,
        used=used,
    )
