"""Server-sent events come out the same however the reads cut them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.errors import LlmInvalidResponseError
from retinue_engine.llm import sse
from retinue_engine.llm.model import Endpoint
from retinue_engine.llm.sse import EventSplitter

ENDPOINT = Endpoint("m", "http://127.0.0.1/v1", None, {}, 1)

LINES = st.lists(
    st.sampled_from(
        ["data: {}", "data:x", "data", "data: größe 🎉", ": comment", "event: e", "id: 1", "", ""]
    )
)


def split(reads: list[bytes]) -> list[bytes]:
    splitter = EventSplitter(ENDPOINT)
    return [event for read in reads for event in splitter.feed(read)]


def by_the_book(text: str) -> list[bytes]:
    """The standard's rules, line by line over the whole text."""
    events, data = [], []
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")[:-1]
    for line in lines:
        name, _, value = line.partition(":")
        if not line:
            if data:
                events.append("\n".join(data).encode())
            data = []
        elif name == "data":
            data.append(value.removeprefix(" "))
    return events


@given(lines=LINES, ends=st.sampled_from(["\n", "\r\n", "\r"]), data=st.data())
def test_every_cut_gives_the_events_of_the_whole(lines: list[str], ends: str, data: st.DataObject) -> None:
    text = "".join(line + ends for line in lines)
    stream = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)))))
    reads = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert split(reads) == by_the_book(text)


@pytest.mark.parametrize("ends", [b"\n", b"\r\n", b"\r"])
def test_one_cut_at_each_byte_gives_the_events_of_the_whole(ends: bytes) -> None:
    stream = "data: größe 🎉\n: c\ndata: 2\n\ndata: [DONE]\n\n".encode().replace(b"\n", ends)
    whole = ["größe 🎉\n2".encode(), b"[DONE]"]
    for offset in range(len(stream) + 1):
        assert split([stream[:offset], stream[offset:]]) == whole


def test_a_byte_order_mark_is_passed_over() -> None:
    assert split([b"\xef\xbb", b"\xbfdata: 1\n\n"]) == [b"1"]


def test_an_event_that_the_stream_does_not_end_is_none() -> None:
    assert split([b"data: 1\n"]) == []


def test_an_event_without_end_is_refused_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 1000)
    with pytest.raises(LlmInvalidResponseError, match="more than 1000 bytes"):
        split([b"data: " + b"x" * 600, b"x" * 600])
    with pytest.raises(LlmInvalidResponseError, match="more than 1000 bytes"):
        split([b"data: xxxxxxxxx\n"] * 200)
    assert len(split([b"data: " + b"x" * 600 + b"\n\n"] * 5)) == 5
