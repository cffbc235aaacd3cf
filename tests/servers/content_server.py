"""An MCP server on bare stdin and stdout that has resources, prompts, completions and logs.

Its arguments choose what it has and how it lists; it notes in files of TEST_FOLDER what a test asks about.
`change` and `fall_silent` are tools by which a test makes things happen.
"""

import base64
import json
import os
import sys
from pathlib import Path
from typing import Any

WAYS = frozenset(sys.argv[1:])
FOLDER = Path(os.environ["TEST_FOLDER"])
MODERN = "2026-07-28"
REVISION = next((way for way in WAYS if way[:2] == "20"), "2025-11-25")
LISTEN: dict[str, Any] = {"id": None, "uris": set()}
CAPABILITIES: dict[str, Any] = {
    "tools": {},
    "resources": {"subscribe": True, "listChanged": True},
    "prompts": {"listChanged": True},
    "logging": {},
    **({"completions": {}} if REVISION != "2024-11-05" else {}),
}
PAGE = 3
RESOURCES: list[Any] = [
    {"uri": f"test://{number}", "name": f"n{number}", "title": "T", "mimeType": "text/plain", "size": number}
    for number in range(7)
]
MALFORMED: list[Any] = [
    "no object",
    {"name": "no address"},
    {"uri": "test://huge", "description": "x" * 70_000},
]
TEXTS = {"test://0": "zero", "test://1": "öne"}
TOOLS = [{"name": name, "inputSchema": {"type": "object"}} for name in ("change", "log", "die")]


def note(name: str, text: object) -> None:
    """Add a line to a file."""
    with (FOLDER / name).open("a") as file:
        file.write(f"{text}\n")


def send(**message: Any) -> None:
    """Send a message."""
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


class RefusedError(Exception):
    """The request gets an error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def page(params: dict[str, Any], key: str, items: list[Any]) -> dict[str, Any]:
    """A page of a list, as the ways say."""
    begin = int(params.get("cursor", 0))
    note("pages", begin)
    if "circle" in WAYS:
        return {key: items[:1], "nextCursor": "1"}
    if "endless" in WAYS:
        return {key: [], "nextCursor": str(begin + 1)}
    if "crooked" in WAYS:
        return {key: "none"}
    if "large" in WAYS:
        return {key: [{"uri": f"test://{n}", "name": "x" * 60_000} for n in range(40)]}
    if "flood" in WAYS:
        return {key: [{"uri": "test://0", "name": "x" * 17_000_000}]}
    more = {"nextCursor": str(begin + PAGE)} if begin + PAGE < len(items) else {}
    return {key: items[begin : begin + PAGE]} | more


def read(uri: str) -> dict[str, Any]:
    """What a resource holds."""
    if uri == "test://blob":
        return {"contents": [{"uri": uri, "blob": base64.b64encode(b"\0\1").decode(), "mimeType": "a/b"}, 5]}
    if uri == "test://crooked":
        return {"contents": [{"uri": uri, "blob": "a"}]}
    if uri == "test://large":
        return {"contents": [{"uri": uri, "text": "x" * 2_000_000}]}
    if uri not in TEXTS:
        raise RefusedError(-32602 if REVISION == MODERN else -32002, "Resource not found")
    return {"contents": [{"uri": uri, "text": TEXTS[uri], "mimeType": "text/plain"}]}


def prompt(params: dict[str, Any]) -> dict[str, Any]:
    """A prompt, filled in."""
    if params["name"] != "greet":
        raise RefusedError(-32602, "unknown")
    who = params["arguments"].get("who")
    if who is None:
        raise RefusedError(-32602, "who is missing")
    picture = {"type": "image", "data": base64.b64encode(b"png").decode(), "mimeType": "image/png"}
    return {
        "description": "Greets",
        "messages": [
            {"role": "user", "content": {"type": "text", "text": f"Greet {who}"}},
            {"role": "assistant", "content": picture},
            {"role": "system", "content": {}},
        ],
    }


def complete(params: dict[str, Any]) -> dict[str, Any]:
    """Values that begin with what is written."""
    note("completed", json.dumps(params))
    values = [f"{params['argument']['value']}{number}" for number in range(150)]
    return {"completion": {"values": values, "total": 150, "hasMore": True}}


def call(params: dict[str, Any]) -> dict[str, Any]:
    """Make happen what a test wants."""
    arguments = params["arguments"]
    if params["name"] == "die":
        os._exit(3)
    if params["name"] == "log":
        for each in arguments["messages"]:
            send(method="notifications/message", params=each)
    for uri in arguments.get("uris", ()):
        meta = {"_meta": {"io.modelcontextprotocol/subscriptionId": LISTEN["id"]}} if LISTEN["id"] else {}
        send(method="notifications/resources/updated", params={"uri": uri, **meta})
    return {"content": [{"type": "text", "text": "done"}]}


def initialize(params: dict[str, Any]) -> dict[str, Any]:
    """The handshake, or its refusal."""
    note("initialize", json.dumps(params))
    if REVISION == MODERN:
        raise RefusedError(-32022, "too old")
    without = {way.removeprefix("no-") for way in WAYS}
    capabilities = {name: value for name, value in CAPABILITIES.items() if name not in without}
    if "no-subscribe" in WAYS:
        capabilities["resources"] = {}
    return {
        "protocolVersion": REVISION,
        "capabilities": capabilities,
        "serverInfo": {"name": "content", "version": "7"},
        "instructions": "Ask nicely.",
    }


def discover() -> dict[str, Any]:
    """What a server of the newest revision has."""
    note("discover", REVISION)
    if REVISION != MODERN:
        raise RefusedError(-32601, "unknown")
    return {"supportedVersions": [MODERN], "capabilities": CAPABILITIES, "ttlMs": 0, "cacheScope": "private"}


def listen(key: Any, params: dict[str, Any]) -> None:
    """Tell of resources until the request is cancelled (2026-07-28)."""
    wanted = params["notifications"]
    note("listen", json.dumps(wanted))
    if wanted.get("resourceSubscriptions"):
        LISTEN["id"] = key
    meta = {"io.modelcontextprotocol/subscriptionId": key}
    send(method="notifications/subscriptions/acknowledged", params={"notifications": wanted, "_meta": meta})


def answer(method: str, params: dict[str, Any]) -> dict[str, Any]:
    """The result of a request."""
    if method == "initialize":
        return initialize(params)
    if method in ("resources/subscribe", "resources/unsubscribe", "logging/setLevel"):
        note(method.rpartition("/")[2], params.get("uri") or params.get("level"))
        return {}
    found = {
        "server/discover": discover,
        "ping": dict,
        "tools/list": lambda: {"tools": TOOLS, "ttlMs": 0, "cacheScope": "private"},
        "tools/call": lambda: call(params),
        "resources/list": lambda: page(
            params, "resources", [*MALFORMED, *RESOURCES] if "malformed" in WAYS else RESOURCES
        ),
        "resources/templates/list": lambda: page(
            params, "resourceTemplates", [{"uriTemplate": "test://{n}", "name": "any"}, {"name": "none"}]
        ),
        "resources/read": lambda: read(params["uri"]),
        "prompts/list": lambda: page(
            params, "prompts", [{"name": "greet", "arguments": [{"name": "who", "required": True}, {}]}]
        ),
        "prompts/get": lambda: prompt(params),
        "completion/complete": lambda: complete(params),
    }.get(method)
    if found is None:
        raise RefusedError(-32601, f"no {method}")
    return {"resultType": "complete", **found()}


def serve() -> None:
    """Take messages until the end of stdin."""
    note("starts", os.getpid())
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message:
            if message["method"] == "notifications/cancelled":
                note("cancelled", message["params"]["requestId"])
            continue
        params = message.get("params") or {}
        if message["method"] == "subscriptions/listen" and REVISION == MODERN:
            listen(message["id"], params)
            continue
        if "deaf" in WAYS and message["method"] in ("logging/setLevel", "resources/unsubscribe"):
            continue
        try:
            send(id=message["id"], result=answer(message["method"], params))
        except RefusedError as refused:
            send(id=message["id"], error={"code": refused.code, "message": str(refused)})


if __name__ == "__main__":
    serve()
