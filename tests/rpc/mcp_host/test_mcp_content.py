"""What servers have beside tools: resources, prompts, completions, over real connections."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from retinue import errors
from retinue.client.contents import Contents
from retinue.mcphost.v1 import resource_pb2
from retinue_mcp_host.connections.session import UNSUBSCRIBE_S

from .hosting import SOON_S, Host, alive, serve_http, until

SCRIPT = "content_server.py"
REVISIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28")


@pytest.fixture
def contents(host: Host) -> Contents:
    return Contents(host.channel, "default")


async def uris(contents: Contents, server: str, page_size: int = 0) -> list[str]:
    """The addresses of a server's resources."""
    return [each.uri async for each in contents.resources(server, page_size=page_size)]


@asynccontextmanager
async def watching(contents: Contents, server: str, uri: str) -> AsyncIterator["asyncio.Queue[str]"]:
    """Watch a resource while the block runs; what is told comes into the queue."""
    told: asyncio.Queue[str] = asyncio.Queue()

    async def read() -> None:
        async for each in contents.watch(server, uri):
            told.put_nowait(each)

    task = asyncio.create_task(read())
    try:
        assert await next_of(told) == ""
        yield told
    finally:
        task.cancel()
        await asyncio.wait([task])


async def next_of(told: "asyncio.Queue[str]") -> str:
    """What is told next."""
    async with asyncio.timeout(SOON_S):
        return await told.get()


@pytest.mark.parametrize("revision", REVISIONS)
async def test_every_revision_gives_resources_prompts_and_completions(
    host: Host, contents: Contents, revision: str
) -> None:
    host.stdio("docs", SCRIPT, revision)
    first = await anext(contents.resources("docs"))
    assert (first.uri, first.name, first.title, first.mime_type) == ("test://0", "n0", "T", "text/plain")
    assert first.HasField("size_bytes")
    assert await uris(contents, "docs") == [f"test://{number}" for number in range(7)]
    templates = [each.uri_template async for each in contents.templates("docs")]
    assert templates == ["test://{n}"]
    assert [each.text for each in await contents.read("docs", "test://1")] == ["öne"]
    blob = await contents.read("docs", "test://blob")
    assert [(each.data, each.mime_type) for each in blob] == [(b"\0\1", "a/b")]
    prompts = [each async for each in contents.prompts("docs")]
    assert [(each.name, [(a.name, a.required) for a in each.arguments]) for each in prompts] == [
        ("greet", [("who", True)])
    ]
    greeting = await contents.prompt("docs", "greet", {"who": "Ann"})
    assert greeting.description == "Greets"
    assert [each.role for each in greeting.messages] == [
        resource_pb2.PROMPT_ROLE_USER,
        resource_pb2.PROMPT_ROLE_ASSISTANT,
    ]
    assert greeting.messages[0].content.text == "Greet Ann"
    assert greeting.messages[1].content.blob.data == b"png"
    found = await contents.complete("docs", "who", "A", prompt="greet", given={"tone": "kind"})
    assert (found.values[:2], len(found.values), found.total, found.has_more) == (
        ["A0", "A1"],
        100,
        150,
        True,
    )
    asked = json.loads(host.lines("completed")[0])
    assert asked["ref"] == {"type": "ref/prompt", "name": "greet"}
    assert asked["context"] == {"arguments": {"tone": "kind"}}
    with pytest.raises(errors.McpResourceNotFoundError, match="no resource test://9"):
        await contents.read("docs", "test://9")
    async with watching(contents, "docs", "test://1") as told:
        await host.call("docs", "change", '{"uris": ["test://2", "test://1"]}')
        assert await next_of(told) == "test://1"
    await until(lambda: host.lines("unsubscribe") or host.lines("cancelled"), "the watch has ended")


async def test_pages_are_of_the_size_asked_for_whatever_the_servers_own_are(
    host: Host, contents: Contents
) -> None:
    host.stdio("docs", SCRIPT, "malformed")
    assert await uris(contents, "docs", page_size=2) == [f"test://{number}" for number in range(7)]
    assert await uris(contents, "docs", page_size=1000) == [f"test://{number}" for number in range(7)]
    request = resource_pb2.ListResourcesRequest(server={"name": "docs"}, page_size=2)
    page = await contents._stub.ListResources(request)
    assert [each.uri for each in page.resources] == ["test://0", "test://1"]
    request.page_token = "nonsense"
    with pytest.raises(errors.InvalidArgumentError, match="page_token"):
        await host.channel.unary(contents._stub.ListResources, request)


async def test_a_page_is_no_longer_than_a_message_should_be(host: Host, contents: Contents) -> None:
    host.stdio("docs", SCRIPT, "large")
    request = resource_pb2.ListResourcesRequest(server={"name": "docs"}, page_size=1000)
    page = await contents._stub.ListResources(request)
    assert 10 < len(page.resources) < 20
    assert len(await uris(contents, "docs")) == 40


@pytest.mark.parametrize(
    ("way", "error", "match"),
    [
        ("circle", errors.McpProtocolError, "in a circle"),
        ("endless", errors.McpProtocolError, "more than 1000 pages"),
        ("crooked", errors.McpProtocolError, "is no list"),
        ("flood", errors.PayloadTooLargeError, "longer than"),
        ("no-resources", errors.McpCapabilityMissingError, "has no resources"),
    ],
)
async def test_a_list_that_cannot_be_had_is_a_typed_error(
    host: Host, contents: Contents, way: str, error: type[Exception], match: str
) -> None:
    host.stdio("docs", SCRIPT, way)
    with pytest.raises(error, match=match):
        await uris(contents, "docs")
    assert (await host.call("docs", "change")).content[0].text == "done"


async def test_what_a_server_does_not_have_is_told_apart_from_what_it_refuses(
    host: Host, contents: Contents
) -> None:
    host.stdio("docs", SCRIPT, "no-completions", "no-subscribe")
    with pytest.raises(errors.McpCapabilityMissingError) as caught:
        await contents.complete("docs", "who", "", prompt="greet")
    assert caught.value.facts["capability"] == "completions"
    with pytest.raises(errors.McpCapabilityMissingError, match="resource subscriptions"):
        await anext(contents.watch("docs", "test://1"))
    with pytest.raises(errors.McpResourceNotFoundError, match="did you mean greet") as unknown:
        await contents.prompt("docs", "great")
    assert unknown.value.facts["nearest"] == "greet"
    with pytest.raises(errors.McpRequestRefusedError, match="who is missing"):
        await contents.prompt("docs", "greet")
    with pytest.raises(errors.PayloadTooLargeError, match="RETINUE_MAX_RESULT_BYTES"):
        await contents.read("docs", "test://large")
    with pytest.raises(errors.McpProtocolError, match="neither text nor base64"):
        await contents.read("docs", "test://crooked")
    with pytest.raises(errors.InvalidArgumentError, match="uri is empty"):
        await contents.read("docs", "")


async def test_many_watchers_of_a_resource_are_one_subscription(host: Host, contents: Contents) -> None:
    host.stdio("docs", SCRIPT)
    async with watching(contents, "docs", "test://1") as one:
        async with watching(contents, "docs", "test://1") as two:
            await host.call("docs", "change", '{"uris": ["test://1", "test://1/part", "test://11"]}')
            for told in (one, two):
                assert {await next_of(told), await next_of(told)} == {"test://1", "test://1/part"}
        await host.call("docs", "change", '{"uris": ["test://1"]}')
        assert await next_of(one) == "test://1"
        assert host.lines("subscribe") == ["test://1"]
        assert not host.lines("unsubscribe")
    await until(lambda: host.lines("unsubscribe") == ["test://1"], "the last watcher's end ends it")
    async with watching(contents, "docs", "test://1"):
        assert host.lines("subscribe") == ["test://1"] * 2


@pytest.mark.parametrize("revision", ["2025-11-25", "2026-07-28"])
async def test_after_a_lost_connection_a_watch_stands_again_and_tells_one_change(
    host: Host, contents: Contents, revision: str
) -> None:
    host.stdio("docs", SCRIPT, revision)
    async with watching(contents, "docs", "test://1") as told:
        with pytest.raises(errors.McpServerUnavailableError):
            await host.call("docs", "die")
        assert await next_of(told) == "test://1"
        assert len(host.pids()) == 2
        await host.call("docs", "change", '{"uris": ["test://1/new"]}')
        assert await next_of(told) == "test://1/new"


async def test_a_watch_moves_on_to_a_new_version_of_its_server(host: Host, contents: Contents) -> None:
    host.stdio("docs", SCRIPT)
    async with watching(contents, "docs", "test://1") as told:
        host.stdio("docs", SCRIPT, "another")
        await host.call("docs", "change")
        assert await next_of(told) == "test://1"
        assert host.lines("subscribe") == ["test://1"] * 2


async def test_a_watched_connection_is_not_idle(host: Host, contents: Contents) -> None:
    idle = {"nanos": 200_000_000}
    host.stdio("docs", SCRIPT, idle_timeout=idle)
    async with watching(contents, "docs", "test://1") as told:
        host.stdio("other", SCRIPT, idle_timeout=idle)
        await host.call("other", "change")
        first, second = host.pids()
        await until(lambda: not alive(second), "the other one is closed, for it is idle")
        await host.call("docs", "change", '{"uris": ["test://1"]}')
        assert await next_of(told) == "test://1"
        assert alive(first)


async def test_what_a_server_speaks_is_remembered(host: Host, contents: Contents) -> None:
    host.stdio("docs", SCRIPT, "2026-07-28")
    await uris(contents, "docs")
    assert (len(host.lines("initialize")), len(host.lines("discover"))) == (1, 1)
    with pytest.raises(errors.McpServerUnavailableError):
        await host.call("docs", "die")
    await uris(contents, "docs")
    assert (len(host.lines("initialize")), len(host.lines("discover"))) == (1, 2)


async def test_the_revision_of_the_config_is_spoken_first(host: Host, contents: Contents) -> None:
    host.stdio("new", SCRIPT, "2026-07-28", revision="2026-07-28")
    await uris(contents, "new")
    assert (len(host.lines("initialize")), len(host.lines("discover"))) == (0, 1)
    host.stdio("old", SCRIPT, "2025-06-18", revision="2025-03-26")
    await uris(contents, "old")
    (offered,) = host.lines("initialize")
    assert json.loads(offered)["protocolVersion"] == "2025-03-26"
    # What is wrong there costs a question, no more.
    host.stdio("wrong", SCRIPT, "2025-06-18", revision="2026-07-28")
    await uris(contents, "wrong")
    assert json.loads(host.lines("initialize")[-1])["protocolVersion"] == "2025-11-25"


async def test_roots_are_offered_where_the_component_names_some(host: Host) -> None:
    host.stdio("plain", SCRIPT)
    host.stdio("rooted", SCRIPT, roots=["/srv/da ta", "file:///srv/x"])
    await host.list_tools("plain")
    await host.list_tools("rooted")
    plain, rooted = (json.loads(line)["capabilities"] for line in host.lines("initialize"))
    assert "roots" not in plain
    assert rooted["roots"] == {}


async def test_roots_are_listed_for_a_server_that_asks(host: Host) -> None:
    host.stdio("raw", "raw_server.py", roots=["/srv/da ta", "file:///srv/x"])
    asked = await host.call("raw", "ask", '{"requests": [{"method": "roots/list"}]}')
    assert json.loads(asked.content[0].text)["roots/list-0"] == {
        "roots": [
            {"uri": "file:///srv/da%20ta", "name": "da ta"},
            {"uri": "file:///srv/x", "name": "x"},
        ]
    }


async def test_a_server_that_answers_the_handshake_with_a_newer_revision_is_spoken_to_in_that(
    host: Host, contents: Contents
) -> None:
    async with serve_http("content_http.py", "--modern") as (url, _):
        host.http("web", url)
        tools, failures = await host.list_tools("web")
        assert not failures
        # What cannot travel as a header is left out; what is otherwise out of shape loses its schema.
        assert [(tool.name, tool.input_schema_json == "{}") for tool in tools] == [
            ("marked", False),
            ("crooked", True),
        ]
        assert (await host.call("web", "marked", '{"region": "north"}')).content[0].text == "north"
        assert (await host.call("web", "crooked")).content[0].text == "no header"
        (resource,) = [each async for each in contents.resources("web")]
        assert resource.name == "resources/list"
        assert (await contents.read("web", "test://1"))[0].text == "test://1"


async def test_a_server_that_takes_no_level_and_no_unsubscribe_holds_up_nothing(
    host: Host, contents: Contents
) -> None:
    host.stdio("docs", SCRIPT, "deaf")
    async with watching(contents, "docs", "test://1"):
        started = time.monotonic()
        await host.servers.restart("docs")
        assert time.monotonic() - started < UNSUBSCRIBE_S
        first, second = host.pids()
        assert not alive(first)
        assert alive(second)
