"""An MCP server on bare stdin and stdout; its tools write down what happens to them, as JSON in FOLDER."""

# A script for a bare Python, one branch for each tool.
# ruff: noqa: ANN001, ANN003, ANN201, C901, PLR0911, PLR0912

import json
import os
import sys
import threading
import time
from pathlib import Path

folder = Path(os.environ["FOLDER"])
speaking = threading.Lock()
meeting = threading.Condition()
present: list[int] = []
cancelled: dict[object, threading.Event] = {}


def note(name, **what):
    """Append a line; one write, so that a kill leaves it whole or not at all."""
    data = json.dumps({"pid": os.getpid(), "time": time.time(), **what}) + "\n"
    out = os.open(folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(out, data.encode())
    os.close(out)


def send(message):
    with speaking:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()


def text(value, **more):
    return {"content": [{"type": "text", "text": value}], **more}


def tool(name, **annotations):
    return {
        "name": name,
        "description": f"The tool {name}.",
        "inputSchema": {"type": "object"},
        "annotations": annotations,
    }


TOOLS = [
    tool("count"),
    tool("count_again", idempotentHint=True),
    tool("look", readOnlyHint=True),
    tool("add", destructiveHint=False),
    tool("wipe", destructiveHint=True),
    tool("hold"),
    tool("hold_again", idempotentHint=True),
    tool("meet", readOnlyHint=True),
    tool("fail"),
    tool("hang"),
    tool("big"),
    tool("steps"),
    tool("sum"),
    tool("picture"),
    tool("die"),
]


def meet(arguments, gone):
    """Wait until so many calls are here at once; say how many there were at most."""
    wanted, most = arguments["of"], 0
    with meeting:
        present.append(1)
        meeting.notify_all()
        end = time.monotonic() + arguments.get("within_s", 5)
        while len(present) < wanted and time.monotonic() < end and most < wanted and not gone.is_set():
            meeting.wait(0.02)
            most = max(most, len(present))
        most = max(most, len(present))
        # Who came last must be seen by all before anybody leaves.
        meeting.notify_all()
    time.sleep(0.1)
    with meeting:
        present.pop()
    return text(f"met {most}")


def answer(key, name, arguments, meta, gone):
    idempotency_key = meta.get("retinue/idempotencyKey")
    if name in ("count", "count_again", "look", "add", "wipe", "hold", "hold_again"):
        note("effects", tool=name, key=idempotency_key, arguments=arguments)
        gone.wait(arguments.get("ms", 0) / 1000)
    if name in ("hold", "hold_again"):
        while not (folder / "release").exists() and not gone.is_set():
            time.sleep(0.01)
        return text("released")
    if name == "meet":
        return meet(arguments, gone)
    if name == "fail":
        return text("the tool is out of order", isError=True)
    if name == "hang":
        note("hanging", key=idempotency_key)
        gone.wait()
        return None
    if name == "big":
        return text(arguments["of"] * arguments["size"])
    if name == "steps":
        for step in range(1, arguments["to"] + 1):
            if "progressToken" in meta:
                params = {"progressToken": meta["progressToken"], "progress": step, "total": arguments["to"]}
                params["message"] = arguments.get("say", "step") * arguments.get("times", 1)
                send({"method": "notifications/progress", "params": params})
        return text("done")
    if name == "sum":
        total = sum(arguments["of"])
        return text(str(total), structuredContent={"total": total})
    if name == "picture":
        image = {"type": "image", "mimeType": "image/png", "data": arguments["base64"]}
        return {"content": [{"type": "text", "text": "here"}, image]}
    if name == "die":
        sys.stderr.write("the server is out of luck\n")
        sys.stderr.flush()
        os._exit(7)
    return text("ok")


def serve(key, params):
    gone = cancelled.setdefault(key, threading.Event())
    try:
        result = answer(key, params["name"], params.get("arguments") or {}, params.get("_meta") or {}, gone)
    except (KeyError, TypeError) as error:
        result = text(f"bad arguments: {error!r}", isError=True)
    if result is not None and not gone.is_set():
        send({"id": key, "result": result})


if "dies" in sys.argv:
    sys.stderr.write("ModuleNotFoundError: No module named 'flux'\n")
    sys.exit(3)
for line in sys.stdin:
    message = json.loads(line)
    key, method, params = message.get("id"), message.get("method"), message.get("params") or {}
    if method == "initialize":
        send(
            {
                "id": key,
                "result": {
                    "protocolVersion": params["protocolVersion"],
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": "tools", "version": "1"},
                },
            }
        )
    elif method == "tools/list":
        send({"id": key, "result": {"tools": TOOLS}})
    elif method == "tools/call":
        cancelled[key] = threading.Event()
        threading.Thread(target=serve, args=(key, params), daemon=True).start()
    elif method == "notifications/cancelled":
        note("cancelled", request=params["requestId"])
        if params["requestId"] in cancelled:
            cancelled[params["requestId"]].set()
    elif key is not None:
        send({"id": key, "error": {"code": -32601, "message": f"no {method}"}})
