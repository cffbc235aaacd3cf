"""An answer is put together within its bounds."""

from typing import Any

import pytest

from retinue.errors import LlmInvalidResponseError, LlmUnavailableError
from retinue_engine.llm import answer as answer_module
from retinue_engine.llm.answer import Answer
from retinue_engine.llm.model import Endpoint

ENDPOINT = Endpoint("asked", "http://127.0.0.1/v1", None, {}, 1)


def choice(delta: dict[str, Any], finish_reason: str | None = None, index: int = 0) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": delta, "finish_reason": finish_reason}]}


def call(name: str | None, arguments: Any = None, **more: Any) -> dict[str, Any]:
    return choice({"tool_calls": [{"function": {"name": name, "arguments": arguments}, **more}]})


def whole(*chunks: dict[str, Any]) -> Any:
    answer = Answer(ENDPOINT, lambda _: None)
    for chunk in [*chunks, choice({}, "stop")]:
        answer.add(chunk)
        answer.flush()
    return answer.completion()


def test_the_asked_model_stands_where_the_server_names_none() -> None:
    assert whole(choice({"content": "a"})).model == "asked"
    assert whole({**choice({}), "model": "served"}).model == "served"


def test_only_the_first_of_several_choices_is_heard() -> None:
    assert whole(choice({"content": "a"}), choice({"content": "b"}, index=1)).text == "a"


def test_text_past_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_module, "MAX_ANSWER_CHARS", 10)
    assert whole(choice({"content": "x" * 10})).text == "x" * 10
    with pytest.raises(LlmInvalidResponseError, match="max_output_tokens"):
        whole(choice({"content": "x" * 6}), choice({"content": "x" * 6}))
    with pytest.raises(LlmInvalidResponseError, match="max_output_tokens"):
        whole(choice({"reasoning_content": "x" * 6}), choice({"content": "x" * 6}))


def test_tool_calls_past_the_limit_are_refused_even_empty_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_module, "MAX_ANSWER_CHARS", 1000)
    with pytest.raises(LlmInvalidResponseError):
        whole(call("a", "x" * 1001, index=0))
    with pytest.raises(LlmInvalidResponseError):
        whole(*(call("", index=index) for index in range(20)))


def test_what_came_since_the_last_flush_is_passed_on_as_one_piece() -> None:
    shown: list[str] = []
    answer = Answer(ENDPOINT, shown.append, lambda text: shown.append(f"({text})"))
    for chunk in [{"reasoning": "a"}, {"reasoning": "b"}, {"content": "c"}, {"content": "d"}]:
        answer.add(choice(chunk))
    answer.flush()
    answer.flush()
    answer.add(choice({"content": "e", "reasoning": "f"}))
    answer.flush()
    assert shown == ["(ab)", "cd", "(f)", "e"]


def test_without_a_finish_reason_an_answer_is_not_whole() -> None:
    answer = Answer(ENDPOINT, lambda _: None)
    answer.add(choice({"content": "a"}))
    assert not answer.finished
    with pytest.raises(LlmUnavailableError):
        answer.completion()


def test_made_up_ids_differ_from_message_to_message() -> None:
    first, second = whole(call("a", "{}", index=0)), whole(call("a", "{}", index=0))
    assert first.tool_calls[0].call_id != second.tool_calls[0].call_id


def test_arguments_sent_as_an_object_become_their_text() -> None:
    assert whole(call("a", {"größe": 1}, index=0)).tool_calls[0].arguments_json == '{"größe":1}'


def test_whole_calls_without_ids_at_one_index_are_calls_of_their_own() -> None:
    completion = whole(call("now", '{"tz":"a"}', index=0), call("now", '{"tz":"b"}', index=0))
    assert [each.arguments_json for each in completion.tool_calls] == ['{"tz":"a"}', '{"tz":"b"}']


def test_pieces_without_index_and_id_go_on_with_the_last_call() -> None:
    completion = whole(call("a", '{"x":'), call(None, "1}"), call("b", "{}"))
    assert [(each.name, each.arguments_json) for each in completion.tool_calls] == [
        ("a", '{"x":1}'),
        ("b", "{}"),
    ]


def test_surrogate_pairs_that_come_together_are_joined() -> None:
    assert whole(choice({"content": "\ud83c\udf89"})).text == "🎉"
    assert whole(choice({"reasoning": "\ud83c\udf89"})).reasoning == "🎉"
    assert whole(call("a", '"\ud83c\udf89\ud83c"', index=0)).tool_calls[0].arguments_json == '"🎉\ufffd"'


@pytest.mark.parametrize("count", [None, "7", -1, 2.5, True])
def test_counts_that_are_none_count_nothing(count: Any) -> None:
    usage = whole({"choices": [], "usage": {"prompt_tokens": count, "completion_tokens": 2}}).usage
    assert usage.output_tokens == 2
    assert usage.input_tokens == (1 if count is True else 0)
