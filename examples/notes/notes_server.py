"""An MCP server that keeps notes in a text file beside it: the smallest useful server of one's own."""

import os
from pathlib import Path

from mcp.server.mcpserver import MCPServer
from mcp.types import ToolAnnotations

NOTES = Path(os.environ.get("NOTES_FILE", "notes.txt"))

server = MCPServer("notes")


@server.tool(annotations=ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False))
def add_note(text: str) -> str:
    """Keep a note. Lines are notes: a note has one line."""
    with NOTES.open("a", encoding="utf-8") as file:
        file.write(text.replace("\n", " ") + "\n")
    return f"Kept. There are {len(_notes())} notes."


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def list_notes() -> list[str]:
    """All notes, the oldest first."""
    return _notes()


def _notes() -> list[str]:
    return NOTES.read_text(encoding="utf-8").splitlines() if NOTES.exists() else []


if __name__ == "__main__":
    server.run("stdio")
