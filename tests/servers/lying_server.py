"""An MCP server on bare stdin and stdout whose results are what their calls ask for.

Its argument is its list of tools, as JSON.
"""

import json
import sys
from typing import Any


def answer(method: str, params: dict[str, Any]) -> dict[str, Any]:
    """The result of a request."""
    if method == "initialize":
        info = {"name": "lying", "version": "1"}
        return {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info}
    if method == "tools/list":
        return {"tools": json.loads(sys.argv[1])}
    arguments = params["arguments"]
    structured = arguments.get("structured")
    return {"content": arguments.get("content", [])} | (
        {} if structured is None else {"structuredContent": structured}
    )


if __name__ == "__main__":
    for line in sys.stdin:
        message = json.loads(line)
        if "id" in message:
            result = answer(message["method"], message.get("params") or {})
            sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}) + "\n")
            sys.stdout.flush()
