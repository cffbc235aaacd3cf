"""An MCP server on bare stdin and stdout, for what no SDK would do. Its arguments choose how it behaves.

It notes in files of TEST_FOLDER what a test asks about.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WAYS = frozenset(sys.argv[1:])
FOLDER = Path(os.environ["TEST_FOLDER"])
MODERN = "2026-07-28"


def note(name: str, text: object) -> None:
    """Add a line to a file."""
    with (FOLDER / name).open("a") as file:
        file.write(f"{text}\n")


def write(data: bytes) -> None:
    """Write bytes to stdout, now."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def send(**message: Any) -> None:
    """Send a message."""
    write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")


def text(value: str, **more: Any) -> dict[str, Any]:
    """A result of one text."""
    return {"content": [{"type": "text", "text": value}], "resultType": "complete", **more}


def hang(key: int, _: dict[str, Any]) -> None:
    note("hanging", key)


def bad_bytes(key: int, _: dict[str, Any]) -> None:
    write(b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"a\xffb"}]}}\n' % key)


def die(_key: int, _: dict[str, Any]) -> None:
    sys.stderr.write("out of luck\n")
    sys.stderr.flush()
    os._exit(7)


def rename(_key: int, _: dict[str, Any]) -> dict[str, Any]:
    LISTED[0]["name"] = "shout"
    send(method="notifications/tools/list_changed")
    return text("renamed")


def twice(key: int, _: dict[str, Any]) -> None:
    send(id=key, result=text("first"))
    send(id=key, result=text("second"))
    send(id=987654, result={})


def ask(key: int, params: dict[str, Any]) -> None:
    """Send the requests of the arguments; their answers are the result. Without an `id` they get one."""
    asked = params["arguments"].get("requests", [{"method": "ping"}, {"method": "roots/wonder"}])
    for number, request in enumerate(asked):
        name = request.pop("id", f"{request['method']}-{number}")
        ASKING[name] = key
        send(id=name, **request)


def ask_late(key: int, params: dict[str, Any]) -> None:
    send(id=key, result=text("done"))
    ask(key, params)


def ask_hugely(key: int, params: dict[str, Any]) -> None:
    message = "x" * params["arguments"]["size"]
    request = {"method": "elicitation/create", "params": {"message": message, "requestedSchema": {}}}
    ask(key, {"arguments": {"requests": [request]}})


def take_back(_key: int, params: dict[str, Any]) -> dict[str, Any]:
    """Take back a request of another call; without one, end the calls whose requests were taken back."""
    name = params["arguments"].get("id")
    if name:
        send(method="notifications/cancelled", params={"requestId": name})
        TAKEN_BACK.append(ASKING.pop(name))
    else:
        for key in TAKEN_BACK:
            send(id=key, result=text("took it back"))
    return text("done")


def rounds(_key: int, params: dict[str, Any]) -> dict[str, Any]:
    """Ask by results, as the arguments say for each round, and tell what came back."""
    number = int(params.get("requestState", "0"))
    left = params["arguments"]["rounds"]
    if number < len(left):
        return {"resultType": "input_required", "requestState": str(number + 1), **left[number]}
    return text(json.dumps(params.get("inputResponses")))


def pid(_key: int, _: dict[str, Any]) -> dict[str, Any]:
    return text(str(os.getpid()))


def flood(_key: int, params: dict[str, Any]) -> dict[str, Any]:
    """Write so many bytes that are no MCP, in lines of a length; 0 is one line of all."""
    size, line = params["arguments"]["size"], params["arguments"].get("line", 0)
    if not line:
        write(b"x" * size + b"\n")
    else:
        piece = (b"x" * (line - 1) + b"\n") * (65536 // line)
        for _ in range(size // len(piece)):
            write(piece)
    return text("done")


def change_often(_key: int, params: dict[str, Any]) -> dict[str, Any]:
    """Say again and again that the list of tools has changed."""
    for _ in range(params["arguments"]["times"]):
        send(method="notifications/tools/list_changed")
    return text("done")


def hang_up(_key: int, _: dict[str, Any]) -> None:
    """Write half an answer and close stdout, but go on."""
    write(b'{"jsonrpc":"2.0","id":')
    os.close(1)


def complain(_key: int, params: dict[str, Any]) -> dict[str, Any]:
    """Write on stderr."""
    sys.stderr.write(params["arguments"]["text"] + "\n")
    sys.stderr.flush()
    return text("done")


def refuse(key: int, _: dict[str, Any]) -> None:
    send(id=key, error={"code": -32602, "message": "size must be a number"})


def big(_key: int, params: dict[str, Any]) -> dict[str, Any]:
    return text("x" * params["arguments"]["size"])


def echo(_key: int, params: dict[str, Any]) -> dict[str, Any]:
    return text(params["arguments"].get("text", ""))


def gather(key: int, params: dict[str, Any]) -> None:
    """Keep the calls until there are so many, then answer all of them by one write."""
    GATHERED[key] = params["arguments"]["text"]
    if len(GATHERED) == params["arguments"]["of"]:
        answers = [{"jsonrpc": "2.0", "id": each, "result": text(said)} for each, said in GATHERED.items()]
        write(b"".join(json.dumps(each).encode() + b"\n" for each in answers))


def env(_key: int, _: dict[str, Any]) -> dict[str, Any]:
    return text(json.dumps(dict(os.environ)))


def meta(_key: int, params: dict[str, Any]) -> dict[str, Any]:
    return text(json.dumps(params.get("_meta")), structuredContent={"raw": params["arguments"]})


def ask_back(_key: int, _: dict[str, Any]) -> dict[str, Any]:
    return {"resultType": "input_required", "inputRequests": {}}


TOOLS: dict[str, Callable[[int, dict[str, Any]], dict[str, Any] | None]] = {
    each.__name__: each
    for each in (
        *(echo, gather, hang, big, bad_bytes, die, env, rename, meta, twice, refuse),
        *(pid, flood, change_often, hang_up, complain),
        *(ask, ask_back, ask_late, ask_hugely, take_back, rounds),
    )
}
LISTED: list[dict[str, Any]] = [
    *({"name": name, "inputSchema": {"type": "object"}} for name in TOOLS),
    {"name": "crooked", "inputSchema": "not a schema"},
    {"title": "nameless"},
]
PAGE = 3
ASKING: dict[str, int] = {}
"""The calls in which requests were sent, by the requests' ids."""
TAKEN_BACK: list[int] = []
GATHERED: dict[int, str] = {}
"""What the calls that wait for others are to say."""
ANSWERS: dict[int, dict[str, Any]] = {}
"""What was answered, by the calls' ids."""


def initialize(params: dict[str, Any]) -> dict[str, Any]:
    return {
        "protocolVersion": params["protocolVersion"],
        "capabilities": {"tools": {"listChanged": True}},
        "serverInfo": {"name": "raw", "version": "1"},
    }


def discover() -> dict[str, Any]:
    return {
        "supportedVersions": [MODERN],
        "capabilities": {"tools": {}},
        "resultType": "complete",
        "ttlMs": 0,
        "cacheScope": "private",
    }


def listing(params: dict[str, Any]) -> dict[str, Any]:
    note("lists", params)
    more = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"} if "modern" in WAYS else {}
    if "circle" in WAYS:
        return {"tools": LISTED, "nextCursor": "again"}
    if "pages" in WAYS:
        begin = int(params.get("cursor", 0))
        end = begin + PAGE
        return {"tools": LISTED[begin:end]} | ({"nextCursor": str(end)} if end < len(LISTED) else {})
    return {"tools": LISTED, **more}


def answer(key: int, method: str, params: dict[str, Any]) -> None:
    """Answer a request."""
    result: dict[str, Any] | None
    if method == "initialize" and "modern" in WAYS:
        code = -32020 if "by-its-headers" in WAYS else -32022
        send(id=key, error={"code": code, "message": "too old", "data": {"supported": [MODERN]}})
        return
    if "modern" in WAYS and params["_meta"]["io.modelcontextprotocol/protocolVersion"] != MODERN:
        send(id=key, error={"code": -32600, "message": "who asks?"})
        return
    if method == "initialize":
        result = initialize(params)
    elif method == "server/discover" and "modern" in WAYS:
        result = discover()
    elif method == "tools/list":
        result = listing(params)
    elif method == "tools/call":
        result = TOOLS[params["name"]](key, params)
    else:
        send(id=key, error={"code": -32601, "message": f"no {method}"})
        return
    if result is not None:
        send(id=key, result=result)


def take_answer(name: str, outcome: Any) -> None:
    """Take an answer; the last of a call is its end."""
    note("answers", json.dumps({name: outcome}))
    if name not in ASKING:
        return
    key = ASKING.pop(name)
    ANSWERS.setdefault(key, {})[name] = outcome
    if key not in ASKING.values():
        send(id=key, result=text(json.dumps(ANSWERS.pop(key))))


def serve() -> None:
    """Take messages until the end of stdin."""
    for line in sys.stdin:
        message = json.loads(line)
        if "mute" in WAYS:
            continue
        if "method" not in message:
            take_answer(message["id"], message.get("result", message.get("error")))
        elif "id" in message:
            answer(message["id"], message["method"], message.get("params") or {})
        elif message["method"] == "notifications/cancelled":
            note("cancelled", message["params"]["requestId"])


def escape() -> None:
    """Start a process that keeps nothing of its ancestors: no parent, session, group or environment."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            note("children", os.getpid())
            os.execve("/bin/sleep", ["sleep", "600"], {})
        os._exit(0)
    os.wait()


def main() -> None:
    """Begin as the ways say, serve, end."""
    note("starts", os.getpid())
    if "escapes" in WAYS:
        escape()
    if "flaky" in WAYS and (FOLDER / "broken").exists():
        sys.exit("it does not work today")
    if "dies" in WAYS:
        sys.exit("Traceback (most recent call last):\nModuleNotFoundError: No module named 'flux'")
    if "mute" in WAYS:
        sys.stderr.write("loading the model, please wait\n")
        sys.stderr.flush()
    if "stubborn" in WAYS:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "parent" in WAYS:
        note("children", subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL).pid)
    if "garbage" in WAYS:
        write(b"Starting up...\n\xff\xfe\x00 not json\n{broken\n[]\n42\n\n")
    serve()
    if "stubborn" in WAYS:
        time.sleep(600)


if __name__ == "__main__":
    main()
