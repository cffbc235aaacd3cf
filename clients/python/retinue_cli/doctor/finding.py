"""One thing that the doctor looked at."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """Worth knowing; nothing that is configured to run needs it."""
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, what was found, and what to do about it."""

    level: Level
    area: str
    """`service`, `store`, `project`, `llm`, `mcp_server`."""
    subject: str
    found: str
    todo: str = ""
    """The next step; empty where all is well."""


def ok(area: str, subject: str, found: str) -> Finding:
    return Finding(Level.OK, area, subject, found)


def warning(area: str, subject: str, found: str, todo: str) -> Finding:
    return Finding(Level.WARNING, area, subject, found, todo)


def problem(area: str, subject: str, found: str, todo: str) -> Finding:
    return Finding(Level.PROBLEM, area, subject, found, todo)
