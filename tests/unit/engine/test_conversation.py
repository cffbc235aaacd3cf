"""The conversation: the same whether events happen or are read again, and never a call without its result."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from retinue.engine.v1 import event_pb2
from retinue_engine.agent.conversation import Conversation, parse_arguments

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@st.composite
def stories(draw: st.DrawFn) -> list[event_pb2.RunEvent]:
    """What an agent run emits, cut off anywhere, taken up and going on."""
    events: list[event_pb2.RunEvent] = []

    def add(**what: Any) -> None:
        events.append(event_pb2.RunEvent(run_id="r", sequence=len(events) + 1, **what))

    turn = 1
    for _ in range(draw(st.integers(0, 5))):
        add(turn_started=event_pb2.TurnStarted(turn=turn))
        if draw(st.booleans()):
            add(text_delta=event_pb2.TextDelta(text=draw(TEXT)))
        if draw(st.integers(0, 3)) == 0:
            add(run_claimed=event_pb2.RunClaimed())
            add(message_discarded=event_pb2.MessageDiscarded(from_sequence=len(events) - 1))
            continue
        calls = [f"c{n}" for n in range(draw(st.integers(0, 3)))]
        message = event_pb2.MessageCompleted(text=draw(TEXT), finish_reason="stop")
        message.usage.input_tokens = draw(st.integers(0, 100))
        message.cost.nano_usd = draw(st.integers(0, 100))
        message.cost.unknown = draw(st.booleans())
        for call in calls:
            message.tool_calls.add(call_id=call, name="t", arguments_json="{}")
        add(message_completed=message)
        if not calls:
            break
        for call in calls:
            add(tool_call_started=event_pb2.ToolCallStarted(call_id=call))
        for call in draw(st.permutations(calls)):
            add(tool_call_completed=event_pb2.ToolCallCompleted(call_id=call, text=draw(TEXT)))
        turn += 1
    return events[: draw(st.integers(0, len(events)))]


def folded(events: list[event_pb2.RunEvent]) -> Conversation:
    conversation = Conversation("be kind", [{"role": "user", "content": "before"}], "hi")
    for event in events:
        conversation.apply(event)
    return conversation


@given(stories())
def test_live_and_replayed_stories_fold_into_the_same(events: list[event_pb2.RunEvent]) -> None:
    live = folded([])
    for event in events:
        live.apply(event)
    data = [event.SerializeToString() for event in events]
    replayed = folded([event_pb2.RunEvent.FromString(each) for each in data])
    assert vars(live).keys() == vars(replayed).keys()
    for name, value in vars(live).items():
        assert getattr(replayed, name) == value, name


@given(stories())
def test_a_session_is_given_no_call_without_its_result(events: list[event_pb2.RunEvent]) -> None:
    for cut in range(len(events) + 1):
        messages = [json.loads(each) for each in folded(events[:cut]).session_messages()]
        assert not messages or messages[0] == {"role": "user", "content": "hi"}
        waiting: list[str] = []
        for message in messages:
            if message["role"] == "tool":
                assert message["tool_call_id"] == waiting.pop(0)
            else:
                assert not waiting
                waiting = [call["id"] for call in message.get("tool_calls", ())]
        assert not waiting
        assert not messages or messages[-1]["role"] in ("assistant", "tool")


@given(stories())
def test_the_sums_are_those_of_the_events(events: list[event_pb2.RunEvent]) -> None:
    conversation = folded(events)
    answers = [event.message_completed for event in events if event.HasField("message_completed")]
    assert conversation.turns == len(answers)
    assert conversation.spent.usage.input_tokens == sum(each.usage.input_tokens for each in answers)
    assert conversation.spent.cost.nano_usd == sum(each.cost.nano_usd for each in answers)
    assert conversation.spent.cost.unknown == any(each.cost.unknown for each in answers)
    assert conversation.spent.tool_calls == sum(event.HasField("tool_call_completed") for event in events)


@given(st.text(max_size=40))
def test_arguments_are_an_object_or_words_for_the_model(text: str) -> None:
    found = parse_arguments(text)
    if isinstance(found, str):
        assert "call the tool again" in found
    else:
        assert found == json.loads(text or "{}")
