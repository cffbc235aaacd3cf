"""Lines, the tail of stderr, and results: what comes from a server, bounded."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.errors import McpProtocolError
from retinue_mcp_host.connections.results import result_from_json, tool_from_json
from retinue_mcp_host.model import Blob, ResourceLink
from retinue_mcp_host.processes.lines import LineSplitter
from retinue_mcp_host.processes.stderr import MAX_BYTES, MAX_LINES, StderrTail


def split(chunks: list[bytes], limit: int = 1000) -> tuple[list[bytes], list[bytes]]:
    heads: list[bytes] = []
    splitter = LineSplitter(limit, heads.append)
    return [line for chunk in chunks for line in splitter.feed(chunk) if line], heads


@given(st.lists(st.binary(max_size=20)), st.integers(1, 7))
def test_lines_are_the_same_however_they_are_cut(lines: list[bytes], step: int) -> None:
    lines = [line.replace(b"\n", b"") for line in lines]
    stream = b"".join(line + b"\n" for line in lines)
    chunks = [stream[at : at + step] for at in range(0, len(stream), step)]
    assert split(chunks)[0] == [line for line in lines if line]


def test_a_line_that_is_too_long_is_reported_once_and_the_next_is_read() -> None:
    chunks = [b"first\n", b"x" * 600, b"x" * 600, b"x" * 600, b"\nlast\n"]
    lines, heads = split(chunks)
    assert lines == [b"first", b"last"]
    assert heads == [b"x" * 256]


def test_a_line_without_end_takes_no_more_memory_than_the_limit() -> None:
    splitter = LineSplitter(1000, lambda _: None)
    for _ in range(100):
        splitter.feed(b"x" * 500)
    assert sum(map(len, splitter._parts)) <= 1500


def test_the_tail_keeps_the_last_lines_and_hides_secrets() -> None:
    tail = StderrTail(["hunter22", "abc"])
    for number in range(200):
        tail.feed(f"line {number}\n".encode())
    tail.feed(b"key=hunter22 abc \xff")
    lines = tail.text().splitlines()
    assert lines[0] == f"line {200 - MAX_LINES}"
    assert lines[-1] == "key=*** abc \ufffd"


def test_the_tail_is_bounded_in_bytes_and_gives_whole_lines() -> None:
    tail = StderrTail()
    for _ in range(1000):
        tail.feed(b"y" * 3000 + b"\n")
    tail.feed(b"\nthe end\n")
    assert len(tail.text().encode()) <= MAX_BYTES + 100
    assert tail.text(20) == "the end"


@given(st.lists(st.binary(max_size=300), max_size=30))
def test_the_tail_takes_any_bytes(chunks: list[bytes]) -> None:
    tail = StderrTail()
    for chunk in chunks:
        tail.feed(chunk)
    tail.text()


def test_each_kind_of_content_has_its_place() -> None:
    result = result_from_json(
        {
            "content": [
                {"type": "text", "text": "a"},
                {"type": "image", "mimeType": "image/png", "data": "iVBO"},
                {"type": "audio", "mimeType": "audio/wav", "data": "UklG"},
                {"type": "resource", "resource": {"uri": "file:///a", "mimeType": "text/csv", "text": "1,2"}},
                {"type": "resource", "resource": {"uri": "file:///b", "blob": "AAEC"}},
                {"type": "resource_link", "uri": "file:///c", "name": "c", "mimeType": "text/plain"},
                {"type": "hologram", "depth": 3},
            ],
            "structuredContent": {"n": [1, 2]},
            "isError": True,
        },
        "s",
        1000,
    )
    assert result.content == (
        "a",
        Blob("image/png", b"\x89PN"),
        Blob("audio/wav", b"RIF"),
        Blob("text/csv", b"1,2"),
        Blob("application/octet-stream", b"\x00\x01\x02"),
        ResourceLink("file:///c", "c", "text/plain"),
        '{"type":"hologram","depth":3}',
    )
    assert json.loads(result.structured_json) == {"n": [1, 2]}
    assert result.is_error


@pytest.mark.parametrize(
    "raw", [{"content": 3}, {"content": [{"type": "image", "data": "abc"}]}, {"content": [{"type": "image"}]}]
)
def test_a_result_out_of_shape_is_a_protocol_error(raw: dict[str, object]) -> None:
    with pytest.raises(McpProtocolError):
        result_from_json(raw, "s", 1000)


def test_text_is_cut_between_characters_and_what_follows_is_left_out() -> None:
    raw = {
        "content": [{"type": "text", "text": "é" * 10}, {"type": "text", "text": "more"}],
        "structuredContent": {},
    }
    result = result_from_json(raw, "s", 13)
    assert result.content[0] == "é" * 6
    assert "26 bytes" in str(result.content[1])
    assert len(result.content) == 2
    assert not result.structured_json


def test_hints_and_titles_are_taken_where_they_are_of_their_type() -> None:
    tool = tool_from_json(
        {"name": "t", "annotations": {"title": "T", "readOnlyHint": True, "destructiveHint": "no"}}
    )
    assert tool is not None
    assert (tool.title, tool.read_only, tool.destructive, tool.input_schema_json) == ("T", True, None, "{}")
    assert tool_from_json({"name": ""}) is None
    assert tool_from_json("t") is None
