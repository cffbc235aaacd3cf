"""A long conversation is cut from its beginning, and never where it would lose its sense."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue_engine.agent.context import MEDIA_TOKENS, estimate_tokens, plan_trim

Message = dict[str, Any]
SYSTEM = {"role": "system", "content": "s" * 40}


def user(chars: int = 4) -> Message:
    return {"role": "user", "content": "u" * chars}


def said(chars: int = 4) -> Message:
    return {"role": "assistant", "content": "a" * chars}


def calls(*results: int) -> list[Message]:
    """An assistant's calls with their results, of so many characters each."""
    asked = [
        {"id": str(place), "type": "function", "function": {"name": "tool", "arguments": "{}"}}
        for place in range(len(results))
    ]
    return [
        {"role": "assistant", "content": None, "tool_calls": asked},
        *(
            {"role": "tool", "tool_call_id": str(place), "content": "r" * chars}
            for place, chars in enumerate(results)
        ),
    ]


SIZES = st.integers(0, 400)
EXCHANGE = st.builds(
    lambda asked, called, answered: [user(asked), *(each for one in called for each in one), said(answered)],
    SIZES,
    st.lists(st.lists(SIZES, min_size=1, max_size=3).map(lambda sizes: calls(*sizes)), max_size=3),
    SIZES,
)
OPEN = st.lists(st.lists(SIZES, min_size=1, max_size=3).map(lambda sizes: calls(*sizes)), max_size=3)
CONVERSATIONS = st.builds(
    lambda system, exchanges, asked, opened: (
        [SYSTEM] * system
        + [each for one in exchanges for each in one]
        + [user(asked), *(each for one in opened for each in one)],
        int(system),
    ),
    st.booleans(),
    st.lists(EXCHANGE, max_size=6),
    SIZES,
    OPEN,
)


@pytest.mark.parametrize(
    ("message", "tokens"),
    [
        ({"role": "user", "content": ""}, 4),
        ({"role": "assistant", "content": None}, 4),
        ({"role": "user", "content": "x" * 43}, 14),
        ({"role": "user", "content": [{"type": "text", "text": "x" * 40}]}, 14),
        (calls(0)[0], 5),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:" + "x" * 10**6}}]},
            4 + MEDIA_TOKENS,
        ),
        (
            {
                "role": "user",
                "content": [{"type": "file", "file": {"file_data": "data:text/plain;base64," + "x" * 1577}}],
            },
            4 + 300,
        ),
        (
            {
                "role": "user",
                "content": [{"type": "file", "file": {"file_data": "data:application/pdf;" + "x" * 10**5}}],
            },
            4 + 2 * MEDIA_TOKENS,
        ),
        (
            {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "x"}}]},
            4 + MEDIA_TOKENS,
        ),
    ],
)
def test_tokens_are_estimated_by_length_and_kind(message: Message, tokens: int) -> None:
    assert estimate_tokens(message) == tokens


def test_a_conversation_within_the_limit_is_left_alone() -> None:
    assert plan_trim([SYSTEM, user(), said(), user()], 1, 14 + 15) is None
    assert plan_trim([SYSTEM, user(), said(), user()], 1, 14 + 14) is not None


def test_the_oldest_go_first_and_more_than_must_so_that_the_next_turn_fits() -> None:
    messages = [*(each for _ in range(10) for each in (user(384), said(384))), user(384)]
    trim = plan_trim(messages, 0, 1000)  # 21 messages of 100 tokens
    assert trim == (14, 2100, 700, True)


def test_a_call_goes_with_its_results() -> None:
    messages = [user(40), *calls(40, 40), said(40), user(40)]
    trim = plan_trim(messages, 0, 70)
    assert trim is not None
    assert trim.omitted == 5


def test_the_last_user_message_and_what_follows_it_stay_even_where_they_are_too_long() -> None:
    trim = plan_trim([SYSTEM, user(), said(), user(4000), *calls(4000)], 1, 256)
    assert trim is not None
    assert (trim.omitted, trim.fits) == (2, False)
    trim = plan_trim([SYSTEM, user(4000), *calls(4000)], 1, 256)
    assert trim is not None
    assert (trim.omitted, trim.fits, trim.tokens_after) == (0, False, trim.tokens_before)


def test_what_is_to_be_kept_can_be_said() -> None:
    complaint = user()
    messages = [user(4000), said(), user(4000), said(4000), complaint]
    trim = plan_trim(messages, 0, 256, keep_from=2)
    assert trim is not None
    assert (trim.omitted, trim.fits) == (2, False)


def test_without_a_user_message_nothing_is_left_out() -> None:
    trim = plan_trim([SYSTEM, said(4000), said(4000)], 1, 256)
    assert trim is not None
    assert (trim.omitted, trim.fits) == (0, False)


@given(CONVERSATIONS, st.integers(0, 2000))
def test_a_trim_keeps_the_rules_whatever_the_conversation(
    conversation: tuple[list[Message], int], limit: int
) -> None:
    messages, first = conversation
    tokens = [estimate_tokens(each) for each in messages]
    trim = plan_trim(messages, first, limit)
    if trim is None:
        assert sum(tokens) <= limit
        return
    kept = messages[first + trim.omitted :]
    assert trim.tokens_before == sum(tokens) > limit
    assert trim.tokens_after == sum(tokens[:first]) + sum(map(estimate_tokens, kept))
    assert trim.fits == (trim.tokens_after <= limit)
    last_user = max(place for place, each in enumerate(messages) if each["role"] == "user")
    assert first + trim.omitted <= last_user
    # No result without its call.
    assert kept[0]["role"] != "tool"
    # It stops early only where the target is reached.
    assert trim.tokens_after <= limit * 80 // 100 or first + trim.omitted == last_user


@given(CONVERSATIONS, st.integers(0, 2000), st.integers(0, 2000))
def test_a_higher_limit_never_leaves_out_more(
    conversation: tuple[list[Message], int], one: int, other: int
) -> None:
    messages, first = conversation
    low, high = sorted((one, other))
    omitted = [trim.omitted if (trim := plan_trim(messages, first, each)) else 0 for each in (low, high)]
    assert omitted[0] >= omitted[1]


@given(CONVERSATIONS, st.integers(0, 2000))
def test_what_was_trimmed_to_fit_is_not_trimmed_again(
    conversation: tuple[list[Message], int], limit: int
) -> None:
    messages, first = conversation
    trim = plan_trim(messages, first, limit)
    if trim is not None and trim.fits:
        assert plan_trim(messages[:first] + messages[first + trim.omitted :], first, limit) is None
