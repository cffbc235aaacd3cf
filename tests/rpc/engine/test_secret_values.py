"""No value of a secret is in what Retinue says or keeps, whatever a provider or a server does with it."""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from retinue.engine.v1 import run_pb2
from retinue.errors import RetinueError
from retinue.mcphost.v1 import tool_pb2
from tests.suite import Suite

OpenSuite = Callable[..., Awaitable[Suite]]

OF_LLM, OF_HEADER, OF_SERVER, OF_URL = "sk-of-the-llm", "sk-of-a-header", "sk-of-a-server", "sk-of-http"
VALUES = (OF_LLM, OF_HEADER, OF_SERVER, OF_URL)

BLABBERS = """
import json, os, sys
key = os.environ["KEY"]
print("starting with", key, os.environ["TOKEN"], file=sys.stderr, flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if "id" not in asked:
        continue
    answer = {"jsonrpc": "2.0", "id": asked["id"]}
    if asked["method"] == "initialize":
        answer["result"] = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
                            "serverInfo": {"name": "blabber", "version": "1"}}
    elif asked["method"] == "tools/list" and "fails" not in sys.argv:
        answer["result"] = {"tools": [{"name": "use", "inputSchema": {"type": "object"}}]}
    else:
        answer["error"] = {"code": -32000, "message": "the key " + key + " is refused"}
    print(json.dumps(answer), flush=True)
    if "dies" in sys.argv and asked["method"] == "tools/call":
        sys.exit("died with " + key)
"""


def blabber(*ways: str) -> dict[str, object]:
    """A stdio server that repeats what it was given."""
    env = {"KEY": "${env:OF_SERVER}", "TOKEN": "Bearer ${env:OF_HEADER}"}
    return {"stdio": {"command": sys.executable, "args": ["-S", "-c", BLABBERS, *ways], "env": env}}


@asynccontextmanager
async def repeating() -> AsyncIterator[str]:
    """A provider, and a server, that repeats the headers that it refuses."""

    async def refuse(request: web.Request) -> web.Response:
        said = " ".join(f"{name}={value.removeprefix('Bearer ')}" for name, value in request.headers.items())
        return web.json_response({"error": {"message": f"refused: {said}"}}, status=401)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", refuse)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def said_of(suite: Suite, run_id: str) -> list[str]:
    """All that can be asked about a run that has ended."""
    client = suite.client
    run = await client.runs.get(run_id)
    return [
        *(str(event) for event in await suite.watched(run_id)),
        str(run),
        str(await client.runs.report(run_id)),
        *[str(each) async for each in client.sessions.messages(run.session_id)],
        *[str(each) async for each in client.sessions.export(run.session_id)],
    ]


def files_below(folder: Path) -> bytes:
    """All that is kept on disk."""
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


async def test_no_value_of_a_secret_is_ever_shown_or_kept(
    opened: OpenSuite, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name, value in (("LLM", OF_LLM), ("HEADER", OF_HEADER), ("SERVER", OF_SERVER), ("URL", OF_URL)):
        monkeypatch.setenv(f"OF_{name}", value)
    use = {
        "turns": [{"tool_calls": [{"name": name}]} for name in ("blabs__use", "dies__use")] + [{"text": "x"}]
    }
    async with repeating() as url:
        suite = await opened(
            use,
            llms={
                "refused": {
                    "base_url": f"{url}/v1",
                    "api_key": "${env:OF_LLM}",
                    "headers": {"X-Team": "Bearer ${env:OF_HEADER}"},
                }
            },
            mcp_servers={
                "blabs": blabber(),
                "dies": blabber("dies"),
                "fails": blabber("fails"),
                "http": {
                    "streamable_http": {
                        "url": f"{url}/mcp",
                        "headers": {"Authorization": "Bearer ${env:OF_URL}"},
                    }
                },
            },
            agents={
                "llm": {"llm": "refused"},
                "tools": {"mcp_servers": ["blabs", "dies"]},
                "fails": {"mcp_servers": ["fails"]},
                "http": {"mcp_servers": ["http"]},
            },
        )
        shown: list[str] = []
        for agent in ("llm", "tools", "fails", "http"):
            story = await suite.story(agent)
            failed = story[-1].run_finished.result.state == run_pb2.RUN_STATE_FAILED
            assert failed == (agent != "tools")
            shown += await said_of(suite, story[0].run_id)
        names = ("blabs", "dies", "fails", "http")
        _, failures = await suite.client.tools.list([tool_pb2.ServerRef(name=name) for name in names])
        assert {each.server for each in failures} >= {"fails", "http"}
        shown += map(str, failures)
        for name in names:
            shown.append(str(await suite.client.servers.get(name)))
            shown += [str(each) async for each in suite.client.servers.log(name)]
            with pytest.raises(RetinueError) as caught:
                _ = [each async for each in suite.client.tools.call(name, "use")]
            shown.append(f"{caught.value} {caught.value.facts}")
        shown += [str(each) async for each in suite.client.components.list()]
    # They did speak of it, with the values cut out.
    text = "\n".join(shown)
    for said in ("refused: ", "the key *** is refused", "starting with *** Bearer ***"):
        assert said in text
    kept = files_below(tmp_path)
    assert b"is refused" in kept
    logged = "".join(capfd.readouterr())
    assert "run ended" in logged
    for value in VALUES:
        assert value not in text
        assert value not in logged
        assert value.encode() not in kept
